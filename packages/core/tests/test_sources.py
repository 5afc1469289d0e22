"""Base weights from folders and from a hub: a real client against a small server on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.config.model import ModelConfig
from tuner.errors import TunerError
from tuner.testing.hub import loopback_hub
from tuner.testing.hub_state import Repository
from tuner.testing.minimal import minimal_facts
from tuner.training.sources import ModelSource, fetch_parts, resolve_source, select_files
from tuner.types import Flavour

FACTS = minimal_facts(
    flavours={"a": Flavour("owner/a"), "b": Flavour("owner/b")},
    part_folders={"denoiser": ("transformer",), "codec": ("vae",)},
)


def model(**settings):
    return ModelConfig(model_family="toy", model_type="lora", output_dir="output", **settings)


def test_flavours_repositories_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_source(model(), FACTS) == ModelSource("owner/a", False)
    assert resolve_source(model(model_flavour="b", revision="v2"), FACTS) == ModelSource("owner/b", False, "v2")
    assert resolve_source(model(pretrained_model_name_or_path="x/y"), FACTS).name == "x/y"
    (tmp_path / "mine").mkdir()
    with pytest.raises(TunerError, match=r"no model_index\.json"):
        resolve_source(model(pretrained_model_name_or_path="mine"), FACTS)
    (tmp_path / "mine" / "model_index.json").write_text("{}")
    assert resolve_source(model(pretrained_model_name_or_path="mine"), FACTS).is_local


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "~/missing", "just-a-name", "a/b/c"])
def test_what_is_neither_folder_nor_repository_is_refused(name):
    with pytest.raises(TunerError, match="neither a folder nor a repository"):
        resolve_source(model(pretrained_model_name_or_path=name), FACTS)


def test_a_folder_without_a_part_is_refused(tmp_path):
    (tmp_path / "transformer").mkdir()
    source = ModelSource(str(tmp_path), True)
    assert fetch_parts(source, ["denoiser"], FACTS).root == tmp_path
    with pytest.raises(TunerError, match="has no folder vae"):
        fetch_parts(source, ["denoiser", "codec"], FACTS)


def test_one_precision_and_only_safe_files_are_chosen():
    files = [
        "transformer/config.json", "transformer/diffusion_pytorch_model.bin",
        "transformer/diffusion_pytorch_model.safetensors", "transformer/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bf16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json", "vae/script.py", "README.md",
        "text/model.fp16-00001-of-00002.safetensors", "text/model-00001-of-00002.safetensors",
        "text/model.safetensors.index.json", "text/model.safetensors.index.fp16.json",
    ]  # fmt: skip
    assert select_files(files, ["transformer"]) == [
        "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"
    ]  # fmt: skip
    assert select_files(files, ["vae"]) == ["vae/diffusion_pytorch_model.bf16.safetensors", "vae/config.json"]
    assert select_files(files, ["text"]) == [
        "text/model-00001-of-00002.safetensors", "text/model.safetensors.index.json"
    ]  # fmt: skip


FILES = {
    "model_index.json": b"{}",
    "transformer/config.json": b'{"a": 1}',
    "transformer/model.safetensors": b"weights",
    "transformer/model.bin": b"pickle",
    "vae/config.json": b"{}",
}

DOWNLOAD = """
import sys
sys.path.insert(0, {folder!r})
from test_sources import FACTS
from tuner.testing.hub import loopback_hub
from tuner.testing.hub_state import Repository
from tuner.training.sources import ModelSource, fetch_parts
folder = fetch_parts(ModelSource(sys.argv[1], False), ["denoiser"], FACTS).root
print(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
"""


@pytest.fixture
def hub():
    with loopback_hub() as hub:
        hub.repositories["owner/a"] = Repository(FILES)
        yield hub


@pytest.fixture
def download(hub, tmp_path):
    def run(repo, **variables):
        environment = os.environ | hub.environment(tmp_path / "hub") | variables
        command = [sys.executable, "-c", DOWNLOAD.format(folder=str(Path(__file__).parent)), repo]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run


def test_the_endpoint_is_honoured_and_only_what_is_needed_comes(download, hub):
    result = download("owner/a")
    assert "['model_index.json', 'transformer/config.json', 'transformer/model.safetensors']" in result.stdout
    assert hub.requests
    assert not any("model.bin" in path or "vae" in path for _, path in hub.requests)
    assert "transformer/model.safetensors" in download("owner/a", HF_HUB_OFFLINE="1").stdout


def test_a_repository_that_cannot_be_had_is_named(download):
    result = download("owner/missing")
    assert result.returncode == 1
    assert "cannot download owner/missing from the hub" in result.stderr
    assert "HF_ENDPOINT" in result.stderr
