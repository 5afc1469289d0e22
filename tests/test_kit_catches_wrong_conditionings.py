"""The conformance kit catches what makes conditionings wrong, and lets their rows differ in length."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TRIMMED = """
        @hookimpl
        def encode_prompt(components, prompts, role):
            full = sound.encode_prompt(components, prompts, role)
            mask = full["prompt_attention_mask"]
            longest = int(mask.sum(dim=1).max())
            full["prompt_embeds"] = full["prompt_embeds"] * mask.unsqueeze(-1)
            return {name: rows[:, :longest] for name, rows in full.items()}
"""


def filled_up_with(mask: float) -> str:
    """A family whose rows differ in length, and what fills up the mask of shorter ones."""
    return f"""
        {TRIMMED.strip()}

        @hookimpl
        def describe_family():
            padding = {{"prompt_embeds": 0.0, "prompt_attention_mask": {mask}}}
            return replace(sound.describe_family(), conditioning_padding=padding)
    """


# Name -> the mistake, and the proof that fails.
BROKEN: dict[str, tuple[str, str]] = {
    "shorter_rows_filled_up_with_what_is_heard": (
        filled_up_with(mask=1.0),
        "test_filling_up_shorter_rows_changes_nothing",
    ),
    "rows_of_different_length_that_nothing_fills_up": (TRIMMED, "test_rows_of_different_prompts_stack"),
    "empty_caption_of_another_dtype": (
        """
        @hookimpl
        def encode_prompt(components, prompts, role):
            conditioning = sound.encode_prompt(components, prompts, role)
            if role != "unconditional":
                return conditioning
            return {**conditioning, "prompt_embeds": conditioning["prompt_embeds"].bfloat16()}
        """,
        "test_the_empty_caption_can_replace_any",
    ),
    "cache_loses_precision_that_encoding_has": (
        """
        @hookimpl
        def encode_prompt(components, prompts, role):
            conditioning = sound.encode_prompt(components, prompts, role)
            noise = 1e-3 * torch.randn_like(conditioning["prompt_embeds"])
            return {**conditioning, "prompt_embeds": conditioning["prompt_embeds"] + noise}
        """,
        "test_a_cached_conditioning_is_the_encoded_one",
    ),
    "cuts_prompts_before_their_limit": (
        """
        from tuner.types import PromptLimit

        @hookimpl
        def describe_family():
            return replace(sound.describe_family(), prompt_limits=lambda options: (PromptLimit("tokenizer", 400),))
        """,
        "test_prompts_are_cut_where_the_facts_say",
    ),
    "limits_prompts_of_no_tokenizer": (
        """
        from tuner.types import PromptLimit

        @hookimpl
        def describe_family():
            return replace(sound.describe_family(), prompt_limits=lambda options: (PromptLimit("tokens", 300),))
        """,
        "test_prompt_limits_are_well_formed",
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_it_is_caught(kit, mistake):
    code, proof = BROKEN[mistake]
    assert kit.run_with(mistake, code, proof).failed == {proof}


def test_rows_of_different_length_pass(kit):
    outcome = kit.run_with("trimmed", filled_up_with(mask=0.0), "test_batches or test_text")
    assert not outcome.failed
    assert not outcome.skipped
    assert {"test_padding_has_no_effect", "test_filling_up_shorter_rows_changes_nothing"} <= outcome.passed
