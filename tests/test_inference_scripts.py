"""The scripts that the examples have for sampling without tuner give the pictures of `tuner generate`."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tuner.cli.main import main

FAMILIES = ["auraflow", "cosmos2", "hidream", "omnigen", "sana"]
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(params=FAMILIES)
def family(request, adapted_twin, monkeypatch):
    """A twin; where torchvision is absent, what diffusers' transformer needs of it is put in its place."""
    twin = adapted_twin(request.param)
    twin.load("denoiser")
    if request.param == "omnigen":
        from diffusers.pipelines.omnigen import pipeline_omnigen as module

        # The script puts its own in the place of this one, for its process.
        name = "OmniGenMultiModalProcessor"
        monkeypatch.setattr(module, name, getattr(module, name, None), raising=False)
    return twin


def picture_of_script(script: Path, *arguments: object) -> np.ndarray:
    kept = sys.argv
    sys.argv = [str(script), *map(str, arguments), "--output", "script.png"]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = kept
    return np.asarray(Image.open("script.png")).astype(int)


def at_half_strength(adapter: Path, folder: Path) -> Path:
    """Copy a LyCORIS adapter as if it had been trained with multiplier 0.5."""
    with safe_open(adapter, framework="pt") as opened:
        metadata = opened.metadata()
    metadata["lycoris_config"] = json.dumps({**json.loads(metadata["lycoris_config"]), "multiplier": 0.5})
    copy = folder / "half.safetensors"
    save_file(load_file(adapter), copy, metadata)
    return copy


@pytest.mark.parametrize("kind", ["lora", "lokr", "lokr at half strength"])
def test_a_script_draws_what_the_command_draws(kind, family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name, (kind, _, half) = family.family.facts.name, kind.partition(" ")
    adapter = at_half_strength(family.lokr, tmp_path) if half else getattr(family, kind)
    common = ["--base", family.folder, "--prompt", "a cat", "--negative", "an old blurred photograph", "--width", 64,
              "--height", 64, "--steps", 2, "--guidance", 4, "--seed", 5]  # fmt: skip
    assert main(["generate", "--adapter", str(adapter), *map(str, common)]) == 0
    ours = np.asarray(Image.open(capsys.readouterr().out.strip())).astype(int)
    script = EXAMPLES / name / "inference.py"
    own = {"cosmos2": ["--without-guardrail"], "hidream": ["--llama", family.folder]}.get(name, [])
    theirs = picture_of_script(script, *common, "--adapter", adapter, "--dtype", "float32", *own)
    assert theirs.shape == (64, 64, 3)
    assert np.abs(ours - theirs).max() <= 2
    assert (ours == theirs).mean() > 0.99


@pytest.mark.parametrize("name", FAMILIES)
def test_scripts_need_nothing_of_tuner(name):
    text = (EXAMPLES / name / "inference.py").read_text()
    assert "import tuner" not in text
    assert "from tuner" not in text
