"""The command `tuner`: parsing, exit codes and what is shown of failures."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence

from tuner import __version__
from tuner.cli.generate_arguments import add_arguments
from tuner.errors import TunerError
from tuner.launched import launched

PYTHONS = ((3, 10), (3, 14))
"""The oldest Python that is supported, and the first that is not; the packages' metadata say the same."""

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

CONFIG_COMMANDS = {
    "train": "run_commands",
    "check": "check_command",
    "cache": "cache_commands",
    "replay": "replay_command",
}
"""Commands that read a configuration and accept settings as further arguments -> the module of each, which holds a
function of its name that takes its arguments, and may describe options of its own in `OPTIONS`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done, 1 failed, 2 bad usage or configuration, 130 interrupted.
    """
    if fault := unsupported_python(sys.version_info[:2]):
        print(f"error: {fault}", file=sys.stderr)
        return BAD_USAGE
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    _configure_logging(debug)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or pipe that lacks a letter of a prompt or path must not stop a command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(arguments)
    except TunerError as error:
        print(f"{_speaker()}error: {error}", file=sys.stderr)
        if debug:
            raise
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        print(f"{_speaker()}error: {error}", file=sys.stderr)
        if debug:
            raise
        return FAILED


def _speaker() -> str:
    """Return who speaks, where several processes train together and this is not the main one."""
    rank = _rank()
    return f"process {rank}: " if rank else ""


def _rank() -> int:
    process = launched()
    return process.rank if process else 0


def unsupported_python(version: tuple[int, ...]) -> str | None:
    """Return why this Python cannot run tuner, or None. `version` is (major, minor)."""
    if PYTHONS[0] <= version < PYTHONS[1]:
        return None
    oldest, after = (".".join(map(str, bound)) for bound in PYTHONS)
    return (
        f"Python {'.'.join(map(str, version))} is not supported; tuner needs {oldest} or newer, and older than {after}"
    )


def _dispatch(arguments: list[str]) -> int:
    parser = _build_parser()
    wants_help = any(argument in ("-h", "--help") for argument in arguments)
    if arguments and arguments[0] in CONFIG_COMMANDS:
        from tuner.cli.overrides import settings_help

        name = arguments[0]
        module = importlib.import_module(f"tuner.cli.{CONFIG_COMMANDS[name]}")
        if wants_help:
            print(settings_help(name, COMMANDS[name], getattr(module, "OPTIONS", {}).get(name, {})))
            return DONE
        command: Callable[[Sequence[str]], int] = getattr(module, name)
        return command(arguments[1:])
    options, rest = parser.parse_known_args(arguments)
    if options.command == "generate":
        from tuner.cli.generate_command import generate

        return generate(options, rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command is None:
        parser.print_help()
        return BAD_USAGE
    from tuner.cli import info_commands

    handler: Callable[[argparse.Namespace], int] = getattr(info_commands, options.command.replace("-", "_"))
    return handler(options)


COMMANDS = {
    "train": "train, as the configuration says",
    "check": "check configuration and data sets, show the bucket plan; computes nothing",
    "cache": "fill the caches and stop; `cache stat`, `cache verify` and `cache gc` look after them",
    "replay": "take a step that gave NaN or infinite values again, and show where they begin",
    "generate": "make pictures with what was trained: an adapter, a checkpoint or a whole pipeline",
    "export": "write an adapter in the format of diffusers, LyCORIS or ComfyUI",
    "explain": "say what a file or folder of weights is and where it comes from",
    "configure": "write or edit a configuration, by questions in a terminal (experimental)",
    "families": "list installed model families",
    "twin": "write a family's twin: a tiny random checkpoint of the real architecture",
    "new-family": "write a package to start a model family from",
    "demo": "the whole job on a twin and real photographs, in about a minute on a CPU",
    "schema": "print the JSON schema of the configuration, for editors",
}


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuner", description="Fine-tuning for image diffusion models.")
    parser.add_argument("--version", action="version", version=f"tuner {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of expected failures too")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in CONFIG_COMMANDS:
        commands.add_parser(name, help=COMMANDS[name])
    generate = commands.add_parser(
        "generate",
        help=COMMANDS["generate"],
        description="Make pictures. What is not given is as in the run that the adapter records. Further arguments "
        "are settings that the family alone has: --KEY VALUE.",
    )
    add_arguments(generate)
    export = commands.add_parser("export", help=COMMANDS["export"])
    export.add_argument("source", help="an adapter's file, in any of the formats, or its folder")
    export.add_argument("target", help="file to write, or a folder for it")
    export.add_argument("--format", required=True, choices=("diffusers", "lycoris", "comfyui"))
    export.add_argument("--family", help="model family, where the file does not record it")
    explain = commands.add_parser("explain", help=COMMANDS["explain"])
    explain.add_argument("path", help="an adapter's file, a checkpoint folder, or a folder in diffusers layout")
    explain.add_argument("--json", action="store_true", help="as JSON")
    configure = commands.add_parser("configure", help=COMMANDS["configure"])
    configure.add_argument("file", nargs="?", help="JSON file, edited in place (default: config/config.json)")
    families = commands.add_parser("families", help=COMMANDS["families"])
    families.add_argument("--json", action="store_true", help="as JSON")
    twin = commands.add_parser("twin", help=COMMANDS["twin"])
    twin.add_argument("family", help="name of an installed family")
    twin.add_argument("folder", help="folder to write, absent or empty")
    new_family = commands.add_parser("new-family", help=COMMANDS["new-family"])
    new_family.add_argument("name", help="name of the family, as users will write it")
    new_family.add_argument("folder", help="folder to write, absent or empty")
    demo = commands.add_parser("demo", help=COMMANDS["demo"])
    demo.add_argument("family", nargs="?", help="name of an installed family; the first one if not given")
    demo.add_argument("--folder", default="demo", help="folder to work in (default: demo)")
    schema = commands.add_parser("schema", help=COMMANDS["schema"])
    schema.add_argument("file", nargs="?", choices=("config", "datasets", "lycoris"), default="config",
                        help="kind of file (default: config)")  # fmt: skip
    return parser


_CHATTY = ("bitsandbytes", "torchao", "torch.utils._pytree")
"""Loggers that report, when they are imported, kernels that other machines have."""


def _configure_logging(debug: bool) -> None:
    # Libraries report what only their own developers can act on; ours reports for itself.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name in () if debug else _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    logger = logging.getLogger("tuner")
    if not logger.handlers:
        handler = _StandardError()
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
    # Where several processes train together, one speaks for all as long as nothing is wrong.
    usual = logging.ERROR if _rank() else logging.INFO
    logger.setLevel(logging.DEBUG if debug else usual)
    logger.propagate = False


class _StandardError(logging.Handler):
    """Writes to standard error as it is at that moment, which embedding programs may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Formatter(logging.Formatter):
    """Plain lines; warnings and worse say so."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text
