"""The typed objects that travel through the hooks of `tuner.hookspecs`.

Legend of shape suffixes: B batch, C channels, H and W height and width, L text tokens, D features.
Importing this module imports neither torch nor diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Part = Literal["text_encoders", "codec", "denoiser", "scheduler"]
"""What can be loaded alone. `text_encoders` includes tokenizers; `codec` is the VAE."""

Role = Literal["caption", "negative", "unconditional"]
"""Why a prompt is encoded: to train on or sample from, to steer away from, or as the empty caption."""

Conditioning = Mapping[str, "Tensor"]
"""What text becomes: batch-first tensors by name, equal in shape from one prompt to the next."""


@dataclass(frozen=True)
class Flavour:
    """One published set of weights of a family.

    Attributes:
        repo: Repository on the Hugging Face Hub, in diffusers layout.
        note: One line for people, such as a size.
        warning: Why these weights are a bad choice for training; shown when they are chosen.
        setting_defaults: Defaults of settings that differ for these weights; they win over the family's.
        licence: Their licence, written as `FamilyFacts.licence`, where it is another one.
    """

    repo: str
    note: str = ""
    warning: str = ""
    setting_defaults: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""


class FamilyOptions(BaseModel):
    """Base of a family's own settings. Unknown ones are refused; building waits, so that listing families is quick."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)


class NoOptions(FamilyOptions):
    """The options of a family that has none of its own."""


@dataclass(frozen=True)
class PromptLimit:
    """How many tokens of a prompt reach the model by way of one tokenizer.

    Attributes:
        tokenizer: Its sub-folder.
        tokens: Most tokens, special ones included.
        text: Prompt -> the text that the tokenizer is given, where that is not the prompt itself.
        counts: What `tokens` counts: the whole text, or only what the prompt adds to the text of the empty prompt.
        cut: Whether longer prompts lose their end; if not, the number is advice.
    """

    tokenizer: str
    tokens: int
    text: Callable[[str], str] | None = None
    counts: Literal["text", "prompt"] = "text"
    cut: bool = True


@dataclass(frozen=True)
class OriginalLayer:
    """A layer of the checkpoint as the model's authors published it, and what diffusers made of it.

    Attributes:
        original: Its name there. `{}` stands for a number, here and in `layers`, in the same order.
        layers: diffusers' names: one, or several where the original has them in one matrix, whose rows are those of the
            first, then those of the next, all equally many.
    """

    original: str
    layers: tuple[str, ...]


def same_names(*names: str) -> tuple[OriginalLayer, ...]:
    """Return layers that diffusers left their names."""
    return tuple(OriginalLayer(name, (name,)) for name in names)


TORCH_ATTENTION = "its layers call torch's own attention and take no other kernel"
"""Why `attention_mechanism` means nothing to a family whose network does not use diffusers' attention dispatcher."""


