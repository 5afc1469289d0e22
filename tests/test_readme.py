"""The README's files are accepted and its code runs, as they stand: a twin on a CPU stands for the weights on a GPU."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner.cli.main import main
from tuner.config.loading import load_config

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BASE = "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"
CALL = 'pipeline("a ginger cat")'


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_files_are_accepted_and_every_setting_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets, config = blocks("json")
    Path("pictures").mkdir()
    Path("multidatabackend.json").write_text(datasets)
    Path("config.json").write_text(config)
    loaded = load_config(Path("config.json"))
    assert [dataset.id for dataset in loaded.config.datasets] == ["my-pictures"]
    assert dict(loaded.unread) == {}


@pytest.fixture
def place(adapted_twin, tmp_path, monkeypatch):
    """A folder with results and the twin under the names that the README gives them."""
    twin = adapted_twin("sana")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path(BASE).parent.mkdir()
    Path(BASE).symlink_to(twin.folder)
    Path("output").mkdir()
    Path("output/pipeline").symlink_to(twin.folder)
    return twin


@pytest.mark.parametrize("number", range(3))
def test_the_code_draws_what_generate_draws(number, place, capsys):
    assert len(blocks("python")) == 3
    code = blocks("python")[number]
    adapter = [place.lora, place.lokr, None][number]
    if adapter is not None:
        Path("output/pytorch_lora_weights.safetensors").symlink_to(adapter)
    assert BASE in code or adapter is None
    assert code.count(CALL) == 1
    small = "height=64, width=64, use_resolution_binning=False, num_inference_steps=2"
    told = f'negative_prompt="", {small}, generator=torch.Generator().manual_seed(5)'
    exec(code.replace('"cuda"', '"cpu"').replace(CALL, f"{CALL[:-1]}, {told})"), {})
    theirs = np.asarray(Image.open("cat.png")).astype(int)

    def ours(*arguments):
        command = ["generate", "--prompt", "a ginger cat", "--negative", "", "--resolution", 64, "--steps", 2,
                   "--seed", 5, "--guidance", 4.5, "--precision", "bf16", *arguments]  # fmt: skip
        assert main(list(map(str, command))) == 0, capsys.readouterr().err
        return np.asarray(Image.open(capsys.readouterr().out.strip())).astype(int)

    base = ours("--family", "sana", "--base", place.folder)
    if adapter is None:
        assert np.abs(ours("--model", "output", "--family", "sana") - theirs).mean() < 1
        return
    wanted = ours("--adapter", "output", "--base", place.folder)
    assert np.abs(wanted - theirs).mean() < 0.05 * np.abs(wanted - base).mean()
