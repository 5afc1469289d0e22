"""One optimizer after the other against its formula, written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from tuner.optim.optimizers import create_optimizer, reported


def steps(name, start, gradients, lr=1e-2, **arguments):
    """Yield the weights after each step."""
    parameter = Parameter(start.float())
    optimizer = create_optimizer(name, [("p", parameter)], lr, torch.float32, arguments)
    for gradient in gradients:
        parameter.grad = gradient.float()
        optimizer.step()
        yield parameter.detach().double(), optimizer


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


ADAMS = {
    "adamw_bf16": ((0.9, 0.999), 0.01, 1e-6),
    "optimi-adamw": ((0.9, 0.99), 0.0, 1e-6),
    "bnb-adamw8bit": ((0.9, 0.999), 0.01, 1e-6),
    "ao-adamw8bit": ((0.9, 0.999), 0.01, 1e-6),
    "torch.optim.AdamW": ((0.9, 0.999), 0.01, 1e-8),
}


@pytest.mark.parametrize("name", ADAMS)
def test_adamw(name):
    (beta1, beta2), decay, eps = ADAMS[name]
    p, gradients = draw(7), draw(4, 7)[1:]
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t, (found, _) in enumerate(steps(name, p, gradients), start=1):
        gradient = gradients[t - 1]
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        p = p * (1 - 1e-2 * decay)
        p = p - 1e-2 * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        torch.testing.assert_close(found, p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["optimi-lion", "bnb-lion8bit-paged"])
def test_lion(name):
    """Chen et al., https://arxiv.org/abs/2302.06675."""
    p, gradients = draw(7), draw(4, 7)[1:]
    m = torch.zeros_like(p)
    for gradient, (found, _) in zip(gradients, steps(name, p, gradients), strict=True):
        p = p - 1e-2 * torch.sign(0.9 * m + 0.1 * gradient)
        m = 0.99 * m + 0.01 * gradient
        torch.testing.assert_close(found, p, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "decay"), [("bnb-adamw8bit", 0.01), ("ao-adamw8bit", 0.01), ("bnb-lion8bit-paged", 0)]
)
def test_blocks_of_8_bits_follow_the_formula_closely(name, decay):
    p, gradients = draw(64, 128), draw(3, 64, 128)[1:]
    m, v, start = torch.zeros_like(p), torch.zeros_like(p), p
    for t, (found, _) in enumerate(steps(name, start, gradients), start=1):
        gradient = gradients[t - 1]
        if "lion" in name:
            update = torch.sign(0.9 * m + 0.1 * gradient)
            m = 0.99 * m + 0.01 * gradient
        else:
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            update = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-6)
        p = p * (1 - 1e-2 * (0.0 if "lion" in name else 0.01)) - 1e-2 * update
        # The first update is made before anything is rounded to 8 bits.
        error = (found - p).abs()
        assert error.max() < 1e-6 if t == 1 else error.mean() < 0.05 * 1e-2


def test_stable_adamw():
    """Wortsman et al., https://arxiv.org/abs/2304.13013: AdamW with Adafactor's clipping of updates."""
    p, gradients = draw(7), draw(4, 7)[1:] * torch.tensor([1.0, 9.0, 1.0]).unsqueeze(1)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    clipped = 0
    for t, (found, _) in enumerate(steps("optimi-stableadamw", p, gradients), start=1):
        gradient = gradients[t - 1]
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.99**t)
        rms = (gradient**2 / v_hat.clamp(min=1e-12)).mean().sqrt().item()
        clipped += rms > 1.01
        rate = 1e-2 / max(1.0, rms)
        p = p * (1 - rate * 0.01) - rate * m_hat / (v_hat.sqrt() + 1e-6)
        torch.testing.assert_close(found, p, rtol=1e-5, atol=1e-6)
    assert clipped


def test_adafactor():
    """Shazeer and Stern, https://arxiv.org/abs/1804.04235, algorithm 5."""
    p, gradients = draw(6, 4), draw(4, 6, 4)[1:]
    row, column = torch.zeros(6, 1, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    for t, (found, _) in enumerate(steps("adafactor", p, gradients), start=1):
        gradient, beta2 = gradients[t - 1], 1 - t**-0.8
        row = beta2 * row + (1 - beta2) * (gradient**2).mean(dim=1, keepdim=True)
        column = beta2 * column + (1 - beta2) * (gradient**2).mean(dim=0, keepdim=True)
        update = gradient / (row * column / row.mean()).sqrt()
        update = update / max(1.0, update.square().mean().sqrt().item())
        p = p - min(1e-2, t**-0.5) * max(1e-3, p.square().mean().sqrt().item()) * update
        torch.testing.assert_close(found, p, rtol=1e-5, atol=1e-6)


def test_prodigy():
    """Mishchenko and Defazio, https://arxiv.org/abs/2306.06101, on every 11th weight, growing by 2^(1/4) at most."""
    # Exact in bf16, in which the first weights and the denominator's sums are kept.
    p = (draw(23) * 8).round() / 8
    gradients = [(draw(23) * 8).round() / 8] * 8
    p0, m, v, s = p[::11], torch.zeros_like(p), torch.zeros_like(p), torch.zeros(3, dtype=torch.float64)
    (_, optimizer), *_ = steps("prodigy", p, gradients, lr=1.0)
    assert optimizer.param_groups[0]["d0"] == 1e-6
    d = d0 = 1e-3
    numerator, beta3 = 0.0, 0.99**0.5
    for gradient, (found, optimizer) in zip(gradients, steps("prodigy", p, gradients, 1.0, d0=d0), strict=True):
        m, v = 0.9 * m + 0.1 * d * gradient, 0.99 * v + 0.01 * d**2 * gradient**2
        update = m / (v.sqrt() + d * 1e-8)
        update = update / update.square().mean().sqrt().clamp(min=1).sqrt()
        weight = d**2 / d0**0.5
        gained = weight * float(gradient[::11] @ (p0 - p[::11]))
        s = beta3 * s + weight * gradient[::11]
        p = p - d * update
        numerator = beta3 * numerator + (gained if d > d0 or gained > 0 else 0.0)
        d = max(d, min(d * 2**0.25, numerator / float(s.abs().sum())))
        assert reported("prodigy", optimizer)["d"].item() == pytest.approx(d, rel=1e-2)
        torch.testing.assert_close(found - p, torch.zeros_like(p), rtol=0, atol=1e-3 * d)
    assert d > 2 * d0


def test_arguments_replace_defaults():
    plain, *_ = steps("optimi-adamw", torch.ones(3), [torch.ones(3)])
    decayed, *_ = steps("optimi-adamw", torch.ones(3), [torch.ones(3)], weight_decay="0.5")
    torch.testing.assert_close(plain[0] - decayed[0], torch.full((3,), 0.005, dtype=torch.float64), rtol=1e-3, atol=0)
