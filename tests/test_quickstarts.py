"""The quickstarts' files and commands, run as they stand.

Two things stand in for what no test machine has: a twin for the published weights, and small pictures, few steps and an
optimizer that runs on a CPU for the sizes and the optimizer of a GPU. They are added to the commands' own settings by
`quickstart_commands/`, the only `tuner` and `pip` that the commands find.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.cli.twins import write_twin
from tuner.plugins import load_family

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "quickstart"
FAMILIES = sorted(path.name.removesuffix(".md") for path in PAGES.glob("*.md") if path.name.count(".") == 1)
BLOCK = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<file>[\w./]+)\")?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def blocks(page: Path) -> list[tuple[str, str | None, str]]:
    """Return each block's language, the file that it is, and its text."""
    return [match.group("language", "file", "text") for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def test_every_family_has_its_pages():
    packages = sorted(path.name.removeprefix("model-") for path in (ROOT / "packages").glob("model-*"))
    assert packages == [name for name in FAMILIES if name != "README"]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "README"])
def test_both_languages_show_the_same_files_and_commands(family):
    english, chinese = blocks(PAGES / f"{family}.md"), blocks(PAGES / f"{family}.zh-CN.md")
    assert english == chinese
    assert len(english) * 2 == (PAGES / f"{family}.md").read_text(encoding="utf-8").count("```")
    assert {language for language, _, _ in english} == {"bash", "json"}


@pytest.mark.parametrize(
    "family",
    [name if name == "sana" else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES if name != "README"],
)
def test_a_quickstart_runs_as_it_stands(family, photographs, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "packages").symlink_to(ROOT / "packages")
    pictures = sorted(photographs.glob("*.png"))
    for folder, files in {"my-pictures": pictures[:4], "held-back": pictures[4:]}.items():
        (project / "datasets" / folder).mkdir(parents=True)
        for file in files:
            shutil.copy(file, project / "datasets" / folder / file.name)
    weights = write_twin(load_family(family), tmp_path / "weights")
    commands = Path(__file__).parent / "quickstart_commands"
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "TUNER_TEST_PYTHON": sys.executable,
        "TUNER_TEST_WEIGHTS": str(weights),
        "HF_HUB_OFFLINE": "1",
    }
    said = []
    for language, file, text in blocks(PAGES / f"{family}.md"):
        if language == "json":
            assert file is not None
            json.loads(text)
            (project / file).parent.mkdir(parents=True, exist_ok=True)
            (project / file).write_text(text, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-eu", "-c", text], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        said.append(done.stdout + done.stderr)
        assert done.returncode == 0, said[-1]
    output = project / "output" / family
    assert (output / "pytorch_lora_weights.safetensors").is_file()
    assert (output / "index.html").is_file()
    assert [json.loads(line)["label"] for line in (output / "evaluations.jsonl").read_text().splitlines()]
    assert len(list((project / "pictures").glob("*.png"))) == 2
    receipt = json.loads((output / "settings_receipt.json").read_text(encoding="utf-8"))
    own = json.loads((project / "config" / "config.json").read_text(encoding="utf-8"))
    # The twin stands in for the flavour.
    assert not [row for row in receipt if row["key"] in own.keys() - {"model_flavour"} and row["unread"]]
