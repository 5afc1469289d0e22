"""The page that shows a run, its record, and the contact sheets."""

import base64
import hashlib
import itertools
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded
from tuner.tracking.gallery import sheet as sheet_module
from tuner.tracking.gallery.extension import Gallery
from tuner.tracking.gallery.page import embedded
from tuner.tracking.gallery.rounds import Picture, Round
from tuner.tracking.gallery.series import columns_of, row_of
from tuner.tracking.gallery.settings import prose_without_paths, without_paths
from tuner.tracking.gallery.sheet import write_sheet
from tuner.tracking.journal import Journal

RED, BLUE = (200, 30, 30), (30, 30, 200)
HOSTILE = "</script><script>alert(1)</script><!-- <script> \"q\" 'q' &amp; \u2028 {{script}} {{data}}"


class Parsed(HTMLParser):
    """The elements of a page, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open:
            self.texts[self._open][-1] += data


def parse(folder: Path) -> Parsed:
    return Parsed((folder / "index.html").read_text(encoding="utf-8"))


def record_of(folder: Path) -> dict:
    text = (folder / "index.html").read_text(encoding="utf-8")
    return json.loads(text.split('id="record">')[1].split("</script>")[0])


class Run:
    """Tells journal and page of a run, in the order in which plugins hear of it."""

    def __init__(self, folder: Path, clock=None) -> None:
        self.folder = folder
        self.gallery = Gallery(clock) if clock else Gallery()
        self.listeners = (Journal(), self.gallery)

    def start(self, first: int = 0, last: int = 10, title: str = "Toy", **origin: str) -> "Run":
        self._tell("run_started", RunStarted(None, first, last, self.folder, SimpleNamespace(title=title), origin))
        return self

    def step(self, step: int, loss: float, logged: bool = True, **metrics: float) -> None:
        tensors = {name: torch.tensor(value) for name, value in metrics.items()}
        self._tell("step_ended", StepEnded(step, torch.tensor(loss), 0.5, 1, tensors, logged))

    def pictures(self, step: int, label: str, prompts: dict[str, str], color=RED, sizes=((32, 32),)) -> None:
        home = self.folder / ("benchmarks/base_model" if label == "base model" else "validation_images")
        home.mkdir(parents=True, exist_ok=True)
        files = {}
        for name in prompts:
            files[name] = tuple(home / f"step_{step}_{label}_{name}_{width}x{height}.png" for width, height in sizes)
            for file, size in zip(files[name], sizes, strict=True):
                Image.new("RGB", size, color).save(file)
        self.gallery.images_validated(ImagesValidated(step, label, files, prompts))

    def evaluate(self, step: int, label: str, value: float) -> None:
        curve = {"eval_loss_by_sigma/a": ((0.25, value), (0.75, value / 2))}
        self._tell("evaluated", Evaluated(step, label, {"eval_loss/a": value}, curve))

    def end(self, step: int, outcome: str = "done", reason: str = "") -> None:
        self._tell("run_ended", RunEnded(step, outcome, None, reason))  # type: ignore[arg-type]

    def _tell(self, name: str, event: object) -> None:
        for listener in self.listeners:
            if hasattr(listener, name):
                getattr(listener, name)(event)


def test_the_page_holds_what_the_run_told(tmp_path):
    run = Run(tmp_path).start(base_model="toy-1b", seed="42")
    run.pictures(0, "base model", {"cat": "a cat"})
    run.evaluate(0, "base model", 2.0)
    run.gallery.evaluated(Evaluated(0, "base model", {"clip_score/mean": 0.25}))
    run.step(1, 1.5, grad_norm=3.0)
    run.step(2, 9.0, logged=False)
    run.step(3, 1.23456789)
    run.pictures(3, "live", {"cat": "a cat", "dog": "a dog"})
    run.evaluate(3, "live", 1.0)
    run.end(3, "interrupted")
    record = record_of(tmp_path)
    expected = {"title": "Toy", "name": tmp_path.name, "state": "interrupted", "step": 3, "last": 10}
    assert expected.items() <= record.items()
    assert record["origin"] == {"base_model": "toy-1b", "seed": "42"}
    assert record["prompts"] == {"cat": "a cat", "dog": "a dog"}
    assert [(each["step"], each["label"], each["sheet"]) for each in record["rounds"]] == [
        (0, "base model", "contact_sheets/step_0_base_model.jpg"),
        (3, "live", "contact_sheets/step_3_live.jpg"),
    ]
    assert record["rounds"][1]["pictures"]["dog"] == [["validation_images/step_3_live_dog_32x32.png", 32, 32]]
    assert record["metrics"]["steps"] == [1, 3]
    assert record["metrics"]["columns"] == {
        "loss": [1.5, 1.23457], "learning_rate": [0.5, 0.5], "grad_norm": [3.0, None],
    }  # fmt: skip
    assert [(each["step"], each["metrics"]) for each in record["evaluations"]] == [
        (0, {"eval_loss/a": 2.0, "clip_score/mean": 0.25}), (3, {"eval_loss/a": 1.0}),
    ]  # fmt: skip
    assert record["evaluations"][1]["curves"] == {"eval_loss_by_sigma/a": [[0.25, 1.0], [0.75, 0.5]]}


def test_the_page_says_what_came_of_the_run(tmp_path):
    run = Run(tmp_path).start()
    run.evaluate(0, "base model", 2.0)
    run.evaluate(3, "live", 1.0)
    record = record_of(tmp_path)
    assert (record["state"], record["reason"], record["summary"]) == ("running", "", "")
    run.end(3, "failed", "the disk is full")
    record = record_of(tmp_path)
    assert (record["state"], record["reason"]) == ("failed", "the disk is full")
    assert "better than the base model's 2.0000 by 50.0%" in record["summary"]


def test_what_users_type_stays_text(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)> & {{style}}"
    folder.mkdir()
    run = Run(folder).start(title=HOSTILE, base_model=HOSTILE)
    run.pictures(0, "base model", {"50% #1 <b>": HOSTILE, "half \udc80": "\udc80"})
    run.end(0)
    page = parse(folder)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not {"img", "b"} & {tag for tag, _ in page.tags}
    record = json.loads(page.texts["script"][0])
    assert record["title"] == record["origin"]["base_model"] == record["prompts"]["50% #1 <b>"] == HOSTILE
    assert record["prompts"]["half \udc80"] == "\udc80"
    assert page.texts["title"] == [f"{folder.name} - {HOSTILE}"]
    assert not re.search("[<>&\u2028]", embedded(HOSTILE))


def test_the_page_allows_its_own_style_and_script_alone(tmp_path):
    Run(tmp_path).start().end(0)
    page = parse(tmp_path)
    (policy,) = [each["content"] for tag, each in page.tags if tag == "meta" and "http-equiv" in each]
    for directive, text in {"style-src": page.texts["style"][0], "script-src": page.texts["script"][1]}.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    loading = [each for tag, each in page.tags if tag != "a" and each.keys() & {"src", "href", "srcset"}]
    assert loading == []
    assert "http" not in page.texts["script"][1].replace("http://www.w3.org/2000/svg", "")


def test_a_page_says_what_each_part_is_called(tmp_path):
    Run(tmp_path).start().end(0)
    tags = parse(tmp_path).tags
    ids = {attributes["id"] for _, attributes in tags if "id" in attributes}
    named = [value for _, each in tags for key, value in each.items() if key in {"aria-labelledby", "for"}]
    assert len(named) >= 7
    assert set(named) <= ids
    assert ("html", {"lang": "en"}) in tags


def test_a_resumed_run_shows_its_earlier_part_without_the_steps_taken_back(tmp_path):
    run = Run(tmp_path).start()
    run.pictures(0, "base model", {"cat": "a cat"})
    run.evaluate(0, "base model", 3.0)
    for step in (2, 4, 6):
        run.step(step, float(step))
        run.pictures(step, "live", {"cat": "a cat"})
        run.evaluate(step, "live", 1.0)
    (tmp_path / "validation_images" / "step_2_live_cat_32x32.png").unlink()

    again = Run(tmp_path).start(first=4)
    record = record_of(tmp_path)
    assert record["state"] == "running"
    assert record["metrics"]["steps"] == [2, 4]
    assert [each["step"] for each in record["evaluations"]] == [0, 2, 4]
    assert [each["step"] for each in record["rounds"]] == [0, 4]
    again.step(6, 0.5)
    again.pictures(6, "live", {"cat": "a cat"})
    again.end(6)
    record = record_of(tmp_path)
    assert record["metrics"]["columns"]["loss"] == [2.0, 4.0, 0.5]
    assert [each["step"] for each in record["rounds"]] == [0, 4, 6]

    afresh = Run(tmp_path).start()
    record = record_of(tmp_path)
    assert record["rounds"] == record["evaluations"] == record["metrics"]["steps"] == []
    afresh.end(0)


def test_a_page_is_written_again_once_it_is_old_enough(tmp_path):
    now = [0.0]
    run = Run(tmp_path, lambda: now[0]).start()

    def shown() -> list[int]:
        return record_of(tmp_path)["metrics"]["steps"]

    now[0] = 14.0
    run.step(1, 1.0)
    assert shown() == []
    now[0] = 15.0
    run.step(2, 1.0)
    assert shown() == [1, 2]
    run.step(3, 1.0)
    assert shown() == [1, 2]
    run.evaluate(3, "live", 1.0)
    assert shown() == [1, 2, 3]


def test_a_page_that_takes_long_is_written_seldom(tmp_path):
    ticks = iter(range(0, 1000, 2))  # every look at the clock is two seconds later: a page takes two of them
    run = Run(tmp_path, lambda: float(next(ticks))).start()
    written = []
    for step in range(1, 400):
        run.step(step, 1.0)
        written.append(record_of(tmp_path)["metrics"]["steps"][-1:])
    changes = sorted({each[0] for each in written if each})
    assert len(changes) in {2, 3}
    assert all(later - earlier >= 100 for earlier, later in itertools.pairwise(changes))


def test_a_page_that_cannot_be_written_is_reported_once_and_harms_nobody(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tuner"), "propagate", True)
    (tmp_path / "index.html").mkdir()
    run = Run(tmp_path).start()
    run.step(1, 1.0)
    run.gallery.images_validated(ImagesValidated(1, "live", {"cat": (tmp_path / "missing.png",)}, {"cat": ""}))
    run.pictures(2, "live", {"cat": "a cat"})
    run.end(2)
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert "the page that shows the run is not up to date" in caplog.text
    assert (tmp_path / "contact_sheets" / "step_2_live.jpg").is_file()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_pictures_elsewhere_are_left_out(tmp_path):
    folder = tmp_path / "output"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    run = Run(folder).start()
    run.gallery.images_validated(ImagesValidated(1, "live", {"cat": (tmp_path / "outside.png",)}, {"cat": "a cat"}))
    run.end(1)
    assert record_of(folder)["rounds"][0]["pictures"] == {"cat": []}


def test_settings_show_no_absolute_path(tmp_path):
    receipt = [
        {"key": "output_dir", "value": f"{tmp_path}/my output", "origin": f"{tmp_path}/config.json", "unread": None},
        {"key": "base", "value": "owner/model", "origin": "default", "unread": None},
        {"key": "sizes", "value": [1, None], "origin": "command line", "unread": f"{tmp_path}/a.json says no"},
    ]
    (tmp_path / "settings_receipt.json").write_text(json.dumps(receipt))
    Run(tmp_path).start(base_model=str(tmp_path / "twin")).end(0)
    assert str(tmp_path.parent) not in (tmp_path / "index.html").read_text()
    record = record_of(tmp_path)
    assert record["origin"] == {"base_model": "twin"}
    assert record["settings"] == [
        {"key": "output_dir", "value": "my output", "origin": "config.json", "unread": None, "given": True},
        {"key": "base", "value": "owner/model", "origin": "default", "unread": None, "given": False},
        {"key": "sizes", "value": "[1, null]", "origin": "command line", "unread": "a.json says no", "given": True},
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/set 1/pictures", "pictures"),
        ("~/pictures", "pictures"),
        ("C:\\Users\\ann\\config.json", "config.json"),
        ("no such file: /home/ann/a.json (line 3)", "no such file: a.json (line 3)"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("owner/model, 3/4 and/or relative/path/x.png", "owner/model, 3/4 and/or relative/path/x.png"),
    ],
)
def test_paths_are_reduced_to_their_last_part(text, shown):
    assert without_paths(text) == shown
    assert without_paths({"a": [text]}) == {"a": [shown]}


def test_a_sentence_keeps_what_follows_its_path():
    assert prose_without_paths("/home/ann/vae: cannot be read, see /etc/x/y.json") == "vae: cannot be read, see y.json"


def test_values_that_are_not_finite_leave_a_gap():
    rows = [row_of(1, {"loss": float("nan"), "rate": 1}), row_of(2, {"loss": float("inf"), "name": "x", "flag": True})]
    assert columns_of(rows) == {"steps": [1, 2], "columns": {"loss": [None, None], "rate": [1.0, None]}}


def test_many_rows_are_thinned_and_keep_their_peaks():
    rows = [row_of(step, {"loss": 1.0, "late": 0.0} if step > 50 else {"loss": 1.0}) for step in range(1, 10_001)]
    rows[1233]["loss"], rows[8000]["loss"], rows[9000]["late"] = 77.0, -5.0, 3.0
    thin = columns_of(rows, most=500)
    assert thin["steps"] == sorted(thin["steps"])
    assert (thin["steps"][0], thin["steps"][-1]) == (1, 10_000)
    assert 400 <= len(thin["steps"]) <= 500
    loss = thin["columns"]["loss"]
    assert (max(loss), min(loss), loss.count(1.0)) == (77.0, -5.0, len(loss) - 2)
    assert abs(thin["steps"][loss.index(77.0)] - 1234) <= 40
    assert max(value for value in thin["columns"]["late"] if value is not None) == 3.0
    assert thin["columns"]["late"][0] is None


def test_a_contact_sheet_has_every_picture_beside_the_base_models(tmp_path):
    def made(label: str, color, sizes) -> list[Picture]:
        pictures = []
        for width, height in sizes:
            pictures.append(Picture(f"{label}_{width}.png", width, height))
            Image.new("RGB", (width, height), color).save(tmp_path / pictures[-1].file)
        return pictures

    sizes = [(800, 400), (100, 100)]
    base = Round(0, "base model", {"cat": made("base", RED, sizes)}, {})
    live = Round(7, "live", {"cat": made("live", BLUE, [*sizes, (60, 60)])}, {"cat": "a very long prompt " * 40})
    sheet = Image.open(write_sheet(live, base, tmp_path))
    assert sheet.filename == str(tmp_path / "contact_sheets/step_7_live.jpg")
    pixels = torch.frombuffer(bytearray(sheet.convert("RGB").tobytes()), dtype=torch.uint8).int()
    pixels = pixels.reshape(sheet.height, sheet.width, 3)
    # Large pictures are scaled to 384 pixels: a red and a blue one each of 384 x 192 and 100 x 100, a blue 60 x 60.
    for color, area in {RED: 384 * 192 + 100 * 100, BLUE: 384 * 192 + 100 * 100 + 60 * 60}.items():
        near = (pixels - torch.tensor(color)).abs().amax(-1) < 40
        assert near.sum().item() == pytest.approx(area, rel=0.01)
    row = pixels[100].tolist()
    order = [BLUE if blue > red else RED for red, _, blue in row if abs(red - blue) > 120]
    assert [color for place, color in enumerate(order) if place == 0 or order[place - 1] != color] == [RED, BLUE] * 2


def test_a_contact_sheet_of_many_pictures_shows_them_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet_module, "MOST_PIXELS", 2_000_000)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")  # as large as the round says would only take longer
    many = {f"prompt {number}": [Picture("a.png", 1024, 1024)] for number in range(200)}
    sheet = Image.open(write_sheet(Round(1, "live", many, {}), None, tmp_path))
    assert 3_000_000 < sheet.width * sheet.height < 8_000_000  # captions and gaps included
    assert 0.5 < sheet.width / sheet.height < 2
