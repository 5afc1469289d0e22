"""Faults of data set entries that show before any picture is read."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterable

from tuner.config.datasets import DatasetConfig
from tuner.data.faces import crops_to_faces
from tuner.data.geometry import SizeRules, edge_of
from tuner.errors import Problem


def entry_problems(dataset: DatasetConfig, rules: SizeRules, source: str) -> Iterable[Problem]:
    """Yield what keeps an entry from being followed.

    Args:
        dataset: The entry.
        rules: What bounds the sides of training pictures.
        source: Name of the data set file.
    """
    name = f"{source}, data set {dataset.id!r}"
    yield from _folder_problems(dataset, name)
    if crops_to_faces(dataset) and importlib.util.find_spec("skimage") is None:
        message = "face needs the package scikit-image, which is not installed"
        yield Problem(message, name, "crop_style", "pip install 'tuner-core[face]', or use center, random or corner")
    least, most = dataset.minimum_aspect_ratio, dataset.maximum_aspect_ratio
    if least is not None and most is not None and least > most:
        message = f"{least:g} is above maximum_aspect_ratio {most:g}, so that no picture is left"
        yield Problem(message, name, "minimum_aspect_ratio", "lower it, or raise maximum_aspect_ratio")
    yield from _resolution_problems(dataset, rules, name)


def _folder_problems(dataset: DatasetConfig, name: str) -> Iterable[Problem]:
    folder = dataset.folder
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        yield Problem(f"{folder} {fault}", name, "instance_data_dir", "give the folder that holds the pictures")
    elif not os.access(folder, os.R_OK | os.X_OK):
        yield Problem(f"{folder} cannot be listed: permission denied", name, "instance_data_dir", "allow reading it")


def _resolution_problems(dataset: DatasetConfig, rules: SizeRules, name: str) -> Iterable[Problem]:
    edge = edge_of(dataset.resolution, dataset.resolution_type)
    asked = f"{dataset.resolution:g} ({dataset.resolution_type}) asks for"
    canvas_limit, side_limit = rules.canvas_limit, rules.side_limit
    if side_limit is not None and edge > side_limit:
        message = f"{asked} sides of {edge:.0f} pixels; the model takes at most {side_limit}"
        yield Problem(message, name, "resolution", f"choose a resolution of at most {side_limit} pixels")
    if canvas_limit is not None and edge * edge > canvas_limit:
        most = canvas_limit / 1024**2 if dataset.resolution_type == "area" else math.isqrt(canvas_limit)
        message = f"{asked} {edge * edge:.0f} pixels; the model takes at most {canvas_limit}"
        yield Problem(message, name, "resolution", f"set resolution to {most:g} or less")
