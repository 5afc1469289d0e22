"""Loading Cosmos2's parts."""

from __future__ import annotations

from types import SimpleNamespace

from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from diffusers.models.transformers import transformer_cosmos
from torch import Tensor
from torch.nn import functional
from transformers import T5EncoderModel

from tuner.family.loading import load_model, load_scheduler, load_tokenizer
from tuner.types import ComponentRequest, Components
from tuner_cosmos2.codec import WanCodec


def load_cosmos2(request: ComponentRequest) -> Components:
    """Load the parts asked for.

    Raises:
        ModelFolderError: A part is missing, unsafe, damaged or of another architecture.
    """
    components = Components(request.folder, request.options)
    if "text_encoders" in request.parts:
        components.tokenizers["tokenizer"] = load_tokenizer(request)
        components.text_encoders["text_encoder"] = load_model(request, "text_encoders", "text_encoder", T5EncoderModel)
    if "codec" in request.parts:
        components.codec = WanCodec(load_model(request, "codec", "vae", AutoencoderKLWan))
    if "denoiser" in request.parts:
        do_without_torchvision()
        components.denoiser = load_model(request, "denoiser", "transformer", CosmosTransformer3DModel)
    if "scheduler" in request.parts:
        components.scheduler = load_scheduler(request)
    return components


def do_without_torchvision() -> None:
    """Where torchvision is absent, give the transformer's module the one function of it that its forward uses."""
    if not hasattr(transformer_cosmos, "transforms"):
        transformer_cosmos.transforms = SimpleNamespace(
            functional=SimpleNamespace(resize=_resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
        )


def _resize(image: Tensor, size: list[int], interpolation: str) -> Tensor:
    """Resize the last two dimensions as torchvision does for tensors: by torch's own interpolation."""
    return image if list(image.shape[-2:]) == size else functional.interpolate(image, size, mode=interpolation)
