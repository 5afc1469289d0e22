"""Caches of latents and text conditionings."""

from __future__ import annotations

from pathlib import Path

from tuner.config.settings import Topic, setting


class CachingConfig(Topic):
    """Where caches are and how they are filled."""

    cache_dir: Path = setting(Path("cache"), "Folder of the caches of data sets that name none of their own.")
    vae_batch_size: int = setting(4, "Pictures encoded at once.", unit="pictures", ge=1)
    vae_cache_ondemand: bool = setting(
        False, "Encode pictures when training first needs them instead of before it; the codec stays loaded."
    )
    vae_cache_disable: bool = setting(
        False, "Encode pictures whenever training needs them, and keep no latents on the disk."
    )
    write_batch_size: int = setting(128, "Entries written together.", unit="entries", ge=1)
