"""Which number formats OmniGen's parts may be stored in."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.types import PartPolicy, QuantisationPolicy


def omnigen_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy. There is no text encoder, and the codec is too small to be worth it."""
    return QuantisationPolicy(
        {
            "denoiser": PartPolicy(
                ("no_change", "int8-quanto", "int4-quanto", "int8-torchao", "fp8-torchao", "nf4-bnb"),
                {
                    "fp8-quanto": "as large as int8-quanto, with eight times its error (0.04 against 0.005); "
                    "use int8-quanto",
                    "int2-quanto": "its error is half of the output (0.49); use int4-quanto or int8-quanto",
                    "int4-torchao": "it needs kernels that torchao does not bring along; use int4-quanto",
                },
                # Small layers in which rounding errors reach every token: text, time and latents in, latents out.
                ("embed_tokens", "patch_embedding*", "time_token*", "t_embedder*", "*norm*", "proj_out"),
            )
        }
    )
