"""Loading HiDream's parts."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from transformers import CLIPTextModelWithProjection, LlamaModel, T5EncoderModel

from tuner.family.codecs import ScaledCodec
from tuner.family.loading import load_model, load_scheduler, load_tokenizer
from tuner.types import ComponentRequest, Components
from tuner_hidream.balance import watch_routers

ENCODERS = {
    "text_encoder": CLIPTextModelWithProjection,
    "text_encoder_2": CLIPTextModelWithProjection,
    "text_encoder_3": T5EncoderModel,
    # Hidden states are all that is wanted: the published model's head, a gigabyte, stays on disk.
    "text_encoder_4": LlamaModel,
}
"""CLIP-L, CLIP-G, T5 and Llama by sub-folder; the tokenizer of `text_encoder_N` is `tokenizer_N`."""


def load_hidream(request: ComponentRequest) -> Components:
    """Load the parts asked for.

    Raises:
        ModelFolderError: A part is missing, unsafe, damaged or of another architecture.
    """
    components = Components(request.folder, request.options)
    if "text_encoders" in request.parts:
        for name, encoder_class in ENCODERS.items():
            tokenizer = name.replace("text_encoder", "tokenizer")
            components.tokenizers[tokenizer] = load_tokenizer(request, tokenizer)
            components.text_encoders[name] = load_model(request, "text_encoders", name, encoder_class)
    if "codec" in request.parts:
        components.codec = ScaledCodec(load_model(request, "codec", "vae", AutoencoderKL))
    if "denoiser" in request.parts:
        components.denoiser = _load_denoiser(request)
    if "scheduler" in request.parts:
        components.scheduler = load_scheduler(request)
    return components


def _load_denoiser(request: ComponentRequest) -> HiDreamImageTransformer2DModel:
    denoiser = load_model(request, "denoiser", "transformer", HiDreamImageTransformer2DModel)
    _let_experts_train(denoiser)
    options: Any = request.options
    if options.hidream_use_load_balancing_loss:
        watch_routers(denoiser)
    return denoiser


def _let_experts_train(denoiser: HiDreamImageTransformer2DModel) -> None:
    """Undo a checkpoint's wish that experts run without gradients, and a computation that nobody reads."""
    denoiser.register_to_config(force_inference_output=False)
    for module in denoiser.modules():
        if isinstance(module, MOEFeedForwardSwiGLU):
            module._force_inference_output = module.gate._force_inference_output = False
            module.gate.alpha = 0.0  # else the router computes a load-balancing loss that it then drops
