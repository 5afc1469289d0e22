"""The data sheet of the Sana family. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tuner.types import TORCH_ATTENTION, FamilyFacts, FamilyOptions, Flavour, PromptLimit, Usage
from tuner_sana.original import ORIGINAL_LAYERS

TEXT_TOKENS = 300
"""Length of every text embedding."""


class SanaOptions(FamilyOptions):
    """Settings that only Sana has."""

    sana_complex_human_instruction: tuple[str, ...] | None = Field(
        default=None,
        description=(
            "Text put before every positive prompt: a text, a list of lines, the path of a text file (.txt), or None "
            "(written as a word) for no such text. The published instruction if not given."
        ),
    )

    @field_validator("sana_complex_human_instruction", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Turn every accepted form into lines; no lines at all switch the instruction off."""
        if value is False:
            return ()
        if not isinstance(value, str):
            return value
        text = value.strip()
        if not text:
            return None
        if text.lower() in {"none", "false"}:
            return ()
        # A file's name ends in .txt; everything else is the text itself, so no guess depends on what lies around.
        return _read_lines(Path(text)) if text.lower().endswith(".txt") and "\n" not in text else (value,)

    @field_validator("sana_complex_human_instruction")
    @classmethod
    def _blank_is_off(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The pipeline's arithmetic of lengths fails on an instruction without a single token."""
        return () if value is not None and not "".join(value).strip() else value


def _read_lines(path: Path) -> tuple[str, ...]:
    try:
        lines = tuple(path.expanduser().read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no text file that can be read ({error}); name another, or give the text"
        ) from error
    if not "".join(lines).strip():
        raise ValueError(f"{path} is empty; write None to use no instruction")
    return lines


def prompt_limits(options: SanaOptions) -> tuple[PromptLimit, ...]:
    """Return the tokens that a prompt may add to the instruction before it, or to the first token without one.

    The pipeline makes room for the instruction and two tokens less than an embedding has, then keeps the first token
    and the last 299.
    """
    from tuner_sana.text import instruction  # imports diffusers, which holds the published instruction

    lines = instruction(options)
    prefix = "\n".join(lines)
    tokens = TEXT_TOKENS - 2 if lines else TEXT_TOKENS - 1
    return (PromptLimit("tokenizer", tokens, text=lambda prompt: prefix + prompt.lower().strip(), counts="prompt"),)


def call_arguments(options: SanaOptions) -> dict[str, Any]:
    """Return what the pipeline must be told to make pictures as validation does."""
    arguments: dict[str, Any] = {"use_resolution_binning": False}
    if options.sana_complex_human_instruction is not None:
        arguments["complex_human_instruction"] = list(options.sana_complex_human_instruction) or None
    return arguments


def sana() -> FamilyFacts:
    """Return the facts of Sana 1.0 and 1.5."""
    return FamilyFacts(
        name="sana",
        title="Sana",
        flavours={
            "sana1.5-4.8b-1024": Flavour("Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers", "largest and best"),
            "sana1.5-1.6b-1024": Flavour("Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"),
            "sana1.0-1.6b-2048": Flavour("Efficient-Large-Model/Sana_1600M_2Kpx_BF16_diffusers", "2048 px"),
            "sana1.0-1.6b-1024": Flavour("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"),
            "sana1.0-600m-1024": Flavour("Efficient-Large-Model/Sana_600M_1024px_diffusers", "published for fp16"),
            "sana1.0-600m-512": Flavour(
                "Efficient-Large-Model/Sana_600M_512px_diffusers", "512 px; published for fp16"
            ),
        },
        default_flavour="sana1.5-4.8b-1024",
        latent_channels=32,
        latent_stride=32,
        patch_size=1,
        pixel_alignment=64,
        token_limit=TEXT_TOKENS,
        adapter_targets=("to_q", "to_k", "to_v", "to_out.0"),
        part_folders={
            "text_encoders": ("text_encoder", "tokenizer"),
            "codec": ("vae",),
            "denoiser": ("transformer",),
            "scheduler": ("scheduler",),
        },
        licence="other (NSCL v2-custom; Gemma terms for the text encoder)",
        class_aliases={"Attention": ("Attention",), "FeedForward": ("GLUMBConv",)},
        # Half precision overflows in the autoencoder and gives NaN latents.
        codec_dtype="float32",
        # It divides by a sum that float16 rounds to nothing.
        exact_attention=("SanaLinearAttnProcessor2_0",),
        prompt_limits=prompt_limits,
        conditioning_masks={"prompt_embeds": "prompt_attention_mask"},
        options=SanaOptions,
        text_options=("sana_complex_human_instruction",),
        inert_settings={"attention_mechanism": TORCH_ATTENTION},
        original_layers=ORIGINAL_LAYERS,
        advice={
            "learning_rate": "Upstream's claim: about 1e-5 for a full tune; LoKr 1e-4 with AdamW, 2e-5 with Lion.",
            "memory": "Upstream's claim: 12 GB at least, with a quantised base and batches of 1; 24 GB is realistic.",
            "steps": "Upstream's claim: about 50 sampling steps.",
            "canvas": "Pictures come out best at the size in the flavour's name; other sizes are not refused.",
            "prompts": "Upstream's claim: short prompts do poorly, and pictures' flaws are learnt before the subject.",
            "precision": "The weights were first published for fp16; bf16 is the safe choice for training.",
        },
        usage=Usage("SanaPipeline", call=call_arguments),
    )
