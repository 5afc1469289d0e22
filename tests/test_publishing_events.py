"""What publishing does about each event, with the real client against a hub on loopback; nothing is trained."""

import os
import threading
from pathlib import Path

import pytest

from tuner.config.loading import load_config
from tuner.events import CheckpointSaved, ImagesValidated, RunEnded, RunStarted
from tuner.publishing import access, uploads
from tuner.publishing.access import PublishingError, open_repository
from tuner.publishing.card_file import is_untouched
from tuner.publishing.extension import create
from tuner.publishing.uploads import Upload, Uploader
from tuner.testing.hub import loopback_hub
from tuner.testing.hub_state import READ_TOKEN, WRITE_TOKEN, Repository

WEIGHTS = "pytorch_lora_weights.safetensors"
REPOSITORY = "someone/mine"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with loopback_hub() as hub:
        hub.adopt(monkeypatch, tmp_path / "client")
        yield hub


@pytest.fixture
def load(project):
    def load(**settings):
        return load_config(project(**{"push_to_hub": True, "hub_model_id": "mine", **settings}))

    return load


class Staged:
    """A run's events, with files that stand for what it wrote."""

    def __init__(self, loaded, **started):
        self.folder = loaded.config.model.output_dir
        self.folder.mkdir(exist_ok=True)
        self.extension = create(loaded.config)
        self.facts, self.config = loaded.family.facts, loaded.config
        origin = {"base_model": "owner/base", "seed": "42"}
        self.extension.run_started(
            RunStarted(self.config, 0, 9, self.folder, self.facts, **{"origin": origin, **started})
        )

    def checkpoint(self, step, content):
        folder = self.folder / f"checkpoint-{step}"
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(content)
        (folder / "optimizer.safetensors").write_bytes(b"state")
        self.extension.checkpoint_saved(CheckpointSaved(step, folder))
        return folder

    def validate(self, step, **prompts):
        folder = self.folder / "validation_images"
        folder.mkdir(exist_ok=True)
        files = {}
        for name in prompts:
            file = folder / f"step_{step}_{name}_0_8x8.png"
            file.write_bytes(f"picture {name}".encode())
            files[name] = (file, file)
        self.extension.images_validated(ImagesValidated(step, "live", files, prompts))

    def end(self, content=b"result"):
        exported = self.folder / WEIGHTS
        exported.write_bytes(content)
        self.extension.run_ended(RunEnded(9, "done", exported))


def test_without_push_to_hub_nobody_is_asked_and_the_card_is_written(hub, load):
    loaded = load(push_to_hub=False)
    assert open_repository(loaded.config) is None
    run = Staged(loaded)
    run.checkpoint(1, b"one")
    run.end()
    assert hub.requests == []
    assert is_untouched((run.folder / "README.md").read_text())
    assert {path.name for path in run.folder.iterdir()} == {"README.md", "checkpoint-1", WEIGHTS}


def test_the_result_is_one_commit_and_nothing_else_is_touched(hub, load):
    hub.repositories[REPOSITORY] = Repository({"theirs.txt": b"keep", WEIGHTS: b"old"}, ["first"])
    run = Staged(load(), settings={"seed": 42, "output_dir": "output"})
    run.validate(9, cat="a cat", dog="a dog")
    run.checkpoint(9, b"nine")  # push_checkpoints_to_hub is off
    run.end(b"new" * 100)
    repository = hub.repositories[REPOSITORY]
    assert repository.commits == ["first", "the result of 9 steps"]
    card = (run.folder / "README.md").read_bytes()
    assert repository.files == {
        "theirs.txt": b"keep",
        WEIGHTS: b"new" * 100,
        "README.md": card,
        "settings.json": b'{\n  "output_dir": "output",\n  "seed": 42\n}\n',
        "validation_images/step_9_cat_0_8x8.png": b"picture cat",
        "validation_images/step_9_dog_0_8x8.png": b"picture dog",
    }
    assert hub.tokens == {WRITE_TOKEN}
    written = b"".join(path.read_bytes() for path in run.folder.rglob("*") if path.is_file())
    assert WRITE_TOKEN.encode() not in written + b"".join(repository.files.values())
    assert not list(run.folder.glob(".upload-*"))


