"""Loading Sana's parts."""

from __future__ import annotations

from diffusers import AutoencoderDC, SanaTransformer2DModel
from transformers import Gemma2Model

from tuner.family.codecs import ScaledCodec
from tuner.family.loading import load_model, load_scheduler, load_tokenizer
from tuner.types import ComponentRequest, Components


def load_sana(request: ComponentRequest) -> Components:
    """Load the parts asked for.

    Raises:
        ModelFolderError: A part is missing, unsafe, damaged or of another architecture.
    """
    components = Components(request.folder, request.options)
    if "text_encoders" in request.parts:
        components.tokenizers["tokenizer"] = load_tokenizer(request)
        components.text_encoders["text_encoder"] = load_model(request, "text_encoders", "text_encoder", Gemma2Model)
    if "codec" in request.parts:
        components.codec = ScaledCodec(load_model(request, "codec", "vae", AutoencoderDC))
    if "denoiser" in request.parts:
        components.denoiser = load_model(request, "denoiser", "transformer", SanaTransformer2DModel)
    if "scheduler" in request.parts:
        components.scheduler = load_scheduler(request)
    return components
