"""What training sees of a family under test: batches as the core draws them, and everything that can be trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from tuner.adapters import Trainable, create_trainable
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig, LycorisPreset
from tuner.optim.optimizers import create_optimizer
from tuner.randomness import normal_tensor
from tuner.testing.family import LONG_PROMPT, SHORT_PROMPT, FamilyUnderTest
from tuner.training.batches import DrawnBatch
from tuner.training.loop import Learner
from tuner.training.step import Learning, backward_step

if TYPE_CHECKING:
    from tuner.types import Components

SIGMAS = (0.25, 0.75)
"""Shares of noise of the two samples of `drawn`."""


@dataclass(frozen=True)
class Kind:
    """A way to train a denoiser.

    Attributes:
        model_type: An adapter or all weights.
        learning_rate: One that changes the velocity visibly within three steps.
        tensors: Tensors that an exported adapter has for each adapted layer.
        adapter: Kind of adapter and size of a standard LoRA.
        lycoris: The LyCORIS file, where the adapter is one of LyCORIS'.
    """

    model_type: Literal["lora", "full"]
    learning_rate: float
    tensors: tuple[str, ...] = ()
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    lycoris: LycorisConfig | None = None


def lokr(**settings: bool | LycorisPreset) -> LycorisConfig:
    """Return a LoKr with unfactorised second matrices, by default on the attentions and feed-forwards."""
    return LycorisConfig.model_validate(
        {"algo": "lokr", "multiplier": 1.0, "linear_alpha": 1.0, "factor": 4, "full_matrix": True, **settings}
    )


_LORA = ("lora_A.weight", "lora_B.weight")
_LOKR = ("alpha", "lokr_w1", "lokr_w2")

KINDS = {
    "standard": Kind("lora", 0.03, _LORA, AdapterConfig(lora_type="standard", lora_rank=4, lora_dropout=0.0)),
    "lokr": Kind("lora", 0.03, _LOKR, AdapterConfig(lora_type="lycoris"), lokr()),
    "lokr that rebuilds weights": Kind(
        "lora",
        0.03,
        _LOKR,
        AdapterConfig(lora_type="lycoris"),
        lokr(bypass_mode=False, use_scalar=True, apply_preset=LycorisPreset(target_module=["Attention"])),
    ),
    "full": Kind("full", 1e-3),
}
"""Everything that can be trained, by name."""


def adapt(family: FamilyUnderTest, components: Components, kind: Kind, dtype: torch.dtype = torch.float32) -> Trainable:
    """Make a denoiser trainable in one of the ways, in a dtype."""
    assert components.denoiser is not None
    return create_trainable(
        model_type=kind.model_type,
        adapter=kind.adapter,
        lycoris=kind.lycoris,
        facts=family.facts,
        denoiser=components.denoiser,
        dtype=dtype,
        seed=1,
    )


def learner(family: FamilyUnderTest, kind: Kind) -> Learner:
    """Load a denoiser and make what a run would train."""
    components = family.load("denoiser")
    trainable = adapt(family, components, kind)
    optimizer = create_optimizer("optimi-adamw", trainable.named_parameters(), kind.learning_rate, dtype=torch.float32)
    return Learner(components, trainable, optimizer)


def learning(family: FamilyUnderTest, components: Components, trainable: Trainable) -> Learning:
    """Return what a step's mathematics works with."""
    return Learning(family.hooks, components, trainable, torch.device("cpu"), torch.float32)


def drawn(family: FamilyUnderTest, step: int = 0) -> DrawnBatch:
    """Return a batch of two samples as the core draws it, with other noise at every step."""
    latents, conditioning = family.inputs([LONG_PROMPT, SHORT_PROMPT])
    return DrawnBatch(
        keys=("data/long.png#0", "data/short.png#0"),
        latents=latents,
        noise=normal_tensor(latents.shape, 1, "noise", step),
        sigma=torch.tensor(SIGMAS),
        conditioning=conditioning,
    )


def train(family: FamilyUnderTest, subject: Learner, first: int, last: int) -> None:
    """Take steps `first` to `last - 1`. The last step's gradients stay; the denoiser is left in evaluation mode."""
    denoiser = subject.trainable.denoiser
    denoiser.train()
    mathematics = learning(family, subject.components, subject.trainable)
    for step in range(first, last):
        subject.optimizer.zero_grad()
        backward_step(mathematics, [drawn(family, step)], torch.Tensor.backward)
        subject.optimizer.step()
    denoiser.eval()
