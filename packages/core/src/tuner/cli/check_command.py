"""The command `tuner check`: configuration and data sets, for people or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tuner.config.arguments import parse_settings
from tuner.config.loading import LoadedConfig, find_config, load_config
from tuner.errors import ConfigError, DatasetError, TunerError

if TYPE_CHECKING:
    from tuner.config.run import RunConfig
    from tuner.data.doctor.finding import Finding
    from tuner.data.plan import Plan

OPTIONS = {
    "check": {
        "--strict": "fail on warnings as well as on errors",
        "--json": "print one JSON object instead of text",
        "--explain KEY": "say only what setting KEY means, what its value is and where that comes from",
    }
}
"""Command -> its options beside settings -> what they do."""


@dataclass
class Report:
    """What is known so far; whatever stops the check, this much can be shown.

    Attributes:
        loaded: The configuration, once it was read.
        plan: The plan, once it was made.
        evaluation: The plan of what is evaluated with, if there is any.
        findings: What was found.
        exit_code: 0 in order, 1 errors in the data, 2 errors in the configuration.
    """

    loaded: LoadedConfig | None = None
    plan: Plan | None = None
    evaluation: Plan | None = None
    findings: list[Finding] = field(default_factory=list)
    exit_code: int = 0


def check(arguments: Sequence[str]) -> int:
    """Check configuration and data sets; show the plan, what was found and the receipt.

    Args:
        arguments: Options of this command, a configuration file and settings, in any order.

    Returns:
        0 in order, 1 errors in the data, with --strict also for warnings.

    Raises:
        ConfigError: The configuration is wrong.
        DatasetError: A data set has nothing to train on.
    """
    options, settings = parse_options(arguments)
    report = Report()
    try:
        request = parse_settings(settings)
        report.loaded = load_config(find_config(request.config, request.environment), request.overrides)
        if options.explain:
            from tuner.config.explain import explain

            print(explain(report.loaded, options.explain))
            return 0
        _examine(report, options.strict)
    except TunerError as error:
        if options.json:
            report.findings += _as_findings(error)
            report.exit_code = error.exit_code
            print(json.dumps(as_json(report), indent=2))
        raise
    print(json.dumps(as_json(report), indent=2) if options.json else as_text(report))
    return report.exit_code


def parse_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take this command's own options out of `arguments`; also return the rest."""
    parser = argparse.ArgumentParser(prog="tuner check", add_help=False, allow_abbrev=False)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--explain", metavar="KEY")
    return parser.parse_known_args(arguments)


def _examine(report: Report, strict: bool) -> None:
    """Fill in the plan, the findings and the exit code."""
    from tuner.cli.check_surroundings import surroundings
    from tuner.data.doctor.examination import examine
    from tuner.data.doctor.finding import has_errors
    from tuner.tracking.bars import reporting
    from tuner.training.planning import Planner, mask_folders, open_index, side_limit
    from tuner.training.sources import resolve_source, tokenizers_at_hand
    from tuner.validation.pictures import check_sides

    loaded = report.loaded
    assert loaded is not None
    facts = loaded.family.facts
    report.findings += [*_of_the_configuration(loaded), *surroundings(loaded.config)]
    config, absent = _at_hand(loaded.config)
    report.findings += absent
    source = resolve_source(config.model, facts)
    limit = side_limit(source, facts, download=False)
    check_sides(loaded, limit)
    with closing(open_index(config)) as index:
        planner = Planner(config, facts, config.model.seed, index, limit)
        if config.eval_datasets:
            report.evaluation = planner.evaluation()
        if config.datasets:
            plan = report.plan = planner.training()
            report.findings += examine(
                config,
                facts,
                plan,
                index,
                tokenizers=tokenizers_at_hand(source, facts),
                mask_folders=mask_folders(config),
                bar=reporting,
            )
    report.exit_code = int(has_errors(report.findings, strict))


