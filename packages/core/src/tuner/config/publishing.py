"""Where results and news of a run are sent."""

from __future__ import annotations

from typing import Any

from tuner.config.settings import NOT_YET, Topic, setting

_NO_UPLOAD = f"{NOT_YET}: nothing is uploaded"


class PublishingConfig(Topic):
    """Uploads to the hub, and webhooks."""

    push_to_hub: bool = setting(False, "Upload the result.", unread=_NO_UPLOAD)
    push_checkpoints_to_hub: bool = setting(False, "Upload every checkpoint.", unread=_NO_UPLOAD)
    hub_model_id: str | None = setting(
        None, "Repository that is uploaded to.", needs={"push_to_hub": (True,)}, unread=_NO_UPLOAD
    )
    webhook_config: str | dict[str, Any] | list[dict[str, Any]] | None = setting(
        None, "Webhook, list of webhooks, or a file that holds them."
    )
