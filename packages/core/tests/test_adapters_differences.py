"""What an adapter adds, from the tensors of its file, against LyCORIS' own modules."""

import pytest
import torch
from lycoris.modules.lokr import LokrModule
from torch import nn

from tuner.adapters.differences import difference, scaled
from tuner.adapters.lokr import saved_tensors
from tuner.errors import ExportError
from tuner.randomness import normal_tensor


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_dim": 10000, "factor": 4},
        {"lora_dim": 2, "alpha": 3, "factor": 4},
        {"lora_dim": 2, "alpha": 3, "factor": 8, "decompose_both": True},
        {"lora_dim": 2, "alpha": 3, "factor": 4, "full_matrix": True},
    ],
)
def test_a_lokr_adds_what_lycoris_adds(settings):
    layer = nn.Linear(64, 32)
    module = LokrModule("lycoris_a", layer, **settings)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(normal_tensor(weight.shape, 0, name))
    tensors = saved_tensors(module)
    wanted = module.get_weight(layer.weight.shape).detach()
    torch.testing.assert_close(difference(tensors), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(difference(scaled(tensors, 0.25)), 0.25 * wanted, rtol=1e-6, atol=1e-6)


def test_loras_and_full_differences():
    up, down = normal_tensor((8, 2), 0, "up"), normal_tensor((2, 4), 0, "down")
    lora = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(6.0)}
    torch.testing.assert_close(difference(lora), 3 * up @ down)
    torch.testing.assert_close(difference(scaled(lora, 2.0)), 6 * up @ down)
    assert torch.equal(difference({"diff": up.bfloat16()}), up.bfloat16().float())
    assert torch.equal(difference(scaled({"diff": up}, 2.0)), 2 * up)


def test_what_is_not_known_is_not_guessed():
    odd = {"a1.weight": torch.zeros(2, 2)}
    assert difference(odd) is None
    assert difference({"lokr_w1": torch.zeros(2, 2)}) is None
    assert difference({"diff": torch.zeros(2, 2, 1, 1)}) is None
    with pytest.raises(ExportError, match=r"a1\.weight has a multiplier"):
        scaled(odd, 0.5)
