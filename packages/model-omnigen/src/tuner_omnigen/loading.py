"""Loading OmniGen's parts."""

from __future__ import annotations

from diffusers import AutoencoderKL, OmniGenTransformer2DModel

from tuner.family.codecs import ScaledCodec
from tuner.family.loading import load_model, load_scheduler, load_tokenizer
from tuner.types import ComponentRequest, Components


def load_omnigen(request: ComponentRequest) -> Components:
    """Load the parts asked for. The text encoders are a tokenizer alone: the transformer reads its numbers.

    Raises:
        ModelFolderError: A part is missing, unsafe, damaged or of another architecture.
    """
    components = Components(request.folder, request.options)
    if "text_encoders" in request.parts:
        components.tokenizers["tokenizer"] = load_tokenizer(request)
    if "codec" in request.parts:
        components.codec = ScaledCodec(load_model(request, "codec", "vae", AutoencoderKL))
    if "denoiser" in request.parts:
        components.denoiser = load_model(request, "denoiser", "transformer", OmniGenTransformer2DModel)
    if "scheduler" in request.parts:
        components.scheduler = load_scheduler(request)
    return components
