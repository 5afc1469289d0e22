"""The data sheet of the NewFamily family. Imports no torch.

Every value below is an example that has the right form: replace all of them. `tuner.types.FamilyFacts` describes each,
and further ones that have defaults.
"""

from __future__ import annotations

from tuner.types import FamilyFacts, Flavour


def newfamily() -> FamilyFacts:
    """Return the facts of NewFamily."""
    return FamilyFacts(
        name="newfamily",
        title="NewFamily",
        flavours={"base": Flavour("owner/name", "still to be filled in")},
        default_flavour="base",
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
        licence="unknown",
    )
