"""Building twins: tiny random checkpoints, the same bytes on every call.

Build inside `tuner.randomness.seeded_torch`, bring the autoencoder to a sane scale with `tame_encoder` and
`tame_decoder`, and write with `save_twin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import TunerError
from tuner.randomness import normal_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

_MARK = "_tuner_twin"

SPACE = "\u2581"
"""The mark that sentence-piece vocabularies put where a space was."""


def save_twin(pipeline: Any, folder: Path) -> Path:
    """Write a diffusers pipeline, tokenizers included, to a folder that is absent or empty, and return the folder.

    Raises:
        TunerError: The folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TunerError(f"{folder} is not empty; a twin is written to a new folder\n    -> name another folder")
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder


def mark_as_twin(denoiser: Any) -> None:
    """Note in a diffusers model's configuration that its weights are random; saving and loading keep the note."""
    denoiser.register_to_config(**{_MARK: True})


def is_twin(denoiser: Any) -> bool:
    """Whether `mark_as_twin` was called on a model, or on the one that it was trained from."""
    return bool(denoiser.config.get(_MARK))


def natural_pictures(count: int = 4, size: int = 256) -> Tensor:
    """Make pseudo-random pictures whose power falls with frequency as that of photographs does.

    Args:
        count: Number of pictures.
        size: Edge in pixels, a power of two.

    Returns:
        float32 tensor (count, 3, size, size) in [-1, 1] with a standard deviation of about 0.5.
    """
    import torch
    from torch.nn import functional

    pictures = torch.zeros(count, 3, size, size)
    edge = 1
    while edge <= size:
        # Equal variance per octave is a power spectrum of 1/f^2 in two dimensions.
        noise = normal_tensor((count, 3, edge, edge), 0, f"natural pictures, edge {edge}")
        pictures += functional.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)
        edge *= 2
    return (0.5 * pictures / pictures.std()).clamp(-1, 1)


def tame_encoder(
    last: nn.Module, output_BCHW: Tensor, std: float | Tensor, mean: float | Tensor = 0.0, bypass: bool = False
) -> None:
    """Change an encoder's last convolution so that each output channel has the mean and standard deviation asked for.

    Exact, since the layer is linear: weight and bias are multiplied by g, and the bias is moved. Autoencoders of videos
    are served too: tensors may have a dimension of frames before H and W.

    Args:
        last: The convolution (an odd kernel, stride 1).
        output_BCHW: What the encoder gives on typical pictures; only the convolution's first channels count.
        std: Standard deviation wanted, for all channels or for each.
        mean: Mean wanted, likewise.
        bypass: The encoder adds the convolution's own input to its output. The convolution then also gets
            (g - 1) times the identity, which scales that share as well.
    """
    import torch

    convolution: Any = last
    channels = output_BCHW.shape[1]
    mean_C, std_C = _moments(output_BCHW)
    gain_C = std / std_C
    with torch.no_grad():
        convolution.weight[:channels] *= _along_first(gain_C, convolution.weight)
        convolution.bias[:channels] = (convolution.bias[:channels] - mean_C) * gain_C + mean
        if bypass:
            centre = convolution.kernel_size[0] // 2
            index = torch.arange(channels)
            convolution.weight[index, index, centre, centre] += gain_C - 1


def tame_decoder(last: nn.Module, output_BCHW: Tensor, pictures_BCHW: Tensor) -> None:
    """Change a decoder's last convolution so that its pictures have the means and deviations of `pictures_BCHW`."""
    import torch

    convolution: Any = last
    (mean_C, std_C), (wanted_mean_C, wanted_std_C) = _moments(output_BCHW), _moments(pictures_BCHW)
    gain_C = wanted_std_C / std_C
    with torch.no_grad():
        convolution.weight *= _along_first(gain_C, convolution.weight)
        convolution.bias.copy_((convolution.bias - mean_C) * gain_C + wanted_mean_C)


def _moments(tensor_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel."""
    axes = (0, *range(2, tensor_BCHW.ndim))
    return tensor_BCHW.mean(dim=axes), tensor_BCHW.std(dim=axes)


def _along_first(values: Tensor, like: Tensor) -> Tensor:
    """View a vector so that it broadcasts along the first dimension of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def autoencoder_kl(latent_channels: int, scaling_factor: float, shift_factor: float | None = None, **more: Any) -> Any:
    """Build diffusers' `AutoencoderKL` of 8 pixels per latent cell, one narrow block per level.

    Latents and pixels of photograph-like pictures get the published scale. To be called without gradients.

    Args:
        latent_channels: Channels of a latent.
        scaling_factor: Published factor of the latents.
        shift_factor: Published shift of the latents; None for none.
        **more: Further arguments of `AutoencoderKL`.
    """
    from diffusers import AutoencoderKL

    autoencoder: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        latent_channels=latent_channels,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        **more,
    ).eval()
    pictures = natural_pictures()
    # A convolution that mixes the channels once more follows in some versions; the last one is the one to change.
    last = autoencoder.quant_conv if autoencoder.quant_conv is not None else autoencoder.encoder.conv_out
    latents = autoencoder.encode(pictures).latent_dist.mode()
    tame_encoder(last, latents, std=1 / scaling_factor, mean=shift_factor or 0.0)
    latents = autoencoder.encode(pictures).latent_dist.mode()
    tame_decoder(autoencoder.decoder.conv_out, autoencoder.decode(latents).sample, pictures)
    return autoencoder


def word_pieces(specials: Sequence[str], words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Make a byte-pair vocabulary of the sentence-piece kind: bytes, printable ASCII and some whole words.

    Args:
        specials: Special tokens; they get the first numbers, in this order.
        words: Words that become one token each where they follow a space.

    Returns:
        Token -> number, and the merges in order.
    """
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *(chr(code) for code in range(33, 127))]
    merges: dict[tuple[str, str], None] = {}
    for word in sorted(set(words)):
        if word.isascii() and word.isalnum():
            merges.update(dict.fromkeys((SPACE + word[:at], word[at]) for at in range(len(word))))
    tokens += [left + right for left, right in merges]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, list(merges)


def gemma_tokenizer(words: Iterable[str] = ()) -> Any:
    """Build a Gemma tokenizer in memory: every text can be encoded, and begins with bos.

    Numbers 0 to 4 are pad, eos, bos, unk and mask.

    Args:
        words: Words that become one token each where they follow a space; all else takes a token per character.
    """
    from transformers import GemmaTokenizer

    vocabulary, merges = word_pieces(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), words)
    return GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
