"""Write docs/support-matrix.md: which quantised bases are proven with which family. `--check` only compares.

The page is written from the same policies that make the conformance kit's proofs, so it holds just what CI runs.
Run with everything installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pages import write_or_compare
from tuner.plugins import Family, create_manager, import_family, installed_families
from tuner.quantisation.schemes import SCHEMES
from tuner.testing.quantising import ADAPTERS, DTYPES, cells
from tuner.types import Part

PAGE = Path(__file__).parents[1] / "docs" / "support-matrix.md"

HEAD = """# Quantised base models: what is proven

<!-- Written by scripts/support_matrix.py; `make matrix` writes it anew. -->

`base_model_precision` stores the linear layers of the frozen denoiser in fewer bits, and `text_encoder_1_precision` to
`text_encoder_4_precision` those of the text encoders, in the family's order. A LoRA or LoKr trains on top in the format
of `mixed_precision`, and its file loads on the published model as well as on a quantised one. LyCORIS adapters then
always work in bypass mode.

Each cell below that names adapters is run by the conformance kit (`test_quantised.py`), on a CPU, on the family's twin:

- the velocity is that of ordinary layers with the rounded values, within 1e-5 in float32 and 3% in bfloat16, and off
  from the published weights' by no more than the scheme's bound;
- the gradients of each kind of adapter are those on such ordinary layers, within 1e-5 in float32 and 10% in bfloat16;
- encoders give the conditionings of ordinary layers with the rounded values, within 4 times these bounds.

What is refused is refused whatever else is set. What is discouraged works, but another format is better in every
respect, so it runs only with `i_know_what_i_am_doing`. The kit does not prove it for the family; tests on a small
network do, and a run of Sana's twin on `int2-quanto` is resumed exactly. What was never tried needs
`i_know_what_i_am_doing` too. On a GPU the same layers are computed by other kernels, which CI does not run.
"""


def main() -> int:
    """Write the page, or compare it; return 1 if it is out of date."""
    return write_or_compare(PAGE, "\n".join(_page()), "matrix")


def _page() -> Iterator[str]:
    entries = {entry.target: entry for entry in installed_families().values()}
    families = sorted(map(import_family, entries.values()), key=lambda family: family.facts.title)
    yield HEAD
    yield "## Formats\n"
    yield "| format | library | `pip install` | bits | bound of the error | input features | devices |"
    yield "|---|---|---|---|---|---|---|"
    for scheme in SCHEMES.values():
        fits = f"multiples of {scheme.multiple}" if scheme.multiple > 1 else "any"
        yield (
            f"| `{scheme.name}` | {scheme.library.package} | `tuner-core[{scheme.library.extra}]` | {scheme.bits} | "
            f"{scheme.error:g} | {fits} | {', '.join(scheme.devices)} |"
        )
    yield "\nLayers of other sizes stay as they are, and so do the delicate ones that a family names.\n"
    parts: dict[str, Part] = {"Denoisers": "denoiser", "Text encoders": "text_encoders"}
    for title, part in parts.items():
        yield f"## {title}\n"
        yield "| format | " + " | ".join(family.facts.title for family in families) + " |"
        yield "|---" * (len(families) + 1) + "|"
        for name in SCHEMES:
            yield f"| `{name}` | " + " | ".join(_cell(family, part, name) for family in families) + " |"
        yield ""
    yield "## Why formats are refused or discouraged\n"
    yield from _refusals(families)
    yield ""


def _cell(family: Family, part: Part, scheme: str) -> str:
    policy = create_manager(family).hook.quantisation_policy(options=family.facts.options()).parts.get(part)
    if policy is None or (part == "text_encoders" and not family.facts.text_encoder_folders):
        return "none there" if part == "text_encoders" else "refused"
    if scheme in policy.refused or scheme in policy.discouraged:
        return "refused" if scheme in policy.refused else "discouraged"
    proven = [cell.mixed_precision for cell in cells(family, part) if cell.scheme == scheme]
    if not proven:
        return "untried"
    adapters = {"standard": "LoRA", "lokr": "LoKr"}
    kinds = " and ".join(adapters[name] for name in ADAPTERS) if part == "denoiser" else "yes"
    names = (str(DTYPES[name]).removeprefix("torch.") for name in DTYPES if name in proven)
    return f"{kinds}, {' and '.join(names)}"


def _refusals(families: list[Family]) -> Iterator[str]:
    refused: dict[tuple[str, str], list[str]] = {}
    for scheme in SCHEMES:
        titles: dict[str, list[str]] = {}
        for family in families:
            policy = create_manager(family).hook.quantisation_policy(options=family.facts.options())
            given = ({**rules.discouraged, **rules.refused}.get(scheme) for rules in policy.parts.values())
            for reason in {reason for reason in given if reason}:
                titles.setdefault(reason, []).append(family.facts.title)
        for reason, names in titles.items():
            refused.setdefault((", ".join(names), reason), []).append(f"`{scheme}`")
    for (names, reason), schemes in refused.items():
        shown = "every format" if len(schemes) == len(SCHEMES) else ", ".join(schemes)
        yield f"- {names}: {shown}: {reason}."


if __name__ == "__main__":
    sys.exit(main())
