"""pytest plugin: `pytest --tuner-family NAME` runs the conformance kit against a model family.

Without the option it adds nothing and imports nothing, so that other people's test runs stay as they are.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

KIT = Path(__file__).parent / "conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the kit's options."""
    group = parser.getgroup("tuner", "tuner's conformance kit")
    group.addoption(
        "--tuner-family",
        metavar="NAME",
        help="run the conformance kit against this model family: the name or alias of an installed one, or the "
        "dotted path of a plugin module; paths given beside it run too",
    )
    group.addoption(
        "--tuner-twin",
        metavar="FOLDER",
        type=Path,
        help="use the twin in this folder, and write it there first if it is absent, instead of a temporary one",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the kit's tests and fixtures to the run if a family was named.

    Raises:
        pytest.UsageError: The family is not installed or its plugin does not follow the contract.
    """
    name = config.getoption("tuner_family")
    if name is None:
        return
    plugins, errors = import_module("tuner.plugins"), import_module("tuner.errors")
    try:
        plugins.load_family(name)
    except errors.PluginError as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(import_module("tuner.testing.fixtures"), "tuner-fixtures")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []  # the directory or `testpaths` that pytest falls back to
    if str(KIT) not in config.args:  # a worker of pytest-xdist inherits them from its controller
        config.args.append(str(KIT))
