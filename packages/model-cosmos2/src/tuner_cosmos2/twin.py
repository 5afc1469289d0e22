"""Cosmos2's twin: every kind of layer of the real architecture, small enough for a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    Cosmos2TextToImagePipeline,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import T5Config, T5EncoderModel

from tuner.family.tokenizers import t5_tokenizer
from tuner.family.twins import mark_as_twin, natural_pictures, save_twin, tame_decoder, tame_encoder
from tuner.randomness import seeded_torch
from tuner_cosmos2.facts import TEXT_TOKENS
from tuner_cosmos2.guardrail import Unchecked

_TEXT_WIDTH = 32


def write_twin(folder: Path) -> Path:
    """Write the twin to `folder`, which is absent or empty, and return it.

    Raises:
        TunerError: The folder holds something already.
    """
    tokenizer = t5_tokenizer(max_length=TEXT_TOKENS)
    with seeded_torch(0, "cosmos2 twin"), torch.no_grad():
        pipeline = Cosmos2TextToImagePipeline(
            tokenizer=tokenizer,
            text_encoder=twin_text_encoder(len(tokenizer)),
            vae=twin_autoencoder(),
            transformer=twin_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
            safety_checker=Unchecked(),
        )
    pipeline.register_modules(safety_checker=None)  # there is nothing to save of it
    return save_twin(pipeline, folder)


def twin_text_encoder(vocabulary: int) -> T5EncoderModel:
    """T5 with 2 layers of width 32."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=_TEXT_WIDTH,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
        )
    )


def twin_transformer() -> CosmosTransformer3DModel:
    """Cosmos2's transformer with 2 layers of width 128; positions, patches and padding mask are the published ones."""
    transformer = CosmosTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=2,
        mlp_ratio=2.0,
        text_embed_dim=_TEXT_WIDTH,
        adaln_lora_dim=16,
        rope_scale=(1.0, 4.0, 4.0),
        concat_padding_mask=True,
        extra_pos_embed_type=None,
    )
    mark_as_twin(transformer)
    return transformer


def twin_autoencoder() -> AutoencoderKLWan:
    """Wan's autoencoder of width 4; latents and pixels of photograph-like pictures have the published scale."""
    autoencoder = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()
    config: Any = autoencoder.config
    pictures = natural_pictures().unsqueeze(2)
    tame_encoder(
        autoencoder.quant_conv,
        autoencoder.encode(pictures).latent_dist.mode(),
        std=torch.tensor(config.latents_std),
        mean=torch.tensor(config.latents_mean),
    )
    z = autoencoder.encode(pictures).latent_dist.mode()
    tame_decoder(autoencoder.decoder.conv_out, autoencoder.decode(z).sample, pictures)
    return autoencoder