@dataclass(frozen=True)
class Usage:
    """How people load and call a family with diffusers alone. Model cards show it as code.

    Attributes:
        pipeline: Name of the pipeline's class in diffusers.
        packages: What must be installed besides diffusers and what every card names.
        setup: (width, height) of pictures in pixels -> lines of Python that prepare `pipeline` for them.
        classes: Sub-folder of `FamilyFacts.borrowed_folders` -> name of the transformers class that loads it.
        call: The family's own settings -> keyword arguments of a call without which pictures differ from those of a
            run's validation. Sizes, steps, guidance and prompts are the core's.
    """

    pipeline: str
    packages: tuple[str, ...] = ()
    setup: Callable[[int, int], tuple[str, ...]] | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    call: Callable[[Any], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class FamilyFacts:
    """The data sheet of a model family.

    Attributes:
        name: Canonical name, the one of its entry point; further entry points to the same module are aliases.
        title: Name for people.
        flavours: Published weights by flavour name.
        default_flavour: A key of `flavours`.
        latent_channels: Channels of a latent.
        latent_stride: Pixels per latent cell, along each side.
        patch_size: Latent cells per token, along each side of the denoiser's grid.
        pixel_alignment: Sides of training pictures are rounded to multiples of this many pixels.
        token_limit: Longest prompt in tokens, special ones included, or None where nothing limits it.
        adapter_targets: Names of the linear layers that a standard LoRA adapts.
        part_folders: Sub-folders of the diffusers layout that each part is read from.
        licence: Licence of the default weights: the hub's name of it and, in brackets, its title where that is
            "other", or what else counts.
        class_aliases: Class names that people write in LyCORIS presets -> this family's own class names.
        canvas_limit: Largest number of pixels in a picture, or None.
        side_limit: The denoiser's config.json, parsed -> longest side of a picture in pixels.
        prompt_limits: The family's own settings -> the limit of each tokenizer, where that is not simply
            `token_limit` tokens of the prompt as it is.
        codec_version: Changes whenever the codec's `encode` gives other numbers for the same weights.
        codec_dtype: dtype in which latents are computed, by name; None for the compute dtype.
        conditioning_masks: Conditioning tensor -> the tensor that masks its padding (1 keep, 0 ignore).
        conditioning_padding: Conditioning tensors whose rows differ in length -> the value that fills the end of
            shorter rows when they are stacked.
        borrowed_folders: Sub-folder -> hub repository that holds it where the model's own repository lacks it.
        uncompilable: Why the denoiser's blocks cannot be compiled one by one; empty where they can.
        exact_attention: Classes of the denoiser's attention processors that compute in float32 on their own account,
            which automatic casting to float16 would undo.
        tiny_autoencoder: Hub repository of a tiny autoencoder for previews, or None.
        options: pydantic model of the family's own settings; its fields join the configuration's keys.
        text_options: Fields of `options` that conditionings depend on; None for all of them.
        setting_defaults: Defaults of core settings that differ in this family.
        inert_settings: Core settings that mean nothing in this family -> why; values that people give are
            reported and replaced by the default.
        advice: Topic -> advice for people (learning rates, memory), marked with its source.
        usage: How people use what was trained, or None.
        original_layers: Names that layers have in the original checkpoint, which programs such as ComfyUI use. No name
            stands in two of them.
    """

    name: str
    title: str
    flavours: Mapping[str, Flavour]
    default_flavour: str
    latent_channels: int
    latent_stride: int
    patch_size: int
    pixel_alignment: int
    token_limit: int | None
    adapter_targets: tuple[str, ...]
    part_folders: Mapping[Part, tuple[str, ...]]
    licence: str
    class_aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    canvas_limit: int | None = None
    side_limit: Callable[[Mapping[str, Any]], int] | None = None
    prompt_limits: Callable[[Any], tuple[PromptLimit, ...]] | None = None
    codec_version: str = "1"
    codec_dtype: str | None = None
    conditioning_masks: Mapping[str, str] = field(default_factory=dict)
    conditioning_padding: Mapping[str, float] = field(default_factory=dict)
    borrowed_folders: Mapping[str, str] = field(default_factory=dict)
    uncompilable: str = ""
    exact_attention: tuple[str, ...] = ()
    tiny_autoencoder: str | None = None
    options: type[BaseModel] = NoOptions
    text_options: tuple[str, ...] | None = None
    setting_defaults: Mapping[str, Any] = field(default_factory=dict)
    inert_settings: Mapping[str, str] = field(default_factory=dict)
    advice: Mapping[str, str] = field(default_factory=dict)
    usage: Usage | None = None
    original_layers: tuple[OriginalLayer, ...] = ()

    @property
    def text_encoder_folders(self) -> tuple[str, ...]:
        """Sub-folders of the text encoders, in the order in which settings count them; tokenizers are left out."""
        folders = self.part_folders.get("text_encoders", ())
        return tuple(folder for folder in folders if not folder.startswith("tokenizer"))


@dataclass(frozen=True)
class ComponentRequest:
    """Which parts to load, from where and how.

    Attributes:
        folder: A local folder in diffusers layout that holds the parts asked for, but for `borrowed` ones.
        parts: The parts asked for; no other may be loaded.
        dtype: dtype of every part that `dtypes` does not name.
        dtypes: dtype by part.
        device: Where the parts are put.
        options: The family's own settings, an instance of `FamilyFacts.options`.
        borrowed: Local folders of the sub-folders that come from another repository.
    """

    folder: Path
    parts: frozenset[Part]
    dtype: torch.dtype
    device: torch.device
    options: BaseModel
    dtypes: Mapping[Part, torch.dtype] = field(default_factory=dict)
    borrowed: Mapping[str, Path] = field(default_factory=dict)

    def path_of(self, subfolder: str) -> Path:
        """Return the folder that holds what the diffusers layout has in `subfolder`."""
        return self.borrowed.get(subfolder, self.folder / subfolder)

    def dtype_of(self, part: Part) -> torch.dtype:
        """Return the dtype in which `part` is wanted."""
        return self.dtypes.get(part, self.dtype)


class LatentCodec(Protocol):
    """Pixels to normalised latents and back. Normalised: what the denoiser is trained on."""

    module: nn.Module
    """The autoencoder itself."""

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode RGB pixels in [-1, 1] to batch-first normalised latents. Deterministic: no sampling."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents to RGB pixels, nominally in [-1, 1], of shape (B, 3, H, W)."""
        ...


@dataclass
class Components:
    """The loaded parts of a model. What was not asked for is None or empty.

    Attributes:
        folder: Where the parts came from.
        options: The family's own settings.
        text_encoders: Encoders by sub-folder name.
        tokenizers: Tokenizers by sub-folder name.
        codec: The latent codec.
        denoiser: The network that is trained.
        scheduler: The sampling scheduler, a diffusers object.
    """

    folder: Path
    options: BaseModel
    text_encoders: dict[str, nn.Module] = field(default_factory=dict)
    tokenizers: dict[str, Any] = field(default_factory=dict)
    codec: LatentCodec | None = None
    denoiser: nn.Module | None = None
    scheduler: Any = None


@dataclass(frozen=True)
class Batch:
    """A noised batch, ready for the denoiser.

    Attributes:
        x: `(1 - sigma) * x0 + sigma * noise`, in the compute dtype; batch-first, the latents' own shape.
        sigma: Share of noise in [0, 1], float32, shape (B,); 1 is pure noise.
        target: The velocity `noise - x0`, float32, shaped as `x`.
        conditioning: The prompts' conditioning, B rows.
    """

    x: Tensor
    sigma: Tensor
    target: Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class Prediction:
    """What a family answers for a `Batch`.

    Attributes:
        velocity: Predicted velocity, shaped as `Batch.x`.
        weight: Weight of the squared velocity error, broadcastable to `velocity`; None for 1.
        auxiliary: Further losses by name, scalars that are added to the main loss as they are.
        metrics: Scalars by name that are logged and change nothing.
    """

    velocity: Tensor
    weight: Tensor | None = None
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Guidance:
    """How a pipeline asks the denoiser about prompt and negative prompt, and what it makes of the answers.

    Attributes:
        order: `negative_first` or `prompt_first`: both are rows of one call, in two halves. `two_calls`: each has a
            call of its own, the prompt first.
        neutral_scale: Scale at which the negative prompt has no influence: of the answers c and u the pipeline makes
            c + (scale - neutral_scale) * (c - u).
    """

    order: Literal["negative_first", "prompt_first", "two_calls"] = "negative_first"
    neutral_scale: float = 1.0


@dataclass(frozen=True)
class Sampler:
    """A diffusers pipeline around the live denoiser, and how to hand it conditionings.

    Attributes:
        pipeline: The pipeline. Called with `arguments(...)`, `height`, `width`, `num_inference_steps`,
            `guidance_argument`, `generator` or `latents`, and `output_type`.
        arguments: (conditioning, negative conditioning or None without guidance) -> keyword arguments of the
            pipeline, the family's constant ones included.
        guidance_argument: Keyword of the guidance scale.
        guidance: How the pipeline guides. The default is that of most pipelines; the conformance kit checks it. One
            that guides in no such way says why under `validation_guidance_rescale` in `FamilyFacts.inert_settings`.
    """

    pipeline: Any
    arguments: Callable[[Conditioning, Conditioning | None], dict[str, Any]]
    guidance_argument: str = "guidance_scale"
    guidance: Guidance = Guidance()


@dataclass(frozen=True)
class PartPolicy:
    """Which number formats one part may be stored in.

    Attributes:
        allowed: Values of the precision setting that work: the conformance kit proves each of them. What is neither
            allowed nor refused runs only for people who say that they know what they are doing.
        refused: Value -> reason, for those that must be turned down.
        skip_layers: Glob patterns of layers that stay as they are, with all that is inside them.
        discouraged: Value -> reason, for those that are neither, and that nobody would choose who knew it.
    """

    allowed: tuple[str, ...] = ("no_change",)
    refused: Mapping[str, str] = field(default_factory=dict)
    skip_layers: tuple[str, ...] = ()
    discouraged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantisationPolicy:
    """What may be stored in which number format.

    Attributes:
        parts: The policy of each part that may be quantised. A part that is absent may not.
        one_library: Precision settings whose schemes must be of one library, where several of them quantise.
    """

    parts: Mapping[Part, PartPolicy] = field(default_factory=dict)
    one_library: tuple[str, ...] = ()
