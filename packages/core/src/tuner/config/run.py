"""The whole configuration of a run."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializeAsAny

from tuner.config.adapter import AdapterConfig
from tuner.config.caching import CachingConfig
from tuner.config.checkpoints import CheckpointConfig
from tuner.config.data import DataConfig
from tuner.config.datasets import DatasetConfig, MaskConfig, TextCacheConfig
from tuner.config.ema import EmaConfig
from tuner.config.evaluation import EvaluationConfig
from tuner.config.flow import FlowConfig
from tuner.config.launch import LaunchConfig
from tuner.config.lycoris import LycorisConfig
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.precision import PrecisionConfig
from tuner.config.publishing import PublishingConfig
from tuner.config.scheduled_sampling import ScheduledSamplingConfig
from tuner.config.sharding import ShardingConfig
from tuner.config.tracking import TrackingConfig
from tuner.config.validation import ValidationConfig
from tuner.config.webhooks import Webhook


class RunConfig(BaseModel):
    """Everything that a run reads. Built by `tuner.config.loading`, never by hand-written dictionaries.

    Attributes:
        family: The family's own settings.
        lycoris: Contents of lycoris_config, where it applies.
        datasets: Entries of the data set file that are trained on, disabled ones left out.
        eval_datasets: Entries of the data set file that are evaluated with and never trained on.
        masks: Entries of the data set file that hold masks.
        text_cache: The default text_embeds entry of the data set file, if it has one.
        prompts: Nickname -> prompt of the libraries that pictures are made of.
        prompt_strengths: Nickname -> strength of the adapter, for prompts that have one of their own.
        webhooks: Contents of webhook_config.
        zero_stage: The stage of ZeRO that deepspeed_config asks for, 0 to 3.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig
    adapter: AdapterConfig
    optimisation: OptimisationConfig
    ema: EmaConfig
    flow: FlowConfig
    scheduled_sampling: ScheduledSamplingConfig
    precision: PrecisionConfig
    memory: MemoryConfig
    data: DataConfig
    caching: CachingConfig
    checkpoints: CheckpointConfig
    validation: ValidationConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    publishing: PublishingConfig
    launch: LaunchConfig
    sharding: ShardingConfig
    family: SerializeAsAny[BaseModel]
    lycoris: LycorisConfig | None = None
    datasets: tuple[DatasetConfig, ...] = ()
    eval_datasets: tuple[DatasetConfig, ...] = ()
    masks: tuple[MaskConfig, ...] = ()
    text_cache: TextCacheConfig | None = None
    prompts: dict[str, str] = {}
    prompt_strengths: dict[str, float] = {}
    webhooks: tuple[Webhook, ...] = ()
    zero_stage: int = 0

    @property
    def evaluates_loss(self) -> bool:
        """Whether the loss on evaluation data is taken."""
        return bool(self.eval_datasets and self.evaluation.has_interval and not self.evaluation.eval_loss_disable)

    @property
    def shards(self) -> bool:
        """Whether several processes share the model out."""
        return self.sharding.fsdp_enable or self.zero_stage > 0

    @property
    def frees_blocks(self) -> bool:
        """Whether they take a block apart between forward and backward pass: ZeRO's third stage does."""
        return self.zero_stage == 3 if self.zero_stage else self.sharding.fsdp_reshard_after_forward

    def flat(self) -> dict[str, Any]:
        """Return all settings by their public keys, as JSON values."""
        from tuner.config.topics import TOPICS

        values: dict[str, Any] = {}
        for topic in (*TOPICS, "family"):
            values.update(getattr(self, topic).model_dump(mode="json"))
        return values
