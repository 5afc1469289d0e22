"""Finding where in a network the first value that is not finite appears. Slow: every module's values are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from tuner.adapters.base import Trainable
from tuner.caching.filling import is_finite


class Watch:
    """Looks at everything that a denoiser computes and keeps the first place where it is not finite.

    Attributes:
        step: Number of the step that is being taken, for the account.
        first: Where the first such value appeared, or None.
    """

    def __init__(self, trainable: Trainable) -> None:
        self.step = 0
        self.first: str | None = None
        self._trainable = trainable

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at inputs, outputs and their gradients of all modules, and at the trained weights' gradients."""
        with ExitStack() as stack:
            for name, module in self._trainable.denoiser.named_modules():
                shown = name or type(module).__name__
                before = module.register_forward_pre_hook(partial(self._enter, shown), with_kwargs=True)
                after = module.register_forward_hook(partial(self._leave, shown))
                stack.callback(before.remove)
                stack.callback(after.remove)
            for name, parameter in self._trainable.named_parameters():
                handle = parameter.register_hook(partial(self._look, f"the gradient of the weight {name}"))
                stack.callback(handle.remove)
            yield

    def backward(self, run: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        """Return the backward pass `run`, with a look at the loss before it."""

        def looked_at(loss: Tensor) -> None:
            self._look("the loss, made from a finite velocity", loss)
            run(loss)

        return looked_at

    def look_at_weights(self) -> None:
        """Look at what trains, after an update."""
        for name, weight in self._trainable.named_parameters():
            self._look(f"the weight {name}, by the optimizer's update", weight.detach())

    def _enter(self, name: str, module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        for tensor in _tensors([arguments, named]):
            self._look(f"the input of {name}", tensor)

    def _leave(self, name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        for tensor in _tensors(output):
            self._look(f"the output of {name}", tensor)
            if tensor.requires_grad:
                tensor.register_hook(partial(self._look, f"the gradient at the output of {name}"))

    def _look(self, place: str, tensor: Tensor) -> None:
        if self.first is None and not is_finite(tensor.detach()):
            self.first = f"step {self.step}, {place}"


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested sequences, mappings and diffusers' outputs, which are mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
