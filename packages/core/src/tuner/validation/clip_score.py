"""How well pictures fit their prompts: the cosine of CLIP's embeddings of both.

Hessel et al. 2021, "CLIPScore" (arXiv 2104.08718), without its factor of 2.5 and its floor of 0. The published CLIP
models give about 0.30 to 0.39 for pictures that show what is asked for, and 0.18 to 0.22 for others.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open

from tuner.errors import TunerError

_KEY = "pretrained_evaluation_model_name_or_path"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Files of which one group must be there: without them transformers makes a tokenizer that knows no word."""


def check_clip(folder: Path) -> None:
    """Make sure that a folder holds a whole CLIP model; no weight is read.

    Raises:
        TunerError: It does not.
    """
    from transformers import CLIPConfig, CLIPModel

    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        if model_type != "clip":
            raise _no_clip(folder, f"config.json describes a model of type {model_type!r}")
        with torch.device("meta"):
            needed = CLIPModel(CLIPConfig.from_pretrained(folder)).state_dict().keys()
        missing = sorted(needed - _stored(folder))
        if missing:
            raise _no_clip(folder, f"its weights lack {len(missing)} tensors, such as {missing[0]}")
        _open_processors(folder)
    except TunerError:
        raise
    except Exception as error:  # the libraries raise errors of many kinds for files that are missing or damaged
        raise _no_clip(folder, (str(error).splitlines() or [type(error).__name__])[0]) from error


def clip_scores(folder: Path, pictures: Iterable[tuple[Path, str]], device: torch.device) -> list[float]:
    """Return the cosine of each (picture, prompt), in [-1, 1]. Longer prompts lose their end.

    The model is loaded for this alone.
    """
    from transformers import CLIPModel

    tokenizer, processor = _open_processors(folder)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    model = model.to(device).eval()
    longest = model.config.text_config.max_position_embeddings
    scores = []
    with torch.inference_mode():
        for file, prompt in pictures:
            with Image.open(file) as picture:
                pixels = processor(picture.convert("RGB"), return_tensors="pt")
            text = tokenizer(prompt, truncation=True, max_length=longest, return_tensors="pt")
            found = model(
                input_ids=text["input_ids"].to(device),
                attention_mask=text["attention_mask"].to(device),
                pixel_values=pixels["pixel_values"].to(device),
            )
            scores.append(torch.cosine_similarity(found.image_embeds, found.text_embeds).item())
    return scores


def describe_scores(scores: Sequence[float]) -> dict[str, float]:
    """Return mean, least, largest and standard deviation (of all pictures, not of a sample) of scores."""
    return {
        "clip_score/mean": statistics.fmean(scores),
        "clip_score/min": min(scores),
        "clip_score/max": max(scores),
        "clip_score/std": statistics.pstdev(scores),
    }


def _stored(folder: Path) -> set[str]:
    """Return the names of the tensors in the weights' files."""
    names = [_WEIGHTS]
    if (folder / _INDEX).is_file():
        names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    elif not (folder / _WEIGHTS).is_file():
        raise _no_clip(folder, f"it has no {_WEIGHTS}; other formats of weights are not read")
    stored: set[str] = set()
    for name in names:
        with safe_open(folder / name, "pt") as file:
            stored.update(file.keys())
    return stored


def _open_processors(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoTokenizer

    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise _no_clip(folder, "it has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return tokenizer, AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _no_clip(folder: Path, reason: str) -> TunerError:
    return TunerError(
        f"{_KEY}: {folder} holds no CLIP model that can be used: {reason}\n"
        "    -> give a folder with model, tokenizer and image processor in transformers' format, with weights in "
        "safetensors, or a repository of the hub"
    )
