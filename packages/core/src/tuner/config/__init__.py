"""Configuration: one typed model per topic, read strictly from the flat keys that users' files have."""

from tuner.config.datasets import DatasetConfig, TextCacheConfig
from tuner.config.run import RunConfig

__all__ = ["DatasetConfig", "RunConfig", "TextCacheConfig"]
