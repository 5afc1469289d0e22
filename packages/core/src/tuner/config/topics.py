"""The topics of a configuration in the order in which documentation shows them."""

from __future__ import annotations

from tuner.config.adapter import AdapterConfig
from tuner.config.caching import CachingConfig
from tuner.config.checkpoints import CheckpointConfig
from tuner.config.data import DataConfig
from tuner.config.ema import EmaConfig
from tuner.config.evaluation import EvaluationConfig
from tuner.config.flow import FlowConfig
from tuner.config.launch import LaunchConfig
from tuner.config.memory import MemoryConfig
from tuner.config.model import ModelConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.precision import PrecisionConfig
from tuner.config.publishing import PublishingConfig
from tuner.config.scheduled_sampling import ScheduledSamplingConfig
from tuner.config.settings import Topic
from tuner.config.sharding import ShardingConfig
from tuner.config.tracking import TrackingConfig
from tuner.config.validation import ValidationConfig

TOPICS: dict[str, type[Topic]] = {
    "model": ModelConfig,
    "adapter": AdapterConfig,
    "optimisation": OptimisationConfig,
    "ema": EmaConfig,
    "flow": FlowConfig,
    "scheduled_sampling": ScheduledSamplingConfig,
    "precision": PrecisionConfig,
    "memory": MemoryConfig,
    "data": DataConfig,
    "caching": CachingConfig,
    "checkpoints": CheckpointConfig,
    "validation": ValidationConfig,
    "evaluation": EvaluationConfig,
    "tracking": TrackingConfig,
    "publishing": PublishingConfig,
    "launch": LaunchConfig,
    "sharding": ShardingConfig,
}
"""Attribute of `RunConfig` -> model."""