def test_checkpoints_are_weights_alone_and_survive_pruning(hub, load):
    loaded = load(push_checkpoints_to_hub=True)
    open_repository(loaded.config)
    run = Staged(loaded)
    hub.answering.clear()
    first = run.checkpoint(1, b"one")
    for path in first.iterdir():
        path.unlink()
    first.rmdir()
    hub.answering.set()
    run.end()
    files = hub.repositories[REPOSITORY].files
    assert files["checkpoint-1/" + WEIGHTS] == b"one"
    assert not [name for name in files if "optimizer" in name]


def test_files_are_copied_where_there_are_no_links(hub, load, monkeypatch):
    def no_links(source, target):
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "link", no_links)
    run = Staged(load())
    run.end(b"copied")
    assert hub.repositories[REPOSITORY].files[WEIGHTS] == b"copied"


def test_one_at_a_time_and_the_newest_first(hub, load, tmp_path):
    open_repository(load().config)
    begun, go_on = threading.Event(), threading.Event()

    def fault(method, path):
        if path.endswith("/commit/main") and not begun.is_set():
            begun.set()
            go_on.wait()

    hub.fault = fault
    uploader = Uploader(REPOSITORY)
    for name in "abc":
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.txt").write_text(name)
        uploader.add(Upload(name, folder))
        begun.wait()
    go_on.set()
    assert uploader.wait(lambda: False)
    assert hub.repositories[REPOSITORY].commits[1:] == ["a", "c", "b"]


def test_nobody_is_logged_in(hub, load, tmp_path, monkeypatch):
    hub.adopt(monkeypatch, tmp_path / "client", token=None)
    with pytest.raises(PublishingError, match=r"nobody is logged in(.|\n)*hf auth login(.|\n)*HF_TOKEN"):
        open_repository(load().config)
    assert hub.requests == []


def test_a_login_counts_as_well_as_the_environment(hub, load, tmp_path, monkeypatch):
    hub.adopt(monkeypatch, tmp_path / "client", token=None)
    (tmp_path / "client").mkdir(exist_ok=True)
    (tmp_path / "client" / "token").write_text(WRITE_TOKEN)
    assert open_repository(load().config) == REPOSITORY


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        ("hf_Wrong", "mine", r"does not accept the token: .*Invalid user token(.|\n)*hf auth login"),
        (READ_TOKEN, "mine", r"the token of someone may only read\n    -> make one that may write"),
        (WRITE_TOKEN, "another/mine", r"someone may not write to another/mine: .*403(.|\n)*-> name a repository"),
        (WRITE_TOKEN, "organisation/theirs", r"someone may not write to organisation/theirs: .*403"),
    ],
)
def test_what_does_not_suffice_is_found_before_anything_is_computed(
    hub, load, tmp_path, monkeypatch, token, name, message
):
    from tuner.training.run import train

    hub.repositories["organisation/theirs"] = Repository(writable=False)
    hub.adopt(monkeypatch, tmp_path / "client", token=token)
    with pytest.raises(PublishingError, match=message) as caught:
        train(load(hub_model_id=name))
    assert token not in str(caught.value)
    assert not Path("cache").exists()
    assert hub.repositories.keys() == {"organisation/theirs"}


def test_a_hub_that_fails_is_named_with_its_address(hub, load):
    hub.fault = lambda method, path: 500
    with pytest.raises(PublishingError, match=rf"{hub.address} cannot be asked .*500(.|\n)*HF_ENDPOINT"):
        open_repository(load().config)


def test_a_hub_that_is_not_there(load, tmp_path, monkeypatch):
    with loopback_hub() as hub:
        hub.adopt(monkeypatch, tmp_path / "client")
    with pytest.raises(PublishingError, match=r"cannot be asked .*ConnectError(.|\n)*check the connection"):
        open_repository(load().config)


