"""Loading AuraFlow's parts."""

from __future__ import annotations

from diffusers import AuraFlowTransformer2DModel, AutoencoderKL
from transformers import UMT5EncoderModel

from tuner.family.codecs import ScaledCodec
from tuner.family.loading import load_model, load_scheduler, load_tokenizer
from tuner.types import ComponentRequest, Components


def load_auraflow(request: ComponentRequest) -> Components:
    """Load the parts asked for.

    Raises:
        ModelFolderError: A part is missing, unsafe, damaged or of another architecture.
    """
    components = Components(request.folder, request.options)
    if "text_encoders" in request.parts:
        components.tokenizers["tokenizer"] = load_tokenizer(request)
        components.text_encoders["text_encoder"] = load_model(
            request, "text_encoders", "text_encoder", UMT5EncoderModel
        )
    if "codec" in request.parts:
        components.codec = ScaledCodec(load_model(request, "codec", "vae", AutoencoderKL))
    if "denoiser" in request.parts:
        components.denoiser = load_model(request, "denoiser", "transformer", AuraFlowTransformer2DModel)
    if "scheduler" in request.parts:
        components.scheduler = load_scheduler(request)
    return components
