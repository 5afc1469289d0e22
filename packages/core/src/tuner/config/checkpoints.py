"""Checkpoints and resuming."""

from __future__ import annotations

from tuner.config.settings import Topic, setting


class CheckpointConfig(Topic):
    """When checkpoints are written, how many are kept, and from which one a run goes on."""

    checkpoint_step_interval: int = setting(
        500, "Steps between checkpoints; 0 for only the last one.", unit="steps", ge=0, aliases=("checkpointing_steps",)
    )
    checkpoints_total_limit: int = setting(5, "Checkpoints to keep, the newest ones; 0 keeps all.", ge=0)
    resume_from_checkpoint: str | None = setting(
        "latest", "latest, the name or path of a checkpoint, or none to start afresh."
    )

    def wants_fresh_start(self) -> bool:
        """Whether checkpoints that exist are not to be resumed from."""
        return self.resume_from_checkpoint is None or self.resume_from_checkpoint.lower() in {"none", "false"}
