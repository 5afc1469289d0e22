"""All checks of a run's data sets, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tuner.config.run import RunConfig
from tuner.data.doctor import captions, evaluation, masks, pictures, sizes, tokens
from tuner.data.doctor.finding import Bar, Finding
from tuner.data.index import FileIndex
from tuner.data.plan import Plan
from tuner.types import FamilyFacts


def examine(
    config: RunConfig,
    facts: FamilyFacts,
    plan: Plan,
    index: FileIndex,
    *,
    tokenizers: Mapping[str, Path],
    mask_folders: Mapping[str, Path],
    bar: Bar,
) -> Iterator[Finding]:
    """Yield what is wrong with the data sets of a plan, in an order that depends on nothing else.

    Args:
        config: The run's configuration.
        facts: The family's facts.
        plan: What is trained on.
        index: Knows the plan's files; remembers what is read.
        tokenizers: Sub-folder -> local folder of each tokenizer that is at hand.
        mask_folders: Data set -> folder of its masks.
        bar: Shows progress where files must be read or captions counted.
    """
    files = pictures.known_files(plan, index)
    yield from pictures.left_out(plan)
    yield from pictures.duplicates(plan, files, index, bar)
    evaluated = {entry.id: entry.instance_data_dir for entry in config.eval_datasets if entry.instance_data_dir}
    yield from evaluation.trained_on(plan, evaluated, files, index, bar)
    yield from pictures.enlarged(plan, files)
    yield from masks.spare_masks(plan, mask_folders)
    yield from masks.black_masks(plan, bar)
    yield from captions.equal_captions(plan, config.datasets)
    yield from captions.file_names(plan, config.datasets)
    yield from captions.placeholders(plan, config.datasets, _prompts(config))
    yield from tokens.long_captions(plan, facts, config.family, tokenizers, index, bar)
    asked = _prompts(config) | (config.prompts if config.validation.validation_step_interval else {})
    yield from tokens.long_prompts(asked, facts, config.family, tokenizers, index)
    yield from sizes.small_buckets(plan)
    yield from sizes.large_encoder_batches(plan, config.caching.vae_batch_size)


def _prompts(config: RunConfig) -> dict[str, str]:
    """Return setting -> prompt of the pictures that are made. Reading the configuration checks prompt libraries."""
    validation = config.validation
    if not validation.validation_step_interval:
        return {}
    prompts = {"validation_negative_prompt": validation.validation_negative_prompt}
    if validation.validation_prompt:
        prompts["validation_prompt"] = validation.validation_prompt
    return prompts
