"""Rescaled guidance, against the formula written out, and that nothing of it stays behind."""

import numpy as np
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from tuner.randomness import normal_tensor
from tuner.types import Guidance
from tuner.validation.rescaling import rescale, rescaled_guidance

PROMPT, NEGATIVE = (normal_tensor((2, 4, 6, 6), seed, "answer") * scale for seed, scale in ((1, 1.0), (2, 0.5)))
SCALE, SHARE = 5.0, 0.7


class Echo(nn.Module):
    """Gives back what it gets, as diffusers' networks do."""

    def forward(self, x, return_dict=True):
        return Transformer2DModelOutput(sample=x.clone()) if return_dict else (x.clone(), "second")


def by_hand(strength, share=SHARE):
    """Equations 15 and 16 for each sample, in float64."""
    c, u = (answer.double().numpy() for answer in (PROMPT, NEGATIVE))
    guided = c + strength * (c - u)
    return np.stack([share * g * (p.std() / g.std()) + (1 - share) * g for g, p in zip(guided, c, strict=True)])


def combined(prompt, negative, strength):
    return (prompt + strength * (prompt - negative)).numpy()


def test_the_formula():
    guided = PROMPT + 4 * (PROMPT - NEGATIVE)
    np.testing.assert_allclose(rescale(guided, PROMPT, SHARE), by_hand(4), rtol=1e-5, atol=1e-6)
    assert torch.equal(rescale(guided, PROMPT, 0.0), guided)
    spread = rescale(guided, PROMPT, 1.0).std(dim=(1, 2, 3))
    torch.testing.assert_close(spread, PROMPT.std(dim=(1, 2, 3)))
    assert torch.equal(rescale(torch.zeros(1, 4), torch.zeros(1, 4), 1.0), torch.zeros(1, 4))


@pytest.mark.parametrize("return_dict", [False, True])
@pytest.mark.parametrize("order", ["negative_first", "prompt_first"])
def test_two_halves_of_one_call(order, return_dict):
    network = Echo()
    first, second = (PROMPT, NEGATIVE) if order == "prompt_first" else (NEGATIVE, PROMPT)
    with rescaled_guidance(network, Guidance(order), scale=SCALE, share=SHARE):
        output = network(torch.cat([first, second]), return_dict)
    halves = output[0].chunk(2)
    prompt, negative = halves if order == "prompt_first" else halves[::-1]
    np.testing.assert_allclose(combined(prompt, negative, SCALE - 1), by_hand(SCALE - 1), rtol=1e-4, atol=1e-5)
    if return_dict:
        assert output.sample is output[0]
    else:
        assert output[1] == "second"


def test_a_call_for_each():
    network = Echo()
    with rescaled_guidance(network, Guidance("two_calls", neutral_scale=0.0), scale=SCALE, share=SHARE):
        for _ in range(3):
            prompt, negative = network(PROMPT).sample, network(NEGATIVE).sample
            np.testing.assert_allclose(combined(prompt, negative, SCALE), by_hand(SCALE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scale", "share"), [(1.0, 0.7), (0.0, 0.7), (5.0, 0.0)])
def test_nothing_to_rescale_changes_nothing(scale, share):
    network, both = Echo(), torch.cat([NEGATIVE, PROMPT])
    with rescaled_guidance(network, Guidance(), scale=scale, share=share):
        assert torch.equal(network(both).sample, both)


def test_the_network_is_left_as_it_was():
    network, both = Echo(), torch.cat([NEGATIVE, PROMPT])
    with pytest.raises(RuntimeError), rescaled_guidance(network, Guidance(), scale=SCALE, share=SHARE):
        assert not torch.equal(network(both).sample, both)
        raise RuntimeError
    assert torch.equal(network(both).sample, both)
