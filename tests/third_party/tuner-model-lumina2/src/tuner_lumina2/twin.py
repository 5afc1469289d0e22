"""The twin: every kind of layer of the real architecture, small enough for a CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from transformers import Gemma2Config, Gemma2Model

from tuner.family.twins import gemma_tokenizer, natural_pictures, save_twin, tame_decoder, tame_encoder
from tuner.randomness import seeded_torch

SYSTEM_WORDS = (
    "You are an assistant designed to generate superior images with the degree of image text alignment "
    "based on textual prompts or user prompts Start"
)


def write_twin(folder: Path) -> Path:
    """Write the twin to `folder`, which is absent or empty, and return it."""
    tokenizer = gemma_tokenizer(SYSTEM_WORDS.split())
    with seeded_torch(0, "lumina2 twin"), torch.no_grad():
        pipeline = Lumina2Pipeline(
            tokenizer=tokenizer,
            text_encoder=twin_text_encoder(len(tokenizer)),
            vae=twin_autoencoder(),
            transformer=twin_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        )
    return save_twin(pipeline, folder)


def twin_text_encoder(vocabulary: int) -> Gemma2Model:
    """Gemma 2 with 2 layers of width 32."""
    return Gemma2Model(
        Gemma2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            query_pre_attn_scalar=8,
            initializer_range=0.2,
        )
    )


def twin_transformer() -> Lumina2Transformer2DModel:
    """The transformer with 2 layers of width 48."""
    return Lumina2Transformer2DModel(
        hidden_size=48,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(8, 8, 8),
        cap_feat_dim=32,
    )


def twin_autoencoder() -> AutoencoderKL:
    """The autoencoder with one narrow block per level; its latents have the published scale and shift."""
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    pictures = natural_pictures(size=64)
    tame_encoder(autoencoder.encoder.conv_out, autoencoder.encode(pictures).latent_dist.mode(), std=1 / 0.3611)
    latents = autoencoder.encode(pictures).latent_dist.mode()
    tame_decoder(autoencoder.decoder.conv_out, autoencoder.decode(latents).sample, pictures)
    return autoencoder
