"""Which number formats AuraFlow's parts may be stored in."""

from __future__ import annotations

from pydantic import BaseModel

from tuner.types import PartPolicy, QuantisationPolicy

_ALLOWED = ("no_change", "int8-quanto", "int4-quanto", "int8-torchao", "fp8-torchao", "nf4-bnb")
_REFUSED = {
    "fp8-quanto": "as large as int8-quanto, with eight times its error (0.04 against 0.005); use int8-quanto",
    "int2-quanto": "its error is half of the output (0.49); use int4-quanto or int8-quanto",
    "int4-torchao": "it needs kernels that torchao does not bring along; use int4-quanto",
}


def auraflow_policy(options: BaseModel) -> QuantisationPolicy:
    """Return the policy. The codec is absent: it is small, and its errors are seen in every picture."""
    return QuantisationPolicy(
        {
            "text_encoders": PartPolicy(_ALLOWED, _REFUSED, ("shared", "*embed_tokens", "*norm*")),
            "denoiser": PartPolicy(
                _ALLOWED,
                _REFUSED,
                # Small layers in which rounding errors reach every token: time, text and pixels in, pixels out.
                ("pos_embed*", "time_step_proj*", "context_embedder", "*norm*", "proj_out"),
            ),
        }
    )
