"""The processes of a run that train one model together, and how they wait for each other.

They talk over two groups. The devices' own adds up gradients. What they have to agree on goes over gloo and the CPU:
asking makes no device wait, there is no time limit, so one process may write for an hour while the others wait, and a
process that dies closes its connections, which ends the others.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from tuner.errors import TunerError
from tuner.launched import launched

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = timedelta(days=14)
"""How long processes wait for what another one does alone."""

_SPLITS = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""How accelerate's launcher passes on what else would split a model."""


class ProcessesError(TunerError):
    """Another process of the run has failed or is gone."""


@dataclass(frozen=True)
class Processes:
    """This process and those that train with it. Where it is alone, every method does what is left to do then.

    Every method is for all processes to call, in the same order.

    Attributes:
        rank: Its number.
        count: How many there are.
        local_rank: Its number on its machine.
        launcher: Process id of the launcher that looks after them, or None.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    launcher: int | None = None
    _control: Any = None

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and reports."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    @property
    def is_orphaned(self) -> bool:
        """Whether the launcher is gone: nobody would pass on a request to stop."""
        return self.launcher is not None and os.getppid() != self.launcher

    def expect(self, count: int) -> None:
        """Warn if this process was to train with others, and nobody has launched them."""
        if self.count < count:
            logger.warning(
                "num_processes is %d, but this process was launched alone: it takes the others' batches as well", count
            )

    def largest(self, values: Tensor) -> Tensor:
        """Replace each value by the largest of all processes, and return them. They are on the CPU."""
        if not self.is_alone:
            with _others_alive():
                dist.all_reduce(values, dist.ReduceOp.MAX, group=self._control)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.is_alone else bool(self.largest(torch.tensor(flag, dtype=torch.uint8)))

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON values of all processes, by rank."""
        if self.is_alone:
            return [value]
        own = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        length = int(self.largest(torch.tensor(len(own))))
        padded = torch.full((length,), ord(" "), dtype=torch.uint8)
        padded[: len(own)] = own
        texts = [torch.empty_like(padded) for _ in range(self.count)]
        with _others_alive():
            dist.all_gather(texts, padded, group=self._control)
        return [json.loads(bytes(text.tolist())) for text in texts]

    def check_same(self, value: Any, what: str) -> None:
        """Make sure that a JSON value is the same in all processes.

        Raises:
            ProcessesError: It is not.
        """
        for rank, other in enumerate(self.gather(value)):
            if other != value:
                raise ProcessesError(
                    f"process {rank} has another {what} than process {self.rank}: {other} and {value}\n"
                    "    -> several machines need output_dir, caches and data sets on shared storage, or equal ones"
                )

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Let the main process do something while the others wait; they return None.

        Raises:
            ProcessesError: It failed there; in the main process the failure itself is raised.
        """
        failed = True
        try:
            done = work() if self.is_main else None
            failed = False
        finally:
            failed_there = self.any(failed)
        if failed_there:
            raise ProcessesError("the main process failed; what it says itself tells why")
        return done

    def in_turn(self, work: Callable[[], T]) -> T:
        """Let one process of each machine do something, and the others do the same afterwards.

        Raises:
            ProcessesError: It failed in another process.
        """
        done: list[T] = []
        for first in (True, False):
            failed = True
            try:
                if (self.local_rank == 0) is first:
                    done.append(work())
                failed = False
            finally:
                failed_somewhere = self.any(failed)
            if failed_somewhere:
                raise ProcessesError("another process failed; what it says itself tells why")
        return done[0]

    def add_up(self, values: Tensor) -> Tensor:
        """Replace each value by the sum of all processes, and return them. They are on the device, which may wait."""
        if not self.is_alone:
            with _others_alive():
                dist.all_reduce(values)
        return values

    def leave(self) -> None:
        """Wait for the others and end the connection: nobody may find a door closed that he still knocks at."""
        if not self.is_alone:
            self.any(False)
            dist.destroy_process_group()


@functools.cache
def join_processes() -> Processes:
    """Meet the other processes that a launcher has started, or stay alone.

    Raises:
        TunerError: There are fewer devices than processes on this machine, or the model is to be split among them.
    """
    process = launched()
    if process is None or process.processes == 1:
        return Processes()
    if split := [name for name in _SPLITS if parse_flag_from_env(name)]:
        raise TunerError(
            f"{split[0]} asks to split the model in a way that is not served\n"
            "    -> launch without DeepSpeed and Megatron-LM; fsdp_enable shares a full fine-tune out over processes"
        )
    # The settings say whether to share the model out, and then it happens once.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    accelerated = accelerator not in (None, torch.device("mps")) and not parse_flag_from_env("ACCELERATE_USE_CPU")
    devices = torch.accelerator.device_count() if accelerated else 0
    if accelerated and process.local_rank >= devices:
        raise TunerError(
            f"process {process.rank} finds {devices} devices on its machine and needs a device {process.local_rank}\n"
            "    -> lower num_processes, or look at accelerate_visible_devices and CUDA_VISIBLE_DEVICES"
        )
    # Left alone without an accelerator, accelerate takes every process for the only one.
    PartialState(cpu=not accelerated, **({} if accelerated else {"backend": "gloo"}))
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    return Processes(*process, launcher, dist.new_group(backend="gloo", timeout=_PATIENCE))


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _gone(error) from error


@contextmanager
def others_computing() -> Iterator[None]:
    """Say so where a computation that needs other processes fails for the lack of one; other failures pass.

    Raises:
        ProcessesError: A process has ended or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        # Gloo has no class of errors of its own.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise _gone(error) from error
        raise


def _gone(error: RuntimeError) -> ProcessesError:
    return ProcessesError(
        f"another process of this run has ended or cannot be reached: {str(error).splitlines()[0]}\n"
        "    -> what that process says itself tells why; checkpoints are unharmed"
    )
