"""Loading single parts of a local folder in diffusers layout: safetensors only, never the network.

A family says which class stands in which sub-folder; what may be wrong with such a folder is handled here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuner.errors import TunerError

if TYPE_CHECKING:
    from torch import nn

    from tuner.types import ComponentRequest, Part

ModelT = TypeVar("ModelT", bound="nn.Module")

VARIANTS = ("bf16", "fp16")
"""Weight variants that stand in for absent plain weights, in order of preference: bf16 has float32's range."""

_UNSAFE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class ModelFolderError(TunerError):
    """A base model's folder that lacks a part, or holds one that is unsafe, damaged or of another architecture."""


def load_model(request: ComponentRequest, part: Part, subfolder: str, model_class: type[ModelT]) -> ModelT:
    """Load a diffusers or transformers model from a sub-folder, frozen and in evaluation mode.

    Args:
        request: Says folder and device, and the dtype of `part`.
        part: The part that the model belongs to.
        subfolder: Sub-folder that holds `config.json` and the weights.
        model_class: Subclass of diffusers' `ModelMixin` or transformers' `PreTrainedModel`.

    Raises:
        ModelFolderError: The sub-folder is missing, holds another architecture, has no safetensors weights,
            or its weights are damaged or incomplete.
    """
    from diffusers import ModelMixin

    folder = _part_folder(request.path_of(subfolder), "config.json")
    dtype = request.dtype_of(part)
    if issubclass(model_class, ModelMixin):
        _check_class(folder / "config.json", model_class.__name__)
        arguments: dict[str, Any] = {"torch_dtype": dtype, "variant": _variant(folder, "diffusion_pytorch_model")}
    else:
        arguments = {"dtype": dtype, "variant": _variant(folder, "model")}
    loader: Any = model_class
    try:
        model, report = loader.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True, **arguments
        )
    except Exception as error:  # both libraries raise whatever their readers raise
        raise ModelFolderError(
            f"{folder}: {model_class.__name__} could not be loaded: {type(error).__name__}: {error}\n"
            "    -> if a file is damaged, download the folder again"
        ) from error
    _check_complete(folder, report)
    return model.to(request.device).eval().requires_grad_(False)


def load_tokenizer(request: ComponentRequest, subfolder: str = "tokenizer") -> Any:
    """Load a transformers tokenizer of whatever class its own configuration names.

    Raises:
        ModelFolderError: The sub-folder is missing or cannot be read.
    """
    return open_tokenizer(request.path_of(subfolder))


def open_tokenizer(folder: Path) -> Any:
    """Load the transformers tokenizer in `folder`, of whatever class its own configuration names.

    Raises:
        ModelFolderError: The folder is missing or cannot be read.
    """
    from transformers import AutoTokenizer

    _part_folder(folder, "tokenizer_config.json")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the readers raise whatever their formats raise
        raise ModelFolderError(
            f"{folder}: the tokenizer could not be loaded: {error}\n    -> download the folder again"
        ) from error


def load_scheduler(request: ComponentRequest, subfolder: str = "scheduler") -> Any:
    """Load the diffusers scheduler that the sub-folder's configuration names.

    Raises:
        ModelFolderError: The sub-folder is missing, or names a class that diffusers does not have.
    """
    import diffusers

    folder = _part_folder(request.path_of(subfolder), "scheduler_config.json")
    name = _read_json(folder / "scheduler_config.json").get("_class_name")
    scheduler_class = getattr(diffusers, str(name), None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        raise ModelFolderError(
            f"{folder / 'scheduler_config.json'}: _class_name {name!r} is no scheduler of diffusers "
            f"{diffusers.__version__}\n    -> pip install --upgrade diffusers, or download the folder again"
        )
    loader: Any = scheduler_class
    return loader.from_pretrained(str(folder), local_files_only=True)


def _part_folder(folder: Path, needed: str) -> Path:
    if not (folder / needed).is_file():
        raise ModelFolderError(
            f"{folder}: {needed} is missing; a model in diffusers layout has it there\n"
            "    -> check pretrained_model_name_or_path, or download the folder again"
        )
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: cannot be read as JSON: {error}\n    -> download the folder again") from error
    return content if isinstance(content, dict) else {}


def _check_class(config: Path, wanted: str) -> None:
    """Refuse another family's weights, which diffusers would load with a mere warning."""
    found = _read_json(config).get("_class_name", wanted)
    if found != wanted:
        raise ModelFolderError(
            f"{config}: holds a {found}, and this family needs a {wanted}\n"
            "    -> check model_family and pretrained_model_name_or_path"
        )


def _variant(folder: Path, stem: str) -> str | None:
    """Return the variant to ask for: None where plain weights exist."""
    for variant in (None, *VARIANTS):
        dot = f".{variant}" if variant else ""
        names = (f"{stem}{dot}.safetensors", f"{stem}.safetensors.index{dot}.json")
        if any((folder / name).is_file() for name in names):
            return variant
    unsafe = sorted(path.name for pattern in _UNSAFE for path in folder.glob(pattern))
    if unsafe:
        raise ModelFolderError(
            f"{folder}: {unsafe[0]} can run code when it is opened; only safetensors weights are loaded\n"
            "    -> convert it to safetensors, or use weights that are published as safetensors"
        )
    raise ModelFolderError(f"{folder}: {stem}.safetensors is missing\n    -> download the folder again")


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    """Refuse weights that leave layers at random values, which both libraries merely warn of."""
    absent = sorted(str(key) for key in report["missing_keys"])
    if absent:
        raise ModelFolderError(
            f"{folder}: {len(absent)} weights are missing, such as {absent[0]}\n    -> download the folder again"
        )
