"""Which tokenizers of a base model can be used without a download."""

import pytest

from tuner.testing.minimal import minimal_facts
from tuner.training.sources import ModelSource, tokenizers_at_hand


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def downloaded(cache, repository, *names):
    """Put files where the hub's client keeps its downloads; return the folder of the revision."""
    model = cache / f"models--{repository.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    return written(model / "snapshots" / ("0" * 40), *names)


def written(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def facts(**borrowed):
    folders = {"text_encoders": ("text_encoder", "tokenizer", "tokenizer_2")}
    return minimal_facts(part_folders=folders, borrowed_folders=borrowed)


def test_in_a_local_folder(tmp_path, hub_cache):
    folder = written(tmp_path / "model", "text_encoder/config.json", "tokenizer_2/tokenizer_config.json")
    found = tokenizers_at_hand(ModelSource(str(folder), True), facts())
    assert found == {"tokenizer_2": folder / "tokenizer_2"}


def test_in_what_the_hub_gave_before(hub_cache):
    source = ModelSource("owner/any", False)
    assert tokenizers_at_hand(source, facts()) == {}
    folder = downloaded(hub_cache, "owner/any", "tokenizer/tokenizer_config.json")
    assert tokenizers_at_hand(source, facts()) == {"tokenizer": folder / "tokenizer"}


@pytest.mark.parametrize("place", ["tokenizer_2/tokenizer_config.json", "tokenizer_config.json"])
def test_borrowed_from_another_repository(tmp_path, hub_cache, place):
    folder = written(tmp_path / "model", "tokenizer/tokenizer_config.json")
    other = downloaded(hub_cache, "owner/other", place)
    found = tokenizers_at_hand(ModelSource(str(folder), True), facts(tokenizer_2="owner/other"))
    assert found == {"tokenizer": folder / "tokenizer", "tokenizer_2": (other / place).parent}
