from __future__ import annotations

import pytest
import torch

from tuner.randomness import normal_tensor
from tuner_hidream import plugin
from tuner_hidream.balance import expert_usage, load_balance
from tuner_hidream.facts import HiDreamOptions

NO_PADDING = slice(0, 0)


@pytest.fixture
def balanced(load_hidream):
    def load(weight=0.01, use=True):
        options = HiDreamOptions(hidream_use_load_balancing_loss=use, hidream_load_balancing_loss_weight=weight)
        components = load_hidream({"denoiser"}, options=options)
        components.denoiser.train().requires_grad_(True)
        return components

    return load


def gates(components):
    return [module for module in components.denoiser.modules() if type(module).__name__ == "MoEGate"]


def expected_loss(components, batch, keep):
    """The sum over the mixtures, in plain Python, from what their routers hear."""
    heard = []
    hooks = [
        gate.register_forward_pre_hook(lambda gate, inputs: heard.append((gate, inputs[0])))
        for gate in gates(components)
    ]
    with torch.no_grad():
        plugin.compute_loss(components, batch)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for gate, states in heard:
        tokens = [state for row in states for position, state in enumerate(row) if keep(position)]
        shares, slots = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for token in tokens:
            scores = (gate.weight @ token).detach().double().softmax(0)
            shares += scores / len(tokens)
            slots[scores.topk(2).indices] += 4 / (2 * len(tokens))
        total += float((shares * slots).sum())
    return total


def test_equally_busy_experts_give_one():
    scores = torch.full((1, 8, 4), 0.25)
    chosen = torch.tensor([[0, 1], [2, 3]] * 4).view(1, 8, 2)
    assert load_balance(scores, chosen, NO_PADDING).item() == 1.0


def test_a_single_busy_expert_gives_the_number_of_experts():
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(2, 8, 4)
    chosen = torch.zeros(2, 8, 1, dtype=torch.long)
    assert load_balance(scores, chosen, NO_PADDING).item() == 4.0


def test_padding_does_not_count():
    scores = normal_tensor((2, 8, 4), 0, "scores").softmax(-1)
    chosen = scores.topk(2, dim=-1).indices
    spoilt_scores, spoilt_chosen = scores.clone(), chosen.clone()
    spoilt_scores[:, 3:6], spoilt_chosen[:, 3:6] = 7.0, 0
    keep = [0, 1, 2, 6, 7]
    expected = load_balance(scores[:, keep], chosen[:, keep], NO_PADDING)
    assert torch.equal(load_balance(spoilt_scores, spoilt_chosen, slice(3, 6)), expected)


@pytest.mark.parametrize("weight", [0.01, 0.2])
@pytest.mark.parametrize(("width", "padding"), [(8, range(0)), (12, range(24, 256))])
def test_the_loss_is_the_weighted_sum_over_the_mixtures(balanced, make_batch, weight, width, padding):
    components, batch = balanced(weight), make_batch(width=width)
    loss = plugin.compute_loss(components, batch).auxiliary["load_balance"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        weight * expected_loss(components, batch, lambda at: at not in padding), rel=1e-5
    )


def test_a_router_that_knows_nothing_gives_about_one_per_mixture(balanced, make_batch):
    components = balanced(1.0)
    for gate in gates(components):
        torch.nn.init.normal_(gate.weight, std=1e-4, generator=torch.manual_seed(0))
    loss = plugin.compute_loss(components, make_batch()).auxiliary["load_balance"]
    assert loss.item() == pytest.approx(3.0, rel=1e-3)


def test_the_gradient_reaches_the_routers_and_evens_them_out(balanced, make_batch):
    components, batch = balanced(1.0), make_batch()
    before = plugin.compute_loss(components, batch).auxiliary["load_balance"]
    before.backward()
    weights = [gate.weight for gate in gates(components)]
    assert all(weight.grad.abs().max() > 0 for weight in weights)
    with torch.no_grad():
        for weight in weights:
            weight.sub_(0.1 * weight.grad)
    assert plugin.compute_loss(components, batch).auxiliary["load_balance"] < before


def test_checkpointing_changes_neither_the_loss_nor_a_gradient(balanced, make_batch):
    results = []
    for checkpointing in (False, True):
        components = balanced(1.0)
        if checkpointing:
            components.denoiser.enable_gradient_checkpointing()
        for _ in range(2):  # a second step must not hear of the first one's recomputation
            components.denoiser.zero_grad()
            prediction = plugin.compute_loss(components, make_batch())
            loss = prediction.auxiliary["load_balance"]
            (prediction.velocity.square().mean() + loss).backward()
        results.append((loss.detach(), {name: p.grad for name, p in components.denoiser.named_parameters()}))
    (plain, gradients), (again, recomputed) = results
    assert torch.equal(plain, again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-9)


def test_predictions_without_gradients_have_none_and_leave_no_trace(balanced, make_batch):
    components = balanced()
    before = plugin.compute_loss(components, make_batch()).auxiliary["load_balance"]
    with torch.no_grad():
        assert not plugin.compute_loss(components, make_batch()).auxiliary
    assert torch.equal(plugin.compute_loss(components, make_batch()).auxiliary["load_balance"], before)


def test_the_velocity_is_the_same_with_and_without(balanced, make_batch):
    without = plugin.compute_loss(balanced(use=False), make_batch())
    assert not without.auxiliary
    assert torch.equal(plugin.compute_loss(balanced(), make_batch()).velocity, without.velocity)


def test_usage_counts_slots_and_leaves_padding_out():
    chosen_BSK = torch.tensor([[[0, 1], [0, 1], [3, 3]]])
    assert expert_usage(4, chosen_BSK, slice(2, 3)).tolist() == [2.0, 2.0, 0.0, 0.0]
    assert expert_usage(4, chosen_BSK, slice(3, 3)).sum() == 4.0
