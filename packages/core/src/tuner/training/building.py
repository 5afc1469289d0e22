"""Putting together what a run trains and what it trains on."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from tuner.adapters.base import Trainable
from tuner.adapters.create import create_trainable
from tuner.config import RunConfig
from tuner.config.compiling import training_backend
from tuner.config.ema import EmaConfig
from tuner.flow import AutoShift
from tuner.optim.ema import MovingAverage
from tuner.optim.optimizers import create_optimizer
from tuner.optim.scaling import LossScale
from tuner.optim.schedules import Schedule
from tuner.training.attention import use_attention
from tuner.training.batches import BatchSource
from tuner.training.compiling import compile_blocks
from tuner.training.data import PreparedData
from tuner.training.loop import Learner
from tuner.training.offloading import HOST, group_offload, place_trainable
from tuner.training.recomputing import recompute_blocks
from tuner.training.session import Session
from tuner.training.sharded import shard_denoiser


def build_learner(session: Session, *, fresh: bool) -> Learner:
    """Load the denoiser, put the adapter in, and make optimizer and moving average.

    Args:
        session: The run's surroundings.
        fresh: Whether the run starts here instead of from a checkpoint.

    Raises:
        TunerError: The settings do not fit the model.
    """
    config = session.config
    offload, shards = group_offload(config, session.device), session.shards
    components = session.load("denoiser", "scheduler", device=HOST if offload or shards else None)
    assert components.denoiser is not None  # asked for, so the contract promises it
    # Gradients are added up over processes by ourselves, so nothing has to wrap the model.
    components.denoiser = denoiser = session.accelerator.prepare_model(
        components.denoiser, device_placement=False if offload or shards else None, evaluation_mode=True
    )
    use_attention(denoiser, config.memory.attention_mechanism, session.facts.title)
    trainable = create_trainable(
        model_type=config.model.model_type,
        adapter=config.adapter,
        lycoris=config.lycoris,
        facts=session.facts,
        denoiser=denoiser,
        dtype=session.dtypes.trained,
        seed=session.seed,
        fresh=fresh,
    )
    if offload:
        offload.apply(denoiser, session.device)
        place_trainable(trainable, session.device)
    if config.optimisation.gradient_checkpointing:
        recompute_blocks(denoiser, session.facts.title, config.optimisation.gradient_checkpointing_interval or 1)
    if backend := training_backend(config.launch):
        compile_blocks(denoiser, backend, session.facts.title)
    denoiser.train()
    sharded = None
    if shards:
        frees = config.frees_blocks
        sharded = shard_denoiser(denoiser, session.processes, session.device, session.facts.title, frees=frees)
    return Learner(
        components,
        trainable,
        _optimizer(session, trainable),
        _average(config.ema, trainable),
        sharded,
        LossScale(session.device) if session.dtypes.casts else None,
    )


def build_schedule(config: RunConfig, total_steps: int) -> Schedule:
    """Make the learning rate's schedule for a run of so many steps."""
    optimisation = config.optimisation
    return Schedule(
        optimisation.lr_scheduler,
        optimisation.learning_rate,
        total_steps,
        warmup_steps=optimisation.lr_warmup_steps,
        end=optimisation.lr_end,
        cycles=optimisation.lr_num_cycles,
    )


def build_source(session: Session, learner: Learner, data: PreparedData) -> BatchSource:
    """Make the source of micro-batches; the parameters of the automatic shift are the model's own."""
    scheduler: Any = learner.components.scheduler
    published = {name: scheduler.config.get(name) for name in AutoShift.__dataclass_fields__}
    auto_shift = AutoShift(**{name: value for name, value in published.items() if value is not None})
    optimisation = session.config.optimisation
    return BatchSource(
        plan=data.plan,
        seed=session.seed,
        accumulation=data.plan.accumulation,
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
        rank=session.processes.rank,
        processes=session.processes.count,
    )


def _optimizer(session: Session, trainable: Trainable) -> Optimizer:
    optimisation = session.config.optimisation
    return create_optimizer(
        optimisation.optimizer,
        trainable.named_parameters(),
        optimisation.learning_rate,
        session.dtypes.trained,
        optimisation.optimizer_arguments,
        release=optimisation.releases_gradients,
        clip_value=optimisation.gradient_limit if optimisation.grad_clip_method == "value" else 0.0,
        sharded=session.shards,
    )


def _average(ema: EmaConfig, trainable: Trainable) -> MovingAverage | None:
    if not ema.use_ema:
        return None
    return MovingAverage(
        trainable.named_parameters(),
        ema.ema_decay,
        ema.ema_update_interval,
        warmup_steps=ema.ema_warmup_steps,
        kept_on_cpu=ema.ema_device == "cpu",
        updated_on_cpu=ema.ema_cpu_only,
        all_at_once=not ema.ema_foreach_disable,
    )
