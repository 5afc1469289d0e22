"""Starting the processes that train together, through accelerate's launcher."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil

from tuner.config.launch import LaunchConfig
from tuner.errors import TunerError
from tuner.launched import launched

_FAILED, _INTERRUPTED = 1, 130


def show_devices(launch: LaunchConfig) -> None:
    """Let this process, and those that it starts, see the devices that the settings name. Comes before torch."""
    if launch.visible_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = launch.visible_devices


def needs_launch(launch: LaunchConfig) -> bool:
    """Whether processes are still to be started."""
    return launch.num_processes > 1 and launched() is None


def launch_training(launch: LaunchConfig, arguments: Sequence[str]) -> int:
    """Run `tuner train` in several processes and wait for them.

    Args:
        launch: How many, and where.
        arguments: Of the command.

    Returns:
        The exit code: 130 where somebody asked the processes to stop, and they did.

    Raises:
        TunerError: The launcher refuses the settings, or a process was killed.
    """
    import torch

    with _silence():  # of what importing all that a launcher may need says of kernels that this machine lacks
        from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    settings = launch_command_parser().parse_args([*launcher_arguments(launch), "--module", "tuner"])
    debugs = logging.getLogger("tuner").isEnabledFor(logging.DEBUG)
    settings.training_script_args = ["train", *arguments, *(["--debug"] if debugs else [])]
    # Ours pass signals on and then wait for the checkpoint, however long it takes to write. The launcher would wait
    # for half a minute. Versions that have no such choice keep their own way.
    settings.signals_to_handle = "SIGQUIT"
    # Each process says itself what went wrong.
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with _signals_passed_on():
            launch_command(settings)
    except SignalException:
        return _INTERRUPTED
    except ChildFailedError as error:
        return _exit_code(error)
    except (ValueError, ConnectionError) as error:
        raise TunerError(f"accelerate cannot start {launch.num_processes} processes: {error}") from error
    return 0


def launcher_arguments(launch: LaunchConfig) -> Iterator[str]:
    """Yield the arguments of accelerate's launcher."""
    yield from ("--multi_gpu", "--num_processes", str(launch.num_processes))
    yield from ("--num_machines", str(launch.num_machines))
    # What accelerate would do to a model by itself is settings of a run.
    yield from ("--mixed_precision", "no", "--dynamo_backend", "no")
    if launch.accelerate_config is not None:
        yield from ("--config_file", str(launch.accelerate_config))
    if launch.num_machines == 1:
        yield from ("--main_process_port", "0")  # any that is free: several runs may share a machine
    if launch.visible_devices is not None:
        yield from ("--gpu_ids", launch.visible_devices)
    if "OMP_NUM_THREADS" not in os.environ:
        here = launch.num_processes // launch.num_machines
        yield from ("--num_cpu_threads_per_process", str(max(1, (psutil.cpu_count(logical=False) or 1) // here)))


@contextmanager
def _silence() -> Iterator[None]:
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Pass requests to stop on to the processes, which stand in sessions of their own and do not hear the terminal."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in psutil.Process().children():
            try:
                child.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_code(error: Any) -> int:
    """Return the exit code of processes that failed; those that the launcher ended for it do not count."""
    failures = {rank: failure.exitcode for rank, failure in error.failures.items()}
    own = [code for code in failures.values() if code > 0]
    if _INTERRUPTED in own:
        return _INTERRUPTED
    if killed := {rank: -code for rank, code in failures.items() if code < 0 and -code != signal.SIGTERM}:
        raise TunerError(
            f"process {min(killed)} was killed by signal {killed[min(killed)]}\n"
            "    -> the last checkpoint is unharmed; resume with the same command. "
            "Signal 9 often means that the system ran out of memory"
        )
    return max(own, default=_FAILED)
