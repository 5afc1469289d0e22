from __future__ import annotations

import torch
from diffusers import AutoencoderDC, AutoencoderKL

from tuner.family.codecs import ScaledCodec


def kl() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()


@torch.no_grad()
def test_shift_and_scale_of_a_kl_autoencoder():
    vae = kl()
    codec = ScaledCodec(vae)
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = codec.encode(pixels)
    torch.testing.assert_close(latents, (vae.encode(pixels).latent_dist.mode() - 0.1159) * 0.3611)
    assert latents.shape == (2, 4, 8, 12)
    torch.testing.assert_close(codec.decode(latents), vae(pixels).sample, rtol=0, atol=1e-5)
    assert torch.equal(codec.encode(pixels), latents)


@torch.no_grad()
def test_pixels_and_latents_are_brought_to_the_modules_dtype():
    codec = ScaledCodec(kl().to(torch.bfloat16))
    latents = codec.encode(torch.zeros(1, 3, 16, 16))
    assert latents.dtype == torch.bfloat16
    assert codec.decode(latents.float()).dtype == torch.bfloat16


def test_an_autoencoder_without_a_shift_has_none():
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.5,
    )
    assert (ScaledCodec(vae).scale, ScaledCodec(vae).shift) == (0.5, 0.0)
