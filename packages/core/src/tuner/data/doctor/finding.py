"""What a check of data sets finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tuner.data.report import counted, shortened

Severity = Literal["error", "warning", "note"]
"""error: training would not start or would be wrong; warning: likely a mistake; note: good to know."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""


Bar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""(description, unit) -> a progress bar, entered for a function that is called with (done, total)."""


def no_bar(description: str, unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Show no progress."""
    return nullcontext(lambda done, total: None)


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: How bad it is.
        kind: Short name of the check, for programs.
        where: The data set or setting concerned; empty where the reason names it.
        reason: What was found.
        remedy: What to do about it; empty where the reason says it.
        examples: All pictures, captions or files concerned, or what tells most about them.
    """

    severity: Severity
    kind: str
    where: str
    reason: str
    remedy: str
    examples: tuple[str, ...] = ()


def format_findings(findings: Sequence[Finding]) -> list[str]:
    """Return lines for people, the worst findings first."""
    lines = []
    for finding in sorted(findings, key=lambda item: SEVERITIES.index(item.severity)):
        examples = f" ({shortened(finding.examples)})" if finding.examples else ""
        place = f"{finding.where}: " if finding.where else ""
        lines.append(f"{finding.severity}: {place}{finding.reason}{examples}")
        if finding.remedy:
            lines.append(f"    -> {finding.remedy}")
    return lines


def findings_as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as JSON values, in the order in which they were found."""
    return [{**asdict(finding), "examples": list(finding.examples)} for finding in findings]


def summary(findings: Iterable[Finding]) -> str:
    """Return how many there are of each severity, such as "1 error, 2 warnings"; empty if there are none."""
    numbers = Counter(finding.severity for finding in findings)
    return ", ".join(counted(numbers[severity], severity) for severity in SEVERITIES if numbers[severity])


def has_errors(findings: Iterable[Finding], strict: bool) -> bool:
    """Say whether something must be mended: an error, or also a warning where `strict`."""
    return any(finding.severity == "error" or (strict and finding.severity == "warning") for finding in findings)
