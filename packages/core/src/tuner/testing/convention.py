"""How a family speaks to its network, read off `compute_loss`.

Which argument holds x, what time argument belongs to a sigma, and how raw outputs become velocities.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tuner.randomness import normal_tensor
from tuner.testing.family import FamilyUnderTest, relative_error

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tuner.types import Batch

Arguments = Mapping[str, Any]
Answer = Callable[[Arguments], "Tensor"]

_ROUNDING = 1e-5
"""How far float32 arithmetic may move a number of order 1 on its way through `compute_loss`."""


@contextmanager
def answering(denoiser: nn.Module, answer: Answer) -> Iterator[None]:
    """Let `answer` stand in for the forward pass of `denoiser` inside the block.

    It gets the arguments by name and gives the raw output, which is wrapped as the network wraps its own.
    """
    outer = denoiser.__dict__.get("forward")
    signature = inspect.signature(denoiser.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        raw = answer(bound.arguments)
        if bound.arguments.get("return_dict", True) is False:
            return (raw,)
        return _Output((raw,))

    # An oracle inside a pipeline asks compute_loss in turn, which finds this function in the network's place.
    forward.__signature__ = signature  # type: ignore[attr-defined]
    denoiser.__dict__["forward"] = forward
    try:
        yield
    finally:
        del denoiser.__dict__["forward"]
        if outer is not None:
            denoiser.__dict__["forward"] = outer


class _Output(tuple[Any, ...]):
    """What diffusers' networks return by default: `output[0]` and `output.sample` are the raw output."""

    @property
    def sample(self) -> Any:
        return self[0]


@dataclass(frozen=True)
class Convention:
    """How a family's `compute_loss` speaks to its network.

    Attributes:
        family: The family.
        x_name: Argument that holds x.
        time_name: Argument that holds the time.
        channels: Channels of the raw output.
        probe: A batch of one, asked about at any sigma.
    """

    family: FamilyUnderTest
    x_name: str
    time_name: str
    channels: int
    probe: Batch

    @classmethod
    def of(cls, family: FamilyUnderTest) -> Convention:
        """Read the convention off two calls that differ in sigma alone.

        Raises:
            AssertionError: x, or a single argument that depends on sigma, is not found among the arguments.
        """
        batch = family.batch((0.25,))
        early, channels = _observe(family, batch)
        late, _ = _observe(family, replace(batch, sigma=torch.full_like(batch.sigma, 0.75)))
        x_names = [name for name, value in early.items() if _holds(value, batch.x)]
        time_names = [name for name in early if not _same(early[name], late[name])]
        assert len(x_names) == 1, f"compute_loss must pass x unchanged in one argument of the denoiser; found {x_names}"
        assert len(time_names) == 1, (
            f"one argument of the denoiser must depend on sigma, in compute_loss, with x held fixed; found {time_names}"
        )
        return cls(family, x_names[0], time_names[0], channels, batch)

    def time_of(self, sigma: float) -> float:
        """Return the time argument that `compute_loss` feeds for `sigma`."""
        heard: list[float] = []

        def answer(arguments: Arguments) -> Tensor:
            heard.append(float(numbers(arguments[self.time_name])[0]))
            return self._raw(self.probe.x)

        with answering(_denoiser(self.family), answer):
            self.family.predict(self._probe(sigma))
        return heard[0]

    def sigma_of(self, time: float) -> float:
        """Invert `time_of`, which must be monotonic.

        Raises:
            AssertionError: No sigma in [0, 1] has this time.
        """
        low, high = 0.0, 1.0
        first, last = self.time_of(low), self.time_of(high)
        slack = _ROUNDING * abs(last - first)
        assert min(first, last) - slack <= time <= max(first, last) + slack, (
            f"the pipeline feeds the time {time:g}, compute_loss feeds {first:g} at sigma 0 to {last:g} at sigma 1"
        )
        while high - low > 2**-26:
            middle = (low + high) / 2
            at = self.time_of(middle)
            if at == time:
                return middle
            if (at < time) == (first < last):
                low = middle
            else:
                high = middle
        return (low + high) / 2

    def velocity_coefficients(self, sigma: float) -> tuple[float, float]:
        """Return (a, b) such that `compute_loss` turns a raw output into the velocity a * raw + b * x.

        Raises:
            AssertionError: It does not, or the raw output plays no part.
        """
        batch = self._probe(sigma)
        raw = self._raw(batch.x)
        raw[:, : batch.x.shape[1]] = normal_tensor(batch.x.shape, 0, "raw output")
        seen = raw[:, : batch.x.shape[1]]
        from_nothing = self._velocity(batch, torch.zeros_like(raw)).double()
        from_raw = self._velocity(batch, raw).double()
        a, b = _slope(from_raw - from_nothing, seen), _slope(from_nothing, batch.x)
        assert abs(a) > _ROUNDING, "the velocity of compute_loss does not depend on the denoiser's output"
        error = relative_error(a * seen.double() + b * batch.x.double(), from_raw)
        assert error <= _ROUNDING, (
            f"the velocity of compute_loss is not a * output + b * x (relative error {error:.1e})"
        )
        return a, b

    def raw_for(self, velocity: Tensor, x: Tensor, sigma: float) -> Tensor:
        """Return the raw output that `compute_loss` would turn into `velocity` at `x` and `sigma`."""
        a, b = self.velocity_coefficients(sigma)
        raw = self._raw(x)
        raw[:, : x.shape[1]] = (velocity.double() - b * x.double()) / a
        return raw

    def _probe(self, sigma: float) -> Batch:
        return replace(self.probe, sigma=torch.tensor([sigma], dtype=torch.float32))

    def _raw(self, x: Tensor) -> Tensor:
        return x.new_zeros((x.shape[0], self.channels, *x.shape[2:]))

    def _velocity(self, batch: Batch, raw: Tensor) -> Tensor:
        with answering(_denoiser(self.family), lambda _: raw):
            return self.family.predict(batch).velocity


def _observe(family: FamilyUnderTest, batch: Batch) -> tuple[Arguments, int]:
    """Run the real network once; return the arguments it got and the channels of its raw output."""
    denoiser = _denoiser(family)
    real = denoiser.forward
    heard: list[Arguments] = []
    channels: list[int] = []

    def answer(arguments: Arguments) -> Tensor:
        heard.append(dict(arguments))
        raw = real(**{**arguments, "return_dict": False})[0]
        channels.append(raw.shape[1])
        return raw

    with torch.no_grad(), answering(denoiser, answer):
        family.predict(batch)
    assert len(heard) == 1, f"compute_loss must call the denoiser once; it did {len(heard)} times"
    return heard[0], channels[0]


def _denoiser(family: FamilyUnderTest) -> nn.Module:
    denoiser = family.components.denoiser
    assert denoiser is not None, "load_components gave no denoiser"
    return denoiser


def _holds(value: Any, x: Tensor) -> bool:
    return (
        isinstance(value, torch.Tensor) and value.numel() == x.numel() and bool((value.flatten() == x.flatten()).all())
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, float | int):
        return bool(one == other)
    return True


def numbers(time: Any) -> Tensor:
    """Return a time argument, whatever it is, as a vector of doubles."""
    return torch.as_tensor(time).detach().double().flatten()


def _slope(values: Tensor, along: Tensor) -> float:
    along = along.double()
    return float((values * along).sum() / along.square().sum())
