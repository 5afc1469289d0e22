"""Putting together what a run trains and what it trains on."""

from __future__ import annotations

from typing import Any

from torch import nn

from tuner.adapters.create import create_trainable
from tuner.errors import TunerError
from tuner.flow import AutoShift
from tuner.optim.ema import MovingAverage
from tuner.optim.optimizers import create_optimizer
from tuner.training.attention import use_attention
from tuner.training.batches import BatchSource
from tuner.training.data import PreparedData
from tuner.training.loop import Learner
from tuner.training.offloading import HOST, group_offload, place_trainable
from tuner.training.session import Session
from tuner.types import FamilyFacts


def build_learner(session: Session, *, fresh: bool) -> Learner:
    """Load the denoiser, put the adapter in, and make optimizer and moving average.

    Args:
        session: The run's surroundings.
        fresh: Whether the run starts here instead of from a checkpoint.

    Raises:
        TunerError: The settings do not fit the model.
    """
    config = session.config
    offload = group_offload(config, session.device)
    components = session.load("denoiser", "scheduler", device=HOST if offload else None)
    assert components.denoiser is not None  # asked for, so the contract promises it
    components.denoiser = denoiser = session.accelerator.prepare_model(
        components.denoiser, device_placement=False if offload else None
    )
    use_attention(denoiser, config.memory.attention_mechanism, session.facts.title)
    trainable = create_trainable(
        model_type=config.model.model_type,
        adapter=config.adapter,
        lycoris=config.lycoris,
        facts=session.facts,
        denoiser=denoiser,
        dtype=session.dtype,
        seed=session.seed,
        fresh=fresh,
    )
    if offload:
        offload.apply(denoiser, session.device)
        place_trainable(trainable, session.device)
    if config.optimisation.gradient_checkpointing:
        _enable_checkpointing(denoiser, session.facts)
    denoiser.train()
    parameters = trainable.named_parameters()
    optimisation = config.optimisation
    optimizer = create_optimizer(optimisation.optimizer, parameters, optimisation.learning_rate, session.dtype)
    average = None
    if config.ema.use_ema:
        average = MovingAverage(parameters, config.ema.ema_decay, config.ema.ema_update_interval)
    return Learner(components, trainable, optimizer, average)


def build_source(session: Session, learner: Learner, data: PreparedData) -> BatchSource:
    """Make the source of micro-batches; the parameters of the automatic shift are the model's own."""
    scheduler: Any = learner.components.scheduler
    published = {name: scheduler.config.get(name) for name in AutoShift.__dataclass_fields__}
    auto_shift = AutoShift(**{name: value for name, value in published.items() if value is not None})
    optimisation = session.config.optimisation
    return BatchSource(
        plan=data.plan,
        seed=session.seed,
        accumulation=optimisation.gradient_accumulation_steps,
        schedule=session.config.flow.schedule(auto_shift),
        patch_size=session.facts.patch_size,
        caption_dropout=optimisation.caption_dropout_probability,
        read_latent=data.latents.read,
        read_conditioning=data.conditionings.read,
        conditioning_padding=session.facts.conditioning_padding,
        read_mask=data.masks.read,
        in_epoch=data.in_epoch if data.latents.redraws else None,
        regularisation=frozenset(entry.id for entry in session.config.datasets if entry.is_regularisation_data),
        scheduled_sampling=session.config.scheduled_sampling,
        pin=session.device.type == "cuda",
    )


def _enable_checkpointing(denoiser: nn.Module, facts: FamilyFacts) -> None:
    enable = getattr(denoiser, "enable_gradient_checkpointing", None)
    if enable is None:
        raise TunerError(f"gradient_checkpointing: {facts.title} cannot recompute activations\n    -> set it to false")
    enable()
