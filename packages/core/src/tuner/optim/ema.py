"""The exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from tuner.errors import CheckpointError
from tuner.sharding import holding, local, shard_of, sharded_like


def decay_at(step: int, limit: float, warmup_steps: int = 0) -> float:
    """Return the decay of the update after optimizer step `step`, counted from 1.

    `min((1 + s) / (10 + s), limit)` with s = step - 1 - warmup_steps, but 0 up to s = 0: averages start from trained
    weights, and until the warm-up is over they are these.
    """
    s = step - 1 - warmup_steps
    return 0.0 if s <= 0 else min((1 + s) / (10 + s), limit)


class MovingAverage:
    """Float32 averages ("shadows") of parameters; where these are shared out over processes, so are their averages."""

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, Parameter]],
        decay: float,
        interval: int = 1,
        *,
        warmup_steps: int = 0,
        kept_on_cpu: bool = False,
        updated_on_cpu: bool = False,
        all_at_once: bool = True,
    ) -> None:
        """Start from the present values.

        Args:
            named_parameters: What is averaged.
            decay: Upper bound of the decay, in [0, 1).
            interval: Optimizer steps between updates.
            warmup_steps: Steps after which averaging begins.
            kept_on_cpu: Keep the averages in the host's memory and not beside their parameters.
            updated_on_cpu: Bring the parameters there for each update, instead of the averages to the device.
            all_at_once: Update all tensors with a few calls. One after the other, those that are kept on the CPU need
                the device's memory one at a time.
        """
        self._parameters = dict(named_parameters)
        self._decay = decay
        self._interval = interval
        self._warmup_steps = warmup_steps
        self._updated_on_cpu = updated_on_cpu
        self._all_at_once = all_at_once
        on_cpu = kept_on_cpu or updated_on_cpu
        self._shadows = {name: _shadow(parameter, on_cpu) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after optimizer step `step`, counted from 1."""
        if step % self._interval:
            return
        decay = decay_at(step, self._decay, self._warmup_steps)
        pairs = [(self._shadows[name], local(parameter.detach())) for name, parameter in self._parameters.items()]
        for chosen in [pairs] if self._all_at_once else [[pair] for pair in pairs]:
            self._move(chosen, decay)

    def _move(self, pairs: Sequence[tuple[Tensor, Tensor]], decay: float) -> None:
        if self._updated_on_cpu:
            pairs = [(shadow, weight.to("cpu")) for shadow, weight in pairs]
        # Where both are on one device, `to` copies nothing.
        shadows = [shadow.to(weight.device, non_blocking=True) for shadow, weight in pairs]
        # The same as shadow -= (1 - decay) * (shadow - parameter), without a float32 copy of all parameters.
        torch._foreach_mul_(shadows, decay)
        torch._foreach_add_(shadows, [weight for _, weight in pairs], alpha=1 - decay)
        for (kept, _), moved in zip(pairs, shadows, strict=True):
            if moved is not kept:
                kept.copy_(moved, non_blocking=True)

    def state(self) -> dict[str, Tensor]:
        """Return the averages by parameter name. They are the live tensors, not copies."""
        if any(shadow.is_pinned() for shadow in self._shadows.values()):
            torch.cuda.synchronize()  # what is on its way to the host's memory must have arrived
        return {name: sharded_like(self._shadows[name], parameter) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned, or that put together.

        Raises:
            CheckpointError: Names or shapes differ from those of the parameters.
        """
        if wrong := sorted(
            name
            for name in state.keys() | self._shadows.keys()
            if name not in state or name not in self._shadows or state[name].shape != self._parameters[name].shape
        ):
            raise CheckpointError(
                f"the checkpoint's moving average does not fit this run: {', '.join(wrong[:3])} "
                f"({len(wrong)} in all) differ; resume with the settings of the run that wrote it"
            )
        for name, shadow in self._shadows.items():
            shadow.copy_(shard_of(state[name], self._parameters[name]))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the parameters hold the averages, in their own dtype, inside the block; restored bit for bit after it."""
        with holding(self._parameters.items(), self.state()):
            yield


def _shadow(parameter: Parameter, on_cpu: bool) -> Tensor:
    """Copy a parameter in float32; into page-locked memory where an accelerator's copies are to come and go."""
    own = local(parameter.detach())
    if not on_cpu or own.device.type == "cpu":
        return own.to(torch.float32, copy=True)
    return own.to("cpu", torch.float32, copy=True).pin_memory()
