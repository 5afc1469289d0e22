"""The pytest plugin runs the kit when a family is named, and otherwise keeps out of the way."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

COLLECT = ("--collect-only", "-q", "-p", "no:cacheprovider")


def test_ordinary_runs_import_nothing_of_ours(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_light():
            assert not {"torch", "tuner.plugins", "tuner.testing.fixtures"} & sys.modules.keys()
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_ordinary_runs_do_not_collect_the_kit(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine="def test_mine(): pass")
    assert _collected(pytester) == ["test_mine.py"]


def test_a_family_alone_runs_the_kit_alone(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntestpaths = .")
    pytester.makepyfile(test_mine="def test_mine(): pass")
    files = _collected(pytester, "--tuner-family", "sana")
    assert "test_mine.py" not in files
    assert {"test_sampling.py", "test_latents.py", "test_twin.py"} <= set(files)


def test_paths_beside_a_family_run_too(pytester: pytest.Pytester) -> None:
    mine = pytester.makepyfile(test_mine="def test_mine(): pass")
    files = _collected(pytester, "--tuner-family", "sana", str(mine))
    assert {"test_mine.py", "test_sampling.py"} <= set(files)


def test_kit_is_found_inside_a_virtual_environment(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel's files lie below a folder that pytest skips when it looks for tests by itself."""
    from shutil import copytree

    import tuner

    package = pytester.mkdir("env") / "site-packages" / "tuner"
    copytree(tuner.__path__[0], package)
    (pytester.path / "env" / "pyvenv.cfg").touch()
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    result = pytester.runpytest_subprocess("--tuner-family", "sana", *COLLECT)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*env/site-packages/tuner/testing/conformance/test_sampling.py::*"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("sanna", "did you mean sana?"), ("nowhere.plugin", "cannot be imported (nowhere.plugin): ModuleNotFoundError")],
)
def test_a_family_that_cannot_be_loaded_is_a_usage_error(pytester: pytest.Pytester, name: str, reason: str) -> None:
    result = pytester.runpytest_subprocess("--tuner-family", name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert reason in result.stderr.str()


def _collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    """Return the names of the files that a run would execute, in order."""
    result = pytester.runpytest_subprocess(*arguments, *COLLECT)
    assert result.ret == 0, result.stdout.str()
    files = [line.split("::")[0].rsplit("/")[-1] for line in result.outlines if "::" in line]
    return list(dict.fromkeys(files))
