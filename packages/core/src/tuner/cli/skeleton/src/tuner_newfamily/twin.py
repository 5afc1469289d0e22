"""NewFamily's twin: every kind of layer of the real architecture, small enough for a CPU."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import PluginError


def write_twin(folder: Path) -> Path:
    """Write the twin to `folder`, which is absent or empty, and return it.

    Build a diffusers pipeline of tiny parts inside `tuner.randomness.seeded_torch`, keeping every factor of the
    published configuration; `tuner.family.twins` has tokenizers, pictures and `save_twin`.
    """
    raise PluginError(f"{__file__} is still to be written\n    -> build a tiny model and save it in {folder}")
