"""The hooks of the Lumina Image 2 family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner import hookimpl
from tuner.types import (
    Batch,
    ComponentRequest,
    Components,
    Conditioning,
    FamilyFacts,
    Flavour,
    PartPolicy,
    Prediction,
    PromptLimit,
    QuantisationPolicy,
    Role,
    Sampler,
)


@hookimpl
def describe_family() -> FamilyFacts:
    """Give the data sheet."""
    return FamilyFacts(
        name="lumina2",
        title="Lumina Image 2",
        flavours={"2b": Flavour("Alpha-VLLM/Lumina-Image-2.0")},
        default_flavour="2b",
        latent_channels=16,
        latent_stride=8,
        patch_size=2,
        pixel_alignment=16,
        token_limit=256,
        adapter_targets=("to_q", "to_k", "to_v", "to_out.0"),
        part_folders={
            "text_encoders": ("text_encoder", "tokenizer"),
            "codec": ("vae",),
            "denoiser": ("transformer",),
            "scheduler": ("scheduler",),
        },
        licence="apache-2.0",
        class_aliases={"FeedForward": ("LuminaFeedForward",)},
        conditioning_masks={"prompt_embeds": "prompt_attention_mask"},
        prompt_limits=prompt_limits,
        inert_settings={"validation_guidance_rescale": "the pipeline brings guided predictions back by itself"},
    )


def prompt_limits(options: Any) -> tuple[PromptLimit, ...]:
    """Say how long a prompt may be: the system prompt before it takes its share of the tokens."""
    system_prompt = _pipeline().system_prompt
    return (PromptLimit("tokenizer", 256, text=lambda prompt: f"{system_prompt} <Prompt Start> {prompt}"),)


@hookimpl
def quantisation_policy(options: Any) -> QuantisationPolicy:
    """Nothing was tried yet, so nothing but the published formats is allowed."""
    return QuantisationPolicy({"text_encoders": PartPolicy(), "denoiser": PartPolicy()})


@hookimpl
def load_components(request: ComponentRequest) -> Components:
    """Load the parts asked for."""
    from diffusers import AutoencoderKL, Lumina2Transformer2DModel
    from transformers import Gemma2Model

    from tuner.family.codecs import ScaledCodec
    from tuner.family.loading import load_model, load_scheduler, load_tokenizer

    components = Components(request.folder, request.options)
    if "text_encoders" in request.parts:
        components.tokenizers["tokenizer"] = load_tokenizer(request)
        components.text_encoders["text_encoder"] = load_model(request, "text_encoders", "text_encoder", Gemma2Model)
    if "codec" in request.parts:
        components.codec = ScaledCodec(load_model(request, "codec", "vae", AutoencoderKL))
    if "denoiser" in request.parts:
        components.denoiser = load_model(request, "denoiser", "transformer", Lumina2Transformer2DModel)
    if "scheduler" in request.parts:
        components.scheduler = load_scheduler(request)
    return components


@hookimpl
def encode_prompt(components: Components, prompts: Sequence[str], role: Role) -> Conditioning:
    """Encode prompts as the pipeline does: captions behind its system prompt, all others alone."""
    encoder: Any = components.text_encoders["text_encoder"]
    pipeline = _pipeline(tokenizer=components.tokenizers["tokenizer"], text_encoder=encoder)
    texts = list(prompts)
    if role == "caption":
        positive = pipeline.encode_prompt(texts, False, device=encoder.device)
        embeds_BLD, mask_BL = positive[:2]
    else:
        negative = pipeline.encode_prompt(texts, True, negative_prompt=texts, device=encoder.device)
        embeds_BLD, mask_BL = negative[2:]
    return {"prompt_embeds": embeds_BLD, "prompt_attention_mask": mask_BL}


@hookimpl
def compute_loss(components: Components, batch: Batch) -> Prediction:
    """Predict the velocity. This network's time runs from noise (0) to picture (1), and so does its output."""
    denoiser: Any = components.denoiser
    raw = denoiser(
        hidden_states=batch.x,
        timestep=1 - batch.sigma,
        encoder_hidden_states=batch.conditioning["prompt_embeds"].to(batch.x.dtype),
        encoder_attention_mask=batch.conditioning["prompt_attention_mask"],
        return_dict=False,
    )[0]
    return Prediction(velocity=-raw)


@hookimpl
def validation_pipeline(components: Components) -> Sampler:
    """Wrap the live denoiser in diffusers' own pipeline."""
    pipeline = _pipeline(
        transformer=components.denoiser,
        vae=components.codec.module if components.codec else None,
        scheduler=components.scheduler,
    )

    def arguments(positive: Conditioning, negative: Conditioning | None) -> dict[str, Any]:
        unwanted = {f"negative_{name}": tensor for name, tensor in (negative or {}).items()}
        return {**positive, **unwanted}

    return Sampler(pipeline, arguments)


@hookimpl
def make_twin(folder: Path) -> Path:
    """Write the twin."""
    from tuner_lumina2.twin import write_twin

    return write_twin(folder)


def _pipeline(**parts: Any) -> Any:
    """Make a pipeline of some parts, the others absent."""
    from diffusers import Lumina2Pipeline

    absent = dict.fromkeys(("transformer", "scheduler", "vae", "text_encoder", "tokenizer"))
    return Lumina2Pipeline(**{**absent, **parts})
