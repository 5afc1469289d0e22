"""Sana's twin: every kind of layer of the real architecture, small enough for a CPU."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from transformers import Gemma2Config, Gemma2Model

from tuner.family.twins import gemma_tokenizer, natural_pictures, save_twin, tame_decoder, tame_encoder
from tuner.randomness import seeded_torch
from tuner_sana.facts import SanaOptions
from tuner_sana.text import instruction


def write_twin(folder: Path) -> Path:
    """Write the twin to `folder`, which is absent or empty, and return it.

    Raises:
        TunerError: The folder holds something already.
    """
    # The instruction's words are tokens of their own: encoding it then takes hundreds of tokens, not thousands.
    tokenizer = gemma_tokenizer(re.findall("[a-z]+", " ".join(instruction(SanaOptions())), re.IGNORECASE))
    with seeded_torch(0, "sana twin"), torch.no_grad():
        pipeline = SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=twin_text_encoder(len(tokenizer)),
            vae=twin_autoencoder(),
            transformer=twin_transformer(),
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    return save_twin(pipeline, folder)


def twin_text_encoder(vocabulary: int) -> Gemma2Model:
    """Gemma 2 with 2 layers of width 32, one of each of its kinds of attention."""
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


def twin_transformer() -> SanaTransformer2DModel:
    """Sana's transformer with 2 layers of width 64; the qk-norm is that of version 1.5."""
    return SanaTransformer2DModel(
        num_layers=2,
        num_attention_heads=8,
        attention_head_dim=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=16,
        cross_attention_dim=64,
        caption_channels=32,
        mlp_ratio=2.0,
        sample_size=32,
        qk_norm="rms_norm_across_heads",
    )


def twin_autoencoder() -> AutoencoderDC:
    """DC-AE with one block per level; latents and pixels of photograph-like pictures have the published scale."""
    widths = (8, 8, 16, 16, 32, 32)
    blocks = ("ResBlock",) * 4 + ("EfficientViTBlock",) * 2
    multiscales = ((),) * 4 + ((5,),) * 2
    autoencoder = AutoencoderDC(
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=multiscales,
        decoder_qkv_multiscales=multiscales,
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    ).eval()
    pictures = natural_pictures()
    scaling_factor = autoencoder.config.scaling_factor
    tame_encoder(autoencoder.encoder.conv_out, autoencoder.encode(pictures).latent, std=1 / scaling_factor, bypass=True)
    tame_decoder(autoencoder.decoder.conv_out, autoencoder.decode(autoencoder.encode(pictures).latent).sample, pictures)
    return autoencoder
