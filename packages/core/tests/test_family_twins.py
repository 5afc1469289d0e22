from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn

from tuner.family.twins import (
    gemma_tokenizer,
    is_twin,
    mark_as_twin,
    natural_pictures,
    tame_decoder,
    tame_encoder,
    word_pieces,
)


def test_natural_pictures_are_deterministic_and_in_range():
    pictures = natural_pictures(2, 64)
    assert pictures.shape == (2, 3, 64, 64)
    assert pictures.abs().max() <= 1
    torch.manual_seed(9)
    assert torch.equal(natural_pictures(2, 64), pictures)
    assert 0.4 < pictures.std() < 0.55


def test_natural_pictures_lose_power_with_frequency_as_photographs_do():
    spectrum = torch.fft.fft2(natural_pictures(8, 64)).abs().square().mean(dim=(0, 1))
    frequency = torch.fft.fftfreq(64).mul(64)
    radius = (frequency[:, None].square() + frequency[None].square()).sqrt()
    power = [spectrum[(radius >= low) & (radius < 2 * low)].mean() for low in (2, 4, 8, 16)]
    for coarse, fine in pairwise(power):
        assert 2 < coarse / fine < 10  # 4 is 1/f^2


@pytest.mark.parametrize("bypass", [False, True])
@torch.no_grad()
def test_tame_encoder_is_exact(bypass):
    torch.manual_seed(0)
    last = nn.Conv2d(6, 6, 3, padding=1)
    hidden = 3 * torch.randn(2, 6, 8, 8) + 1

    def encode():
        return last(hidden) + (hidden if bypass else 0)

    tame_encoder(last, encode(), std=2.5, bypass=bypass)
    assert encode().mean(dim=(0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(encode().std(dim=(0, 2, 3)), torch.full((6,), 2.5))


@torch.no_grad()
def test_tame_encoder_leaves_a_predicted_variance_alone():
    torch.manual_seed(0)
    last = nn.Conv2d(6, 8, 3, padding=1)
    hidden = torch.randn(2, 6, 8, 8)
    variance = last(hidden)[:, 4:]
    tame_encoder(last, last(hidden)[:, :4], std=1.0)
    assert torch.equal(last(hidden)[:, 4:], variance)
    torch.testing.assert_close(last(hidden)[:, :4].std(dim=(0, 2, 3)), torch.ones(4))


@torch.no_grad()
def test_tame_decoder_matches_the_pictures():
    torch.manual_seed(0)
    last = nn.Conv2d(6, 3, 3, padding=1)
    hidden, pictures = torch.randn(2, 6, 8, 8), natural_pictures(2, 8)
    tame_decoder(last, last(hidden), pictures)
    torch.testing.assert_close(last(hidden).std(dim=(0, 2, 3)), pictures.std(dim=(0, 2, 3)))
    torch.testing.assert_close(last(hidden).mean(dim=(0, 2, 3)), pictures.mean(dim=(0, 2, 3)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_autoencoders_of_videos_are_tamed_channel_by_channel():
    torch.manual_seed(0)
    last, axes = nn.Conv3d(6, 4, 3, padding=1), (0, 2, 3, 4)
    hidden = torch.randn(2, 6, 1, 8, 8)
    mean, std = torch.tensor([-1.0, 0.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0, 4.0])
    tame_encoder(last, last(hidden), std=std, mean=mean)
    torch.testing.assert_close(last(hidden).mean(dim=axes), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(last(hidden).std(dim=axes), std)
    last, pictures = nn.Conv3d(6, 3, 3, padding=1), natural_pictures(2, 8).unsqueeze(2)
    tame_decoder(last, last(hidden), pictures)
    torch.testing.assert_close(last(hidden).std(dim=axes), pictures.std(dim=axes))
    torch.testing.assert_close(last(hidden).mean(dim=axes), pictures.mean(dim=axes), rtol=0, atol=1e-5)


def test_a_twins_mark_survives_saving_and_says_nothing_of_others(tmp_path):
    model = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    assert not is_twin(model)
    mark_as_twin(model)
    model.save_pretrained(tmp_path)
    assert is_twin(AutoencoderTiny.from_pretrained(tmp_path))


def test_word_pieces_number_the_specials_first():
    tokens, merges = word_pieces(("<pad>", "<bos>"), ["ab", "b-c", "ab"])
    assert list(tokens)[:3] == ["<pad>", "<bos>", "<0x00>"]
    assert list(tokens.values()) == list(range(len(tokens)))
    assert merges == [("\u2581", "a"), ("\u2581a", "b")]
    assert tokens["\u2581ab"] == len(tokens) - 1


@pytest.mark.parametrize("text", ["a photo of a cat", "Zoë  drinks ☕\n42!", " x"])
def test_gemma_tokenizer_loses_nothing(text):
    tokenizer = gemma_tokenizer(["photo", "cat"])
    tokens = tokenizer.encode(text)
    assert tokens[0] == tokenizer.bos_token_id == 2
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_gemma_tokenizer_knows_its_words():
    assert len(gemma_tokenizer(["photo", "cat"]).encode("a photo cat")) == 4  # bos, a, photo, cat
    assert (gemma_tokenizer().pad_token_id, gemma_tokenizer().eos_token_id) == (0, 1)
