"""The data sheet, the options and the policy are well-formed. Nothing here needs a twin or weights."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import pydantic
import pytest

from tuner.data.doctor.tokens import prompt_limits
from tuner.testing.family import PARTS, SHORT_PROMPT, FamilyUnderTest
from tuner.types import Part, QuantisationPolicy

_HEAVY = ("torch", "diffusers", "transformers")


def test_flavours_name_hub_repositories(family: FamilyUnderTest) -> None:
    """There is a default flavour, and each flavour is an `owner/name`."""
    facts = family.facts
    assert facts.default_flavour in facts.flavours
    malformed = [flavour.repo for flavour in facts.flavours.values() if flavour.repo.strip("/").count("/") != 1]
    assert not malformed, f"not of the form owner/name: {malformed}"


def test_parts_have_folders(family: FamilyUnderTest) -> None:
    """`part_folders` says where each part is read from; only text encoders may be missing."""
    folders = family.facts.part_folders
    assert {"denoiser", "codec", "scheduler"} <= folders.keys() <= set(PARTS)
    empty = [part for part in ("denoiser", "codec", "scheduler") if not folders[part]]
    assert not empty, f"part_folders names no folder for {empty}"


def test_sizes_fit_each_other(family: FamilyUnderTest) -> None:
    """Every picture of aligned sides is a whole number of tokens."""
    facts = family.facts
    cell = facts.latent_stride * facts.patch_size
    assert facts.pixel_alignment % cell == 0, (
        f"pixel_alignment ({facts.pixel_alignment}) must be a multiple of latent_stride * patch_size ({cell})"
    )
    assert facts.canvas_limit is None or facts.canvas_limit >= facts.pixel_alignment**2
    assert facts.token_limit is None or facts.token_limit > 0


def test_original_names_are_one_to_one(family: FamilyUnderTest) -> None:
    """`original_layers` gives each layer one name, with the same numbers in it."""
    entries = family.facts.original_layers
    layers = [layer for entry in entries for layer in entry.layers]
    assert len(set(layers)) == len(layers), "a layer stands in two entries"
    assert len({entry.original for entry in entries}) == len(entries), "two entries have the same original name"
    uneven = [
        entry.original for entry in entries if {_numbers(name) for name in entry.layers} != {_numbers(entry.original)}
    ]
    assert not uneven, f"{uneven} differ in their numbers from their layers"


def _numbers(name: str) -> int:
    return name.count("{}")


def test_prompt_limits_are_well_formed(family: FamilyUnderTest) -> None:
    """Limits of prompts belong to tokenizers among the folders of the text encoders, and hold the prompt itself."""
    facts = family.facts
    for limit in prompt_limits(facts, facts.options(), ()):
        assert limit.tokenizer in facts.part_folders.get("text_encoders", ()), f"no folder {limit.tokenizer}"
        assert limit.tokens > 0
        assert limit.text is None or SHORT_PROMPT in limit.text(SHORT_PROMPT), "text must hold the prompt"


def test_describing_the_family_imports_nothing_heavy(family: FamilyUnderTest) -> None:
    """The command line can describe the family at once."""
    code = (
        "import sys; from tuner.plugins import load_family; load_family(sys.argv[1]); "
        f"print(*[name for name in {_HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, family.name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"describe_family, or importing the plugin, imports {done.stdout.strip()}"


def test_options_have_defaults(family: FamilyUnderTest) -> None:
    """A run that sets none of the family's options is a valid one."""
    assert isinstance(family.facts.options(), pydantic.BaseModel)


def test_unknown_option_is_refused(family: FamilyUnderTest) -> None:
    """A misspelt option stops a run instead of being ignored."""
    with pytest.raises(pydantic.ValidationError):
        family.facts.options.model_validate({"no_such_option": 1})


def test_quantisation_policy_is_well_formed(family: FamilyUnderTest) -> None:
    """The policy speaks of parts that exist, allows something for each and gives a reason for every refusal."""
    policy = family.hooks.quantisation_policy(options=family.facts.options())
    assert isinstance(policy, QuantisationPolicy)
    assert policy.parts.keys() <= set(get_args(Part))
    for part, rules in policy.parts.items():
        assert "no_change" in rules.allowed, f"{part}: a part can always be left as it is"
        without = [*rules.refused, *rules.discouraged]
        assert len({*rules.allowed, *without}) == len(rules.allowed) + len(without), f"{part}: a value is of two kinds"
        for scheme, reason in (*rules.refused.items(), *rules.discouraged.items()):
            assert len(reason.split()) >= 4, f"{part}: people who ask for {scheme} must be told why not, not {reason!r}"
