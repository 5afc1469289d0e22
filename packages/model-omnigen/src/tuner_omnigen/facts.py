"""The data sheet of the OmniGen family. Imports no torch."""

from __future__ import annotations

from tuner.types import TORCH_ATTENTION, FamilyFacts, FamilyOptions, Flavour, PromptLimit, Usage
from tuner_omnigen.original import ORIGINAL_LAYERS

PADDING = -1
"""Fills the end of shorter rows of token ids. No token has this number, so no mask is needed beside the ids."""

ADVISED_TOKENS = 122
"""Captions beyond about this many tokens are said to lose their end; they are encoded whole all the same."""

_NO_SHIFT = "OmniGen was trained on unshifted noise levels and is sampled on them"


def prompt_limits(options: FamilyOptions) -> tuple[PromptLimit, ...]:
    """Return how long prompts should be; nothing is cut. The template around them does not count."""
    from tuner_omnigen.text import PromptProcessor  # imports diffusers, which holds the template

    template = PromptProcessor(None).add_prefix_instruction
    return (PromptLimit("tokenizer", ADVISED_TOKENS, text=template, counts="prompt", cut=False),)


def omnigen() -> FamilyFacts:
    """Return the facts of OmniGen v1."""
    return FamilyFacts(
        name="omnigen",
        title="OmniGen",
        flavours={"v1": Flavour("Shitao/OmniGen-v1-diffusers", "3.8B parameters")},
        default_flavour="v1",
        latent_channels=4,
        latent_stride=8,
        patch_size=2,
        pixel_alignment=64,
        token_limit=None,
        adapter_targets=("to_q", "to_k", "to_v", "to_out.0"),
        part_folders={
            "text_encoders": ("tokenizer",),
            "codec": ("vae",),
            "denoiser": ("transformer",),
            "scheduler": ("scheduler",),
        },
        licence="mit",
        tiny_autoencoder="madebyollin/taesdxl",
        class_aliases={"Attention": ("Attention",), "FeedForward": ("OmniGenFeedForward",)},
        # The table of positions has this many tokens along each side, of 2 latent cells or 16 pixels each.
        side_limit=lambda config: 16 * int(config["pos_embed_max_size"]),
        prompt_limits=prompt_limits,
        conditioning_padding={"input_ids": PADDING},
        setting_defaults={"flow_schedule_shift": 0.0},
        inert_settings={
            "flow_schedule_shift": _NO_SHIFT,
            "flow_schedule_auto_shift": _NO_SHIFT,
            "attention_mechanism": TORCH_ATTENTION,
        },
        original_layers=ORIGINAL_LAYERS,
        advice={
            "learning_rate": "Upstream's claim: LoKr 1e-4 with AdamW, 2e-5 with Lion.",
            "memory": "Upstream's claim: 24 GB hold a LoKr with batches of 2 or 3.",
            "prompts": f"Upstream's claim: about {ADVISED_TOKENS} tokens of a caption count; longer ones are not cut.",
            "steps": "The pipeline's defaults: 50 sampling steps with a guidance of 2.5.",
            "loss": "Upstream's claim: the loss stays high; judge pictures instead.",
        },
        usage=Usage("OmniGenPipeline", packages=("torchvision",)),
    )
