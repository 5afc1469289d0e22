"""Conditionings can be cached one prompt at a time, and padding means nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tuner.data.doctor.tokens import count_tokens, prompt_limits
from tuner.randomness import normal_tensor
from tuner.testing.family import LONG_PROMPT, PROMPTS, SHORT_PROMPT, FamilyUnderTest, relative_error
from tuner.types import Conditioning, Role


@pytest.mark.parametrize("role", ["caption", "negative", "unconditional"])
def test_a_prompt_is_encoded_alone_as_beside_others(family: FamilyUnderTest, role: Role) -> None:
    """Rows of a batch are the conditionings of its prompts, but for padding, whatever stands beside them."""
    prompts = ("",) if role == "unconditional" else PROMPTS
    together = family.encode(prompts, role)
    for index, prompt in enumerate(prompts):
        alone = family.encode([prompt], role)
        assert alone.keys() == together.keys()
        for name, tensor in together.items():
            own = _padded(family, name, alone[name], tensor)
            _assert_same_row(tensor[index : index + 1], own, f"{name} of {prompt!r}")


def test_roles_give_the_same_shapes(family: FamilyUnderTest) -> None:
    """The empty caption can replace any caption in a batch."""
    shapes = [_shapes(family, family.encode([""], role)) for role in ("unconditional", "negative", "caption")]
    assert shapes[0] == shapes[1] == shapes[2]


@torch.no_grad()
def test_a_short_prompt_does_not_hear_a_long_one(family: FamilyUnderTest) -> None:
    """Padded beside a long prompt, a short one has the velocity that it has alone."""
    batch = family.batch((0.5, 0.5), [SHORT_PROMPT, LONG_PROMPT])
    alone = replace(
        batch, x=batch.x[:1], sigma=batch.sigma[:1], target=batch.target[:1], conditioning=family.encode([SHORT_PROMPT])
    )
    assert relative_error(family.predict(batch).velocity[:1], family.predict(alone).velocity) <= 1e-5


@torch.no_grad()
def test_padding_has_no_effect(family: FamilyUnderTest) -> None:
    """Garbage where `conditioning_masks` says padding changes no velocity."""
    batch = family.batch((0.5, 0.5), [SHORT_PROMPT, LONG_PROMPT])
    expected = family.predict(batch).velocity
    for name, tensor, padding in _masked(family, batch.conditioning):
        assert bool(padding.any()), f"no part of {name} is padding for {SHORT_PROMPT!r}: its mask shows nothing"
        garbage = torch.where(padding, _garbage(tensor), tensor)
        spoilt = replace(batch, conditioning={**batch.conditioning, name: garbage})
        error = relative_error(family.predict(spoilt).velocity, expected)
        assert error <= 1e-6, f"garbage in the padding of {name} changes the velocity by {error:.1e}"


def test_prompts_are_cut_where_the_facts_say(family: FamilyUnderTest) -> None:
    """The last letter of the longest prompt that fits counts, and one beyond the limit of every tokenizer is lost."""
    tokenizers = family.components.tokenizers
    limits = prompt_limits(family.facts, family.facts.options(), tokenizers)
    cut = [limit for limit in limits if limit.cut]

    def beyond(letters: int) -> list[bool]:
        prompt = ["x" * letters]
        return [count_tokens(tokenizers[limit.tokenizer], limit, prompt)[0] > limit.tokens for limit in cut]

    longest = 4 * max((limit.tokens for limit in limits), default=100)
    fitting = bisect_left(range(longest), True, key=lambda letters: any(beyond(letters))) - 1
    assert _hears_the_end(family, fitting), f"the last of {fitting} letters is lost, though it is within every limit"
    if cut:
        spilling = bisect_left(range(longest), True, key=lambda letters: all(beyond(letters)))
        assert not _hears_the_end(family, spilling), f"the last of {spilling} letters counts, though it is beyond"


def _hears_the_end(family: FamilyUnderTest, letters: int) -> bool:
    """Say whether the last letter of a prompt of this length changes its conditioning."""
    one, other = (family.encode(["x" * (letters - 1) + last]) for last in "xy")
    return any(not torch.equal(one[name], other[name]) for name in one)


def _masked(family: FamilyUnderTest, conditioning: Conditioning) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each padded tensor with where it is padding, broadcastable to it."""
    for name, mask_name in family.facts.conditioning_masks.items():
        tensor, mask = conditioning[name], conditioning[mask_name]
        assert tensor.shape[: mask.ndim] == mask.shape, f"{mask_name} does not fit {name}"
        yield name, tensor, mask.view(*mask.shape, *[1] * (tensor.ndim - mask.ndim)) == 0


def _garbage(tensor: Tensor) -> Tensor:
    """Return other values of the kind that `tensor` holds: token ids that exist, or large numbers."""
    if tensor.is_floating_point():
        return 10 * tensor.abs().max().clamp_min(1) * normal_tensor(tensor.shape, 0, "garbage").to(tensor.dtype)
    return tensor.flatten().roll(tensor.shape[-1] // 2 + 1).view_as(tensor)


def _assert_same_row(row: Tensor, alone: Tensor, what: str) -> None:
    if row.is_floating_point():
        error = relative_error(row, alone)
        assert error <= 1e-5, f"{what} differs by {error:.1e} in a batch"
    else:
        assert torch.equal(row, alone), f"{what} differs in a batch"


def _shapes(family: FamilyUnderTest, conditioning: Conditioning) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor, without the length of those whose rows may differ in it."""
    free = {name: 2 if name in family.facts.conditioning_padding else 1 for name in conditioning}
    return {name: tuple(tensor.shape[free[name] :]) for name, tensor in conditioning.items()}


def _padded(family: FamilyUnderTest, name: str, alone: Tensor, together: Tensor) -> Tensor:
    """Fill the end of a shorter row as the core does, where `conditioning_padding` allows it to be shorter."""
    if name not in family.facts.conditioning_padding:
        return alone
    shape = (1, together.shape[1] - alone.shape[1], *alone.shape[2:])
    fill = alone.new_full(shape, family.facts.conditioning_padding[name])
    return torch.cat([alone, fill], dim=1)