def _at_hand(config: RunConfig) -> tuple[RunConfig, list[Finding]]:
    """Put what was fetched before in the place of data sets that are not local; nothing is fetched.

    Raises:
        ConfigError: Such a data set cannot be fetched as it is configured.
    """
    from tuner.data.doctor.finding import Finding
    from tuner.training.fetching import pictures_at_hand

    found = pictures_at_hand(config, fetch=False)
    findings = []
    for name, kind in found.absent:
        reason = f"its pictures ({kind}) were not fetched yet, so they were not checked"
        findings.append(Finding("note", "not fetched", name, reason, "`tuner cache` fetches them"))
    return found.config, findings


def _of_the_configuration(loaded: LoadedConfig) -> list[Finding]:
    from tuner.data.doctor.finding import Finding

    warnings = [Finding("warning", "configuration", "", line, "") for line in loaded.warnings]
    unread = [
        Finding("note", "no effect", key, f"has no effect in this run: {reason}", "")
        for key, reason in loaded.unread.items()
    ]
    return [*warnings, *unread]


def _as_findings(error: TunerError) -> list[Finding]:
    from tuner.data.doctor.finding import Finding

    if not isinstance(error, ConfigError):
        message, _, remedy = str(error).partition("\n    -> ")
        return [Finding("error", "data" if isinstance(error, DatasetError) else "failure", "", message, remedy)]
    return [
        Finding(
            "error",
            "configuration",
            ": ".join(part for part in (problem.file, problem.key) if part),
            problem.message,
            problem.remedy or "",
        )
        for problem in error.problems
    ]


def as_text(report: Report) -> str:
    """Return a report for people."""
    from tuner.data.doctor.finding import format_findings, summary
    from tuner.data.doctor.sizes import describe_length
    from tuner.data.report import format_buckets, format_plan

    loaded, plan = report.loaded, report.plan
    assert loaded is not None
    optimisation, entry = loaded.config.optimisation, loaded.family.entry
    lines = [
        f"configuration: {', '.join(map(str, loaded.files)) or 'command line'}",
        f"family:        {loaded.family.facts.title}, {entry.package} {entry.version}",
    ]
    if plan:
        length = describe_length(plan, optimisation.max_train_steps, optimisation.num_train_epochs)
        lines += [format_buckets(plan), length]
    if report.evaluation:
        lines += ["", "to evaluate with:", format_plan(report.evaluation)]
    lines += ["", *format_findings(report.findings)]
    found = summary(report.findings)
    if any(finding.kind == "no effect" for finding in report.findings):
        lines.append("`tuner check --explain KEY` tells more about a setting")
    lines.append(f"found: {found}" if found else "everything that can be checked without loading a model is in order")
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values; what is not known is None or empty."""
    from tuner.config.receipt import settings_receipt
    from tuner.data.doctor.finding import findings_as_json
    from tuner.data.doctor.sizes import length_as_json
    from tuner.data.report import plan_as_json

    values: dict[str, Any] = dict.fromkeys(("configuration", "family", "plan", "length", "evaluation"))
    receipt: list[dict[str, Any]] = []
    if report.loaded:
        loaded = report.loaded
        facts, entry, optimisation = loaded.family.facts, loaded.family.entry, loaded.config.optimisation
        values["configuration"] = [str(path) for path in loaded.files]
        values["family"] = {
            "name": facts.name,
            "title": facts.title,
            "package": entry.package,
            "version": entry.version,
        }
        rows = settings_receipt(loaded.config, loaded.given, facts, loaded.unread, loaded.secrets)
        receipt = [asdict(row) for row in rows]
        if report.evaluation:
            values["evaluation"] = plan_as_json(report.evaluation)
        if report.plan:
            values["plan"] = plan_as_json(report.plan)
            values["length"] = length_as_json(report.plan, optimisation.max_train_steps, optimisation.num_train_epochs)
    findings = findings_as_json(report.findings)
    return {**values, "findings": findings, "receipt": receipt, "exit_code": report.exit_code}