def test_a_hub_that_never_answers(hub, load, monkeypatch):
    monkeypatch.setattr(access, "PATIENCE_SECONDS", 0.1)
    hub.answering.clear()
    with pytest.raises(PublishingError, match=r"no answer within 0\.1 seconds"):
        open_repository(load().config)


@pytest.mark.parametrize("status", [401, 403, 413])
def test_an_upload_that_fails_is_logged_and_the_next_one_is_tried(hub, load, caplog, status):
    loaded = load(push_checkpoints_to_hub=True)
    open_repository(loaded.config)
    refused = []

    def fault(method, path):
        if path.endswith("/commit/main") and not refused:
            refused.append(path)
            return status
        return None

    hub.fault = fault
    run = Staged(loaded)
    run.checkpoint(1, b"one")
    run.extension._uploader.wait(lambda: False)
    run.end()
    assert f"checkpoint-1, weights of step 1 was not uploaded to {REPOSITORY}: HfHubHTTPError" in caplog.text
    assert WRITE_TOKEN not in caplog.text
    assert hub.repositories[REPOSITORY].commits == ["initial commit", "the result of 9 steps"]
    assert not list(run.folder.glob(".upload-*"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_has_too_much_to_do_gets_the_upload_again(hub, load, caplog, monkeypatch, status):
    monkeypatch.setattr(uploads, "PAUSES", (0.0, 0.0))
    loaded = load()
    open_repository(loaded.config)
    commits = []

    def fault(method, path):
        if path.endswith("/commit/main"):
            commits.append(path)
            return status if len(commits) < 3 else None
        return None

    hub.fault = fault
    run = Staged(loaded)
    run.end(b"late")
    assert len(commits) == 3
    assert caplog.text.count("it is sent again in 0 seconds") == 2
    assert "was not uploaded" not in caplog.text
    assert hub.repositories[REPOSITORY].files[WEIGHTS] == b"late"
    commits.clear()
    hub.fault = lambda method, path: commits.append(path) or status if path.endswith("/commit/main") else None
    Staged(load()).end(b"never")
    assert len(commits) == 3
    assert f"the result of 9 steps was not uploaded to {REPOSITORY}: HfHubHTTPError" in caplog.text
    assert not list(run.folder.glob(".upload-*"))


def test_somebody_who_leaves_does_not_wait_for_another_attempt(hub, load, caplog, monkeypatch):
    monkeypatch.setattr(uploads, "PAUSES", (600.0,))
    loaded = load()
    open_repository(loaded.config)
    failed = threading.Event()
    hub.fault = lambda method, path: failed.set() or 500 if path.endswith("/commit/main") else None
    run = Staged(loaded)
    monkeypatch.setattr(Uploader, "wait", lambda self, leaves: failed.wait() and self.leave())
    run.end()
    thread = run.extension._uploader._thread
    with run.extension._uploader._changed:
        run.extension._uploader._changed.wait_for(lambda: run.extension._uploader._current is None)
    assert thread.is_alive()  # it waits for work, not for the hub
    assert "the result of 9 steps was not uploaded to someone/mine: it was left" in caplog.text


def test_a_card_that_cannot_be_read_now_is_not_taken_for_none(hub, load, caplog, monkeypatch):
    """A hub that fails while it is asked for README.md says nothing of what somebody wrote there."""
    monkeypatch.setattr(uploads, "PAUSES", (0.0,))
    hub.repositories[REPOSITORY] = Repository({"README.md": b"# theirs"}, ["first"])
    hub.fault = lambda method, path: 501 if path.endswith("/resolve/main/README.md") else None
    Staged(load()).end()
    assert hub.repositories[REPOSITORY].files == {"README.md": b"# theirs"}
    assert "it is sent again" in caplog.text
    hub.fault = lambda method, path: None
    Staged(load()).end()
    assert hub.repositories[REPOSITORY].files["README.md"] == b"# theirs"
    assert WEIGHTS in hub.repositories[REPOSITORY].files


def test_a_disk_without_room_for_the_copy_stops_nothing(hub, load, caplog, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    run = Staged(load())
    run.end()
    assert "the result of 9 steps was not uploaded: OSError: [Errno 28] No space left" in caplog.text
    assert not list(run.folder.glob(".upload-*"))


def test_what_nobody_takes_is_left_after_a_while(hub, load, caplog, monkeypatch):
    loaded = load()
    open_repository(loaded.config)
    run = Staged(loaded)
    monkeypatch.setattr(uploads, "PATIENCE_SECONDS", 0.2)
    hub.answering.clear()
    run.end()
    assert f"the result of 9 steps was not uploaded to {REPOSITORY}: it was left" in caplog.text
    assert not list(run.folder.glob(".upload-*"))


def test_a_repository_that_is_lost_at_the_start_of_training_stops_nothing(hub, load, caplog):
    hub.fault = lambda method, path: 500
    run = Staged(load())
    run.checkpoint(1, b"one")
    run.end()
    assert "nothing will be uploaded: PublishingError" in caplog.text
    assert (run.folder / "README.md").is_file()


def test_somebody_who_wants_to_leave_at_once_is_not_kept(hub, load, caplog):
    loaded = load(push_checkpoints_to_hub=True)
    open_repository(loaded.config)
    run = Staged(loaded)
    hub.answering.clear()
    run.checkpoint(1, b"one")
    with pytest.raises(KeyboardInterrupt):
        try:
            raise KeyboardInterrupt
        finally:
            run.extension.run_ended(RunEnded(1, "interrupted", None))
    assert "checkpoint-1, weights of step 1 was not uploaded to someone/mine: it was left" in caplog.text


def test_what_must_not_be_shown_is_not_in_the_card(hub, load):
    secret = "s3cr_t*value"
    loaded = load(
        push_to_hub=False, validation_prompt=f"by {secret}", validation_negative_prompt=f"not {secret}",
        dataset={"id": f"of {secret}"}, sana_complex_human_instruction=f"as {secret}",
    )  # fmt: skip
    run = Staged(loaded, hide=lambda text: text.replace(secret, "(hidden)"))
    run.validate(9, cat=f"by {secret}")
    run.end()
    card = (run.folder / "README.md").read_text()
    assert "s3cr" not in card
    assert 'prompt="by (hidden)"' in card
    assert is_untouched(card)


def test_leftovers_of_a_killed_run_are_removed(hub, load):
    left = Path("output/.upload-" + "a" * 32)
    left.mkdir(parents=True)
    (left / "file").touch()
    Path("output/.upload-mine").mkdir()
    Staged(load(push_to_hub=False))
    assert [path.name for path in Path("output").iterdir()] == [".upload-mine"]


def test_a_readme_that_somebody_wrote_stays_here_and_there(hub, load, caplog):
    caplog.set_level("INFO", logger="tuner")
    hub.repositories[REPOSITORY] = Repository({"README.md": b"# theirs"}, ["first"])
    loaded = load()
    Path("output").mkdir()
    Path("output/README.md").write_text("# mine")
    run = Staged(loaded)
    run.end()
    assert (run.folder / "README.md").read_text() == "# mine"
    assert is_untouched((run.folder / "MODEL_CARD.md").read_text())
    assert hub.repositories[REPOSITORY].files["README.md"] == b"# theirs"
    assert "README.md in someone/mine was changed by hand and stays as it is" in caplog.text
    (run.folder / "MODEL_CARD.md").write_text("mine too")
    Staged(load()).end()
    assert (run.folder / "MODEL_CARD.md").read_text() == "mine too"
    assert "no model card was written" in caplog.text


def test_a_card_of_an_earlier_run_is_replaced(hub, load):
    Staged(load(learning_rate=1e-4)).end()
    assert "0.0001" in Path("output/README.md").read_text()
    Staged(load(learning_rate=2e-4)).end()
    assert "0.0002" in Path("output/README.md").read_text()
    assert hub.repositories[REPOSITORY].files["README.md"] == Path("output/README.md").read_bytes()
    assert not Path("output/MODEL_CARD.md").exists()
