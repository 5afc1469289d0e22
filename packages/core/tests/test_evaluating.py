"""A model that is sampled from."""

import pytest
import torch
from torch import nn

from tuner.validation.sampling import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_inside_as_one_that_was_loaded_to_sample_and_afterwards_what_it_was(training):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).train(training)
    model[0].requires_grad_(False)
    calls = []
    model[1].weight.register_post_accumulate_grad_hook(calls.append)
    before = [value.requires_grad for value in model.parameters()]
    with pytest.raises(ValueError, match="in between"), evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        assert not any(value.requires_grad for value in model.parameters())
        raise ValueError("in between")
    assert model.training is training
    assert [value.requires_grad for value in model.parameters()] == before
    model(torch.ones(1, 2)).sum().backward()
    assert len(calls) == 1  # what releases gradients still hears of them
