"""tuner: fine-tuning for image diffusion models, with every model family a plugin."""

from __future__ import annotations

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("tuner")
"""Marks a function as the implementation of a hook declared in `tuner.hookspecs`."""

__all__ = ["__version__", "hookimpl"]
