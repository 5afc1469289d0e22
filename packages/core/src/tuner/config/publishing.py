"""Where results and news of a run are sent."""

from __future__ import annotations

import re
from typing import Any

from pydantic import field_validator

from tuner.config.settings import Topic, setting

_PUSHED = {"push_to_hub": (True,)}

LONGEST_NAME = 96
"""Most characters of a repository's name on the hub, and of an owner's."""

_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


class PublishingConfig(Topic):
    """Uploads to the hub, and webhooks."""

    push_to_hub: bool = setting(False, "Upload the result, its model card and the last validation pictures to the hub.")
    push_checkpoints_to_hub: bool = setting(
        False, "Also upload the weights of every checkpoint, without optimizer states.", needs=_PUSHED
    )
    hub_model_id: str | None = setting(
        None,
        "Repository that is uploaded to: owner/name, or a name below one's own account; made from family, adapter and "
        "output folder if not given.",
        needs=_PUSHED,
    )
    webhook_config: str | dict[str, Any] | list[dict[str, Any]] | None = setting(
        None, "Webhook, list of webhooks, or a file that holds them."
    )

    @field_validator("hub_model_id")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and (problem := name_problem(value)):
            raise ValueError(f"{value!r} {problem}")
        return value


def name_problem(name: str) -> str | None:
    """Say which of the hub's rules for names of repositories a name breaks, or return None.

    Args:
        name: "owner/name", or the name alone.
    """
    parts = name.split("/")
    if len(parts) > 2:
        return "is neither owner/name nor a name alone; leave out the hub's address"
    if any(len(part) > LONGEST_NAME for part in parts):
        return f"has a part of more than {LONGEST_NAME} characters"
    if not all(_PART.fullmatch(part) for part in parts):
        return "must consist of letters, digits, '-', '_' and '.', with no '-' or '.' at either end of a part"
    if "--" in name or ".." in name:
        return "holds '--' or '..', which the hub does not allow"
    if name.endswith(".git"):
        return "ends in .git, which the hub does not allow"
    return None


def safe_repository_name(text: str) -> str:
    """Turn any text into the name of a repository that the hub allows."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    name = re.sub(r"\.*-[-.]*|\.{2,}", "-", name)[:LONGEST_NAME].strip("-.")
    while name.endswith(".git"):
        name = name.rpartition(".")[0].strip("-.")
    return name or "model"
