"""Finding the configuration of a run, as the command line and the environment ask for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tuner.errors import ConfigError, Problem

_NAMES = {
    "json": ("config.json",),
    "toml": ("config.toml",),
    "yaml": ("config.yaml", "config.yml"),
    "env": ("config.env",),
}
"""Backend -> file names, in the order in which they are looked for."""

BACKENDS = (*_NAMES, "cmd")
"""Values of CONFIG_BACKEND; cmd reads no file at all."""

_FOLDER = Path("config")
_ENVIRONMENTS = ("SIMPLETUNER_ENVIRONMENT", "SIMPLETUNER_ENV", "ENV")


def find_config(
    path: str | os.PathLike[str] | None,
    environment: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Path | None:
    """Return the configuration file to read, or None where settings come from the command line alone.

    The first of these that applies: `path`; CONFIG_PATH; the folder config/NAME of an environment; the working
    directory, then config/. In a folder, config.json comes before .toml, .yaml and .env, unless CONFIG_BACKEND names
    one of them.

    Args:
        path: A file, or a folder that holds one; None to search.
        environment: Sub-folder of config/ to look in. Without it the variables SIMPLETUNER_ENVIRONMENT,
            SIMPLETUNER_ENV and ENV name one; ENV, which shells use for themselves, only if the folder exists.
        variables: Environment variables; those of the process if not given.

    Raises:
        ConfigError: There is none; the paths that were tried are listed.
    """
    variables = os.environ if variables is None else variables
    backend = variables.get("CONFIG_BACKEND", "").strip().lower()
    if backend and backend not in BACKENDS:
        raise ConfigError(
            [Problem(f"{backend!r} is no kind of configuration (one of: {', '.join(BACKENDS)})", key="CONFIG_BACKEND")]
        )
    if path is None and backend == "cmd":
        return None
    names = _NAMES[backend] if backend in _NAMES else tuple(name for group in _NAMES.values() for name in group)
    if path is not None:
        return _named(Path(path), names)
    if variables.get("CONFIG_PATH", "").strip() and environment is None:
        return _from_variable(Path(variables["CONFIG_PATH"].strip()).expanduser(), names)
    folder = _environment_folder(environment, variables)
    folders = [folder] if folder is not None else [Path(), _FOLDER]
    return _first([place / name for place in folders for name in names])


def _named(path: Path, names: tuple[str, ...]) -> Path:
    if path.is_dir():
        return _first([path / name for name in names])
    if not path.is_file():
        raise ConfigError([Problem("no such file", file=str(path))])
    return path


def _from_variable(path: Path, names: tuple[str, ...]) -> Path:
    """CONFIG_PATH may name a file, a file without its suffix, or a folder."""
    if path.is_file():
        return path
    suffixes = [Path(name).suffix for name in names]
    return _first([*(path.with_name(path.name + suffix) for suffix in suffixes), *(path / name for name in names)])


def _environment_folder(environment: str | None, variables: Mapping[str, str]) -> Path | None:
    if environment is not None:
        return None if environment in ("", "default") else _FOLDER / environment
    for name in _ENVIRONMENTS:
        value = variables.get(name, "").strip()
        if value and value != "default" and (name != "ENV" or (_FOLDER / value).is_dir()):
            return _FOLDER / value
    return None


def _first(candidates: list[Path]) -> Path:
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join(map(str, candidates))
    raise ConfigError([Problem(f"no configuration found; looked for {tried}", remedy="name one: tuner train FILE")])
