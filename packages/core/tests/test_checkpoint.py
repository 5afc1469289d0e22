import json

import pytest

from tuner.config.checkpoints import CheckpointConfig
from tuner.errors import CheckpointError
from tuner.training.checkpoint import (
    find_checkpoint,
    list_checkpoints,
    prune_checkpoints,
    read_checkpoint,
    remove_leftovers,
    write_checkpoint,
)


def write(folder, step):
    def fill(scratch):
        (scratch / "sub").mkdir()
        (scratch / "sub" / "weights.bin").write_bytes(bytes([step]))

    return write_checkpoint(folder, step, {"seed": 7}, fill)


def test_a_checkpoint_is_written_verified_and_read(tmp_path):
    folder = write(tmp_path, 3)
    assert read_checkpoint(folder) == {"step": 3, "seed": 7}
    assert sorted(json.loads((folder / "manifest.json").read_text())) == ["sub/weights.bin", "training_state.json"]


@pytest.mark.parametrize("damage", ["flip", "remove", "manifest", "cut manifest"])
def test_every_kind_of_damage_is_found_and_another_checkpoint_named(tmp_path, damage):
    write(tmp_path, 1)
    folder = write(tmp_path, 2)
    if damage == "flip":
        (folder / "sub" / "weights.bin").write_bytes(b"x")
    elif damage == "remove":
        (folder / "training_state.json").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("[]")
    else:
        (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"checkpoint-2 is damaged(?s:.*)checkpoint-1"):
        read_checkpoint(folder)


def test_a_full_disk_leaves_earlier_checkpoints_and_no_scraps(tmp_path):
    write(tmp_path, 1)

    def fill(scratch):
        (scratch / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        write_checkpoint(tmp_path, 2, {}, fill)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_the_newest_is_always_kept(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path, step)
    assert prune_checkpoints(tmp_path, 0) == []
    prune_checkpoints(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-100"]
    prune_checkpoints(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100"]


def test_only_what_a_run_wrote_is_listed_pruned_or_cleaned(tmp_path):
    (tmp_path / "checkpoint-50").mkdir()  # a person's own folder: no manifest
    (tmp_path / ".checkpoint-mine").mkdir()
    (tmp_path / f".checkpoint-3-{'0' * 32}").mkdir()
    write(tmp_path, 1)
    write(tmp_path, 2)
    prune_checkpoints(tmp_path, 1)
    remove_leftovers(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".checkpoint-mine", "checkpoint-2", "checkpoint-50"]


def test_which_one_is_resumed(tmp_path):
    assert find_checkpoint(tmp_path, CheckpointConfig()) is None
    write(tmp_path, 9)
    newest = write(tmp_path, 10)
    assert find_checkpoint(tmp_path, CheckpointConfig()) == newest
    named = CheckpointConfig(resume_from_checkpoint="checkpoint-9")
    assert find_checkpoint(tmp_path, named) == tmp_path / "checkpoint-9"
    path = CheckpointConfig(resume_from_checkpoint=str(newest))
    assert find_checkpoint(tmp_path / "elsewhere", path) == newest
    with pytest.raises(CheckpointError, match="checkpoint-9, checkpoint-10"):
        find_checkpoint(tmp_path, CheckpointConfig(resume_from_checkpoint="checkpoint-11"))
    (tmp_path / "checkpoint-12").mkdir()
    with pytest.raises(CheckpointError, match="incomplete"):
        find_checkpoint(tmp_path, CheckpointConfig(resume_from_checkpoint="checkpoint-12"))
    with pytest.raises(CheckpointError, match="holds the checkpoints of a run"):
        find_checkpoint(tmp_path, CheckpointConfig(resume_from_checkpoint="none"))
