"""HiDream's twin: every kind of layer of the real architecture, small enough for a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from tuner.family.tokenizers import clip_tokenizer, llama_tokenizer, t5_tokenizer
from tuner.family.twins import autoencoder_kl, save_twin
from tuner.randomness import seeded_torch

CLIP_L, CLIP_G = 24, 40
"""Widths of the two pooled features."""


def write_twin(folder: Path) -> Path:
    """Write the twin to `folder`, which is absent or empty, and return it.

    Raises:
        TunerError: The folder holds something already.
    """
    clip, t5, llama = clip_tokenizer(max_length=248), t5_tokenizer(), llama_tokenizer()
    with seeded_torch(0, "hidream twin"), torch.no_grad():
        pipeline = HiDreamImagePipeline(
            tokenizer=clip,
            tokenizer_2=clip,
            tokenizer_3=t5,
            tokenizer_4=llama,
            text_encoder=twin_clip(clip, CLIP_L),
            text_encoder_2=twin_clip(clip, CLIP_G),
            text_encoder_3=twin_t5(len(t5)),
            text_encoder_4=twin_llama(len(llama)),
            vae=twin_autoencoder(),
            transformer=twin_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    return save_twin(pipeline, folder)


def twin_clip(tokenizer: Any, projection: int) -> CLIPTextModelWithProjection:
    """CLIP's text model with 2 layers of width 32 and the long context of the published ones."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=projection,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=248,
            initializer_factor=10.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def twin_t5(vocabulary: int) -> T5EncoderModel:
    """T5's encoder with 2 layers of width 32."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def twin_llama(vocabulary: int) -> LlamaForCausalLM:
    """Llama with 2 layers of width 48."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
        )
    )


def twin_transformer() -> HiDreamImageTransformer2DModel:
    """HiDream's transformer of width 64: 1 block of two streams, 2 of one, 4 experts of which 2 serve each token.

    It has room for 256 tokens, the area of 256 x 256 pixels. Llama's last layer goes to two blocks; in the published
    model too, later blocks share it.
    """
    return HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        caption_channels=[32, 48],
        text_emb_dim=CLIP_L + CLIP_G,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(32, 32),
        llama_layers=[0, 1, 1],
    )


def twin_autoencoder() -> AutoencoderKL:
    """The autoencoder of Flux with one block per level; latents and pixels have the published scale."""
    return autoencoder_kl(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )
