"""AuraFlow's twin: every kind of layer of the real architecture, small enough for a CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from diffusers.models.normalization import AdaLayerNormZero
from transformers import UMT5Config, UMT5EncoderModel

from tuner.family.tokenizers import llama_tokenizer
from tuner.family.twins import autoencoder_kl, save_twin
from tuner.randomness import seeded_torch


def write_twin(folder: Path) -> Path:
    """Write the twin to `folder`, which is absent or empty, and return it.

    Raises:
        TunerError: The folder holds something already.
    """
    tokenizer = llama_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    with seeded_torch(0, "auraflow twin"), torch.no_grad():
        pipeline = AuraFlowPipeline(
            tokenizer=tokenizer,
            text_encoder=twin_text_encoder(len(tokenizer)),
            vae=autoencoder_kl(latent_channels=4, scaling_factor=0.13025),
            transformer=twin_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        )
    return save_twin(pipeline, folder)


def twin_text_encoder(vocabulary: int) -> UMT5EncoderModel:
    """UMT5's encoder with 2 layers of width 32."""
    return UMT5EncoderModel(
        UMT5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0)
    )


def twin_transformer() -> AuraFlowTransformer2DModel:
    """AuraFlow's transformer with 1 joint and 2 single layers of width 64, for pictures of up to 256 pixels a side."""
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=64,
        pos_embed_max_size=256,
    )
    # Random gates are so near to 0 that what adapters change would hardly reach the output.
    for module in transformer.modules():
        if isinstance(module, AdaLayerNormZero):
            module.linear.weight *= 10
    return transformer
