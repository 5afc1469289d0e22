"""The data sheet of the HiDream family. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from tuner.types import TORCH_ATTENTION, FamilyFacts, FamilyOptions, Flavour, Usage
from tuner_hidream.original import ORIGINAL_LAYERS

LLAMA_REPO = "terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"
"""Where Llama and its tokenizer come from: HiDream's own repositories lack them."""

DISTILLED = "distilled to few steps and no guidance: training undoes that; full is the one to train"


class HiDreamOptions(FamilyOptions):
    """Settings that only HiDream has."""

    hidream_use_load_balancing_loss: bool = Field(
        default=False,
        description=(
            "Add a loss that keeps the experts of every mixture equally busy. It raises the loss that is shown; "
            "whether it helps is not known."
        ),
    )
    hidream_load_balancing_loss_weight: float = Field(
        default=0.01,
        ge=0.0,
        allow_inf_nan=False,
        description=(
            "Weight of the load-balancing loss, which is about 1 per mixture while the experts are equally busy. "
            "0.1 to 0.2 is aggressive."
        ),
    )


def exact_size(width: int, height: int) -> tuple[str, ...]:
    """Return code that makes the pipeline keep to a size instead of scaling it to about a megapixel."""
    return (
        "# Else the pipeline scales every size to about a megapixel:",
        f"pipeline.default_sample_size = ({width} * {height}) ** 0.5 / pipeline.vae_scale_factor * (1 + 1e-9)",
    )


def hidream() -> FamilyFacts:
    """Return the facts of HiDream-I1."""
    return FamilyFacts(
        name="hidream",
        title="HiDream",
        flavours={
            "full": Flavour("HiDream-ai/HiDream-I1-Full", "17B parameters, not distilled"),
            "dev": Flavour("HiDream-ai/HiDream-I1-Dev", warning=DISTILLED),
            "fast": Flavour("HiDream-ai/HiDream-I1-Fast", warning=DISTILLED),
        },
        default_flavour="full",
        latent_channels=16,
        latent_stride=8,
        patch_size=2,
        pixel_alignment=64,
        token_limit=128,
        adapter_targets=("to_q", "to_k", "to_v", "to_out"),
        part_folders={
            "text_encoders": (
                *("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4"),
                *("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4"),
            ),
            "codec": ("vae",),
            "denoiser": ("transformer",),
            "scheduler": ("scheduler",),
        },
        licence="mit (Llama 3.1 Community License for the fourth text encoder)",
        # Every expert is a feed-forward of this class, and so are the shared ones and those of the text.
        class_aliases={"Attention": ("HiDreamAttention",), "FeedForward": ("HiDreamImageFeedForwardSwiGLU",)},
        # Beyond it there are more tokens than the network has room for.
        canvas_limit=1024 * 1024,
        borrowed_folders={"text_encoder_4": LLAMA_REPO, "tokenizer_4": LLAMA_REPO},
        tiny_autoencoder="madebyollin/taef1",
        options=HiDreamOptions,
        inert_settings={"attention_mechanism": TORCH_ATTENTION},
        original_layers=ORIGINAL_LAYERS,
        uncompilable=("its experts get other numbers of tokens in every step, and each number would be compiled anew"),
        advice={
            "learning_rate": (
                "Upstream's claim: LoKr 1e-4 with AdamW, 2e-5 with Lion; standard LoRA 4e-4 for ranks up to 8, 6e-5 "
                "for 64 to 256. Plastic skin, blur and pixelation mean too high a rate or too small a batch."
            ),
            "memory": "Upstream's claim: 20 to 22 GB at least, with an int8 base and batches of 1; 24 GB is realistic.",
            "shift": "Upstream's claim: full was made with a flow shift of 3, dev with 6; 1 is a reasonable start.",
            "guidance": "Upstream's claim: 2.5 to 3 for realistic pictures, with 30 steps.",
            "resolution": "Upstream's claim: 512 px first, then 1024 px.",
            "flavour": "Upstream's claim: full is hard to train but not distilled; avoid dev and fast.",
            "adapter": "Leave FeedForward out of a LyCORIS preset: it adapts every expert, which is less steady.",
        },
        usage=Usage(
            "HiDreamImagePipeline",
            setup=exact_size,
            classes={"text_encoder_4": "LlamaForCausalLM", "tokenizer_4": "AutoTokenizer"},
        ),
    )
