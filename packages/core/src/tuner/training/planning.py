"""Plans of what a run trains on and evaluates with, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tuner.config import RunConfig
from tuner.config.launch import LaunchConfig
from tuner.data.build import build_plan
from tuner.data.index import FileIndex
from tuner.data.order import sampling_weights
from tuner.data.plan import Plan
from tuner.training.sources import ModelSource, denoiser_config
from tuner.types import FamilyFacts


@dataclass(frozen=True)
class Planner:
    """Plans the data sets of a configuration; reads file headers only.

    Attributes:
        config: The configuration, its pictures at hand.
        facts: The family's facts.
        seed: The run's seed.
        index: Memo of file sizes.
        side_limit: Longest side of a picture, in pixels, see `side_limit`.
    """

    config: RunConfig
    facts: FamilyFacts
    seed: int
    index: FileIndex
    side_limit: int | None = None

    def training(self, excluded: Mapping[str, str] | None = None) -> Plan:
        """Plan buckets and batches of what is trained on.

        Args:
            excluded: Sample key -> why it must not be used.

        Raises:
            DatasetError: A data set has nothing to train on.
        """
        config, facts = self.config, self.facts
        plan = build_plan(
            config.datasets,
            batch_size=config.optimisation.train_batch_size,
            accumulation=config.optimisation.gradient_accumulation_steps,
            processes=config.launch.num_processes,
            alignment=facts.pixel_alignment,
            aspect_rounding=config.data.aspect_bucket_rounding,
            keep_small_buckets=config.data.disable_bucket_pruning,
            oversubscribe=config.data.allow_dataset_oversubscription,
            seed=self.seed,
            index=self.index,
            canvas_limit=facts.canvas_limit,
            side_limit=self.side_limit,
            stride=facts.latent_stride * facts.patch_size,
            excluded=excluded or {},
            mask_folders=mask_folders(config),
        )
        weights = sampling_weights(
            {dataset.id: dataset.probability for dataset in config.datasets},
            plan.buckets,
            by_size=config.data.data_backend_sampling == "auto-weighting",
        )
        return replace(plan, weights=weights)

    def evaluation(self, excluded: Mapping[str, str] | None = None) -> Plan:
        """Plan the data sets that are evaluated with: picture by picture, each bucket however small, without masks.

        Raises:
            DatasetError: A data set has nothing to evaluate with.
        """
        config = self.config
        one_by_one = {"train_batch_size": 1, "gradient_accumulation_steps": 1}
        datasets = tuple(entry.model_copy(update={"train_batch_size": None}) for entry in config.eval_datasets)
        evaluated = config.model_copy(
            update={
                "datasets": datasets,
                "optimisation": config.optimisation.model_copy(update=one_by_one),
                "data": config.data.model_copy(update={"disable_bucket_pruning": True}),
                "launch": LaunchConfig(),
                "masks": (),
            }
        )
        return replace(self, config=evaluated).training(excluded)

    def evaluated(self, excluded: Mapping[str, str] | None = None) -> Plan | None:
        """Plan what a run evaluates with: of each data set the first pictures by name, each with its first caption.

        Returns:
            The plan, or None where the run takes no loss on evaluation data.

        Raises:
            DatasetError: A data set has nothing to evaluate with.
        """
        if not self.config.evaluates_loss:
            return None
        plan = self.evaluation(excluded)
        kept: set[str] = set()
        for dataset in self.config.eval_datasets:
            samples = (item for bucket in plan.buckets if bucket.dataset == dataset.id for item in bucket.samples)
            kept.update(sorted(item.key for item in samples)[: self.config.evaluation.num_eval_images])
        buckets = []
        for bucket in plan.buckets:
            shown = [replace(item, captions=item.captions[:1]) for item in bucket.samples if item.key in kept]
            if shown:
                buckets.append(replace(bucket, samples=tuple(shown), repeats=0))
        return replace(plan, buckets=tuple(buckets), weights=())


def mask_folders(config: RunConfig) -> dict[str, Path]:
    """Return data set -> folder of its masks."""
    return {
        dataset.id: mask.instance_data_dir
        for dataset in config.datasets
        for mask in config.masks
        if mask.id == dataset.conditioning_data
    }


def side_limit(source: ModelSource, facts: FamilyFacts, download: bool = True) -> int | None:
    """Return the longest side that the model takes, in pixels, where its weights set one.

    None too if they are not at hand and `download` is false.
    """
    if facts.side_limit is None:
        return None
    config = denoiser_config(source, facts, download)
    return None if config is None else facts.side_limit(config)


def open_index(config: RunConfig) -> FileIndex:
    """Open the memo of file sizes and hashes that plans share."""
    return FileIndex(config.caching.cache_dir)
