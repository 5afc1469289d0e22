"""init_lokr_norm: where a fresh LoKr starts when it starts from noise, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tuner.adapters import create_trainable
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.errors import ConfigError
from tuner.randomness import normal_tensor
from tuner.testing.minimal import minimal_facts

FACTS = minimal_facts()
SETTINGS = {"algo": "lokr", "multiplier": 1.0, "linear_alpha": 1, "factor": 4, "full_matrix": True}


class Net(nn.Module):
    """A linear layer and a convolution whose weights have means far from 0."""

    def __init__(self):
        super().__init__()
        values = torch.Generator().manual_seed(1)
        self.wide = nn.Linear(48, 32)
        self.conv = nn.Conv2d(16, 32, 3)
        for number, layer in enumerate((self.wide, self.conv), 1):
            layer.weight.data = torch.randn(layer.weight.shape, generator=values) * 0.3 * number + 0.5 * number

    def forward(self, x):
        return self.wide(x)


def make(net, norm, dtype=torch.float32, seed=7, fresh=True, preset=None, **settings):
    preset = preset or {"target_module": ["Linear", "Conv2d"]}
    return create_trainable(
        model_type="lora",
        adapter=AdapterConfig(lora_type="lycoris", lycoris_config="lokr.json", init_lokr_norm=norm),
        lycoris=LycorisConfig(**{**SETTINGS, **settings}, apply_preset=preset),
        facts=FACTS,
        denoiser=net,
        dtype=dtype,
        seed=seed,
        fresh=fresh,
    )


@pytest.mark.parametrize("bypass", [True, False])
@pytest.mark.parametrize("norm", [1e-4, 0.5])
def test_first_values_have_the_statistics_of_the_base_weights(norm, bypass):
    net = Net()
    state = make(net, norm, bypass_mode=bypass).state()
    for name, weight in (("wide", net.wide.weight), ("conv", net.conv.weight)):
        assert torch.equal(state[f"lycoris_{name}.lokr_w1"], torch.ones(4, 4))
        second = state[f"lycoris_{name}.lokr_w2"]
        torch.testing.assert_close(second.std(), weight.std() * norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(second.mean(), weight.mean() * norm, rtol=1e-5, atol=0)


def test_first_values_follow_the_steps_of_the_formula():
    """Norm, deviation, mean, share, one after the other as people describe them, give the closed form."""
    net = Net()
    state = make(net, 1e-2).state()
    weight = net.conv.weight.detach()
    z = normal_tensor((8, 4, 3, 3), 7, "lokr norm", sample="conv")
    z = z * weight.norm() / z.norm()
    z = z * weight.std() / z.std()
    z = (z - z.mean() + weight.mean()) * 1e-2
    torch.testing.assert_close(state["lycoris_conv.lokr_w2"], z, rtol=1e-5, atol=1e-8)


def test_literal_values():
    """w2 of a 4 x 4 layer of 1 ... 16: mean 8.5, deviation 4.7609523, of which it has a tenth."""
    net = nn.Sequential(nn.Linear(4, 4))
    net[0].weight.data = torch.arange(1.0, 17.0).view(4, 4)
    second = make(net, 0.1, preset={"target_module": ["Linear"]}, factor=2).state()["lycoris_0.lokr_w2"]
    assert second.shape == (2, 2)
    assert second.mean().item() == pytest.approx(0.85, rel=1e-6)
    assert second.std().item() == pytest.approx(0.47609523, rel=1e-6)


def test_bfloat16_rounds_the_same_values():
    net = Net()
    exact = make(net, 1e-4).state()
    rounded = make(Net().to(torch.bfloat16), 1e-4, torch.bfloat16).state()
    assert torch.equal(rounded["lycoris_wide.lokr_w1"], torch.ones(4, 4, dtype=torch.bfloat16))
    second = rounded["lycoris_wide.lokr_w2"]
    assert second.dtype == torch.bfloat16
    # The base weights are rounded too, and so are their statistics: a few parts in 256.
    torch.testing.assert_close(second.float(), exact["lycoris_wide.lokr_w2"], rtol=2**-6, atol=1e-7)
    assert second.float().std().item() == pytest.approx(net.wide.weight.std().item() * 1e-4, rel=2**-8)


def test_draws_are_keyed_by_seed_and_layer():
    first = make(Net(), 1e-2, seed=5).state()
    torch.manual_seed(123)
    alone = make(Net(), 1e-2, seed=5, preset={"target_module": ["Conv2d"]}).state()
    other = make(Net(), 1e-2, seed=6).state()
    key = "lycoris_conv.lokr_w2"
    assert torch.equal(first[key], alone[key])
    assert not torch.allclose(first[key], other[key])


@pytest.mark.parametrize("bypass", [True, False])
def test_the_first_outputs_shift_by_the_kronecker_product(bypass):
    net, x = Net(), torch.linspace(-1, 1, 96).view(2, 48)
    with torch.no_grad():
        base = net(x)
        state = make(net, 1e-2, bypass_mode=bypass).state()
        shift = x @ torch.kron(torch.ones(4, 4), state["lycoris_wide.lokr_w2"]).T
        assert shift.abs().max() > 1e-3
        torch.testing.assert_close(net(x), base + shift, rtol=1e-5, atol=1e-5)


def test_a_trained_scalar_keeps_the_first_outputs():
    net, x = Net(), torch.linspace(-1, 1, 96).view(2, 48)
    with torch.no_grad():
        base = net(x)
        state = make(net, 1e-2, use_scalar=True).state()
        assert torch.equal(net(x), base)
    assert state["lycoris_wide.scalar"] == 0
    torch.testing.assert_close(state["lycoris_wide.lokr_w2"].std(), net.wide.weight.std() * 1e-2, rtol=1e-5, atol=0)


def test_a_share_of_nothing_starts_from_the_base():
    state = make(Net(), 0.0).state()
    assert torch.equal(state["lycoris_wide.lokr_w1"], torch.ones(4, 4))
    assert not state["lycoris_wide.lokr_w2"].any()


def test_without_it_lycoris_own_values_stay():
    plain = make(Net(), None).state()
    assert not plain["lycoris_wide.lokr_w2"].any()
    resumed = make(Net(), 1e-2, fresh=False).state()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("settings", "matrix"),
    [
        ({"full_matrix": False, "linear_dim": 2}, "lokr_w2_a"),
        ({"full_matrix": False, "linear_dim": 1, "decompose_both": True}, "lokr_w1_a"),
    ],
)
def test_low_rank_matrices_are_refused(settings, matrix):
    with pytest.raises(ConfigError) as raised:
        make(Net(), 1e-4, **settings)
    (problem,) = raised.value.problems
    assert problem.key == "init_lokr_norm"
    assert f"2 of 2 layers have low-rank ones, the first is wide ({matrix})" in problem.message
    # The larger side of w2 is 48 / 4 = 12, of which a rank of half is enough.
    assert problem.remedy == "set full_matrix to true or linear_dim to 6 or more in lokr.json, or leave it out"
    make(Net(), 1e-4, **{**settings, "linear_dim": 6})
    make(Net(), 1e-4, fresh=False, **settings)


def test_one_low_rank_layer_is_named():
    with pytest.raises(ConfigError, match=r"1 of 2 layers have low-rank ones, the first is conv \(lokr_w2_a\)"):
        make(Net(), 1e-4, preset={"module_algo_map": {"Linear": {}, "Conv2d": {"full_matrix": False, "linear_dim": 1}}})
