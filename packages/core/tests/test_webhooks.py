"""Webhooks against real servers on loopback: ones that answer, refuse, hang and come to themselves."""

import base64
import io
import json
import logging
import random
import socket
from email import message_from_bytes
from pathlib import Path

import pytest
import torch
from PIL import Image

from tuner.config.loading import load_config
from tuner.config.webhooks import Webhook
from tuner.errors import ConfigError
from tuner.events import (
    CheckpointSaved,
    Evaluated,
    ImagesValidated,
    PreparationFailed,
    Previewed,
    RunEnded,
    RunStarted,
    StepEnded,
)
from tuner.plugins import create_manager, load_family
from tuner.testing.servers import Listener, address_of, serving
from tuner.tracking import messages
from tuner.tracking.delivery import Delivery
from tuner.tracking.journal import Journal
from tuner.tracking.messages import Message
from tuner.tracking.webhooks import create

SECRET = "hush-hush-12345"
HELLO = Message("run.started", "info", "hello", {"step": 3, "loss": float("nan")})


class Server(Listener):
    """One whose address is a secret."""

    @property
    def url(self) -> str:
        return f"{address_of(self)}/{SECRET}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Server()) as server:
        yield server


def raw(url: str, **more) -> Webhook:
    return Webhook(webhook_type="raw", callback_url=url, **more)


def discord_parts(headers: dict[str, str], body: bytes) -> dict[str, bytes]:
    """The parts of a form, by name."""
    form = message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    return {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in form.walk()}


def test_json_with_token_prefix_and_pictures(server, tmp_path):
    picture = Image.new("RGB", (4, 3), (255, 0, 0))
    picture.save(tmp_path / "a.png")
    delivery = Delivery(raw(server.url, auth_token=SECRET, message_prefix="[mine]"), "webhook 1")
    delivery.put(Message("validation.images", "info", "step 3", {"loss": float("inf")}, (tmp_path / "a.png", picture)))
    assert delivery.close() == 0
    headers, _ = server.requests[0]
    assert headers["X-API-Key"] == SECRET
    (body,) = server.bodies
    images = [Image.open(io.BytesIO(base64.b64decode(image))) for image in body.pop("images")]
    assert [(image.size, image.getpixel((0, 0))) for image in images] == [((4, 3), (255, 0, 0))] * 2
    assert body == {"type": "validation.images", "level": "info", "message": "[mine] step 3", "data": {"loss": None}}


def test_discord_gets_ten_pictures_at_a_time_and_wakes_nobody(server):
    pictures = tuple(Image.new("RGB", (1, 1), (number, 0, 0)) for number in range(12))
    webhook = Webhook(webhook_type="discord", webhook_url=server.url, auth_token=SECRET)
    delivery = Delivery(webhook, "webhook 1")
    delivery.put(Message("validation.images", "info", "@everyone " + "x" * 3000, {}, pictures))
    delivery.put(Message("run.ended", "info", "bye"))
    assert delivery.close() == 0
    first, second = (discord_parts(*request) for request in server.requests[:2])
    content = json.loads(first["payload_json"])
    assert content["allowed_mentions"] == {"parse": []}
    assert content["content"].startswith("@everyone xxx") and len(content["content"]) == 2000
    sent = [*(first[f"files[{n}]"] for n in range(10)), *(second[f"files[{n}]"] for n in range(2))]
    assert [Image.open(io.BytesIO(data)).getpixel((0, 0))[0] for data in sent] == list(range(12))
    assert json.loads(server.requests[2][1])["content"] == "bye"
    assert not any("X-API-Key" in headers for headers, _ in server.requests)


def test_discord_gets_no_more_bytes_than_it_takes(server, monkeypatch):
    monkeypatch.setattr(messages, "_DISCORD_FILE", 8_000)
    monkeypatch.setattr(messages, "_DISCORD_REQUEST", 24_000)
    sides = (50, 80, 80, 80, 80, 160)
    noise = [
        Image.frombytes("RGB", (side, side), random.Random(number).randbytes(3 * side * side))
        for number, side in enumerate(sides)
    ]
    delivery = Delivery(Webhook(webhook_type="discord", webhook_url=server.url), "webhook 1")
    delivery.put(Message("validation.images", "info", "large", {}, tuple(noise)))
    assert delivery.close() == 0
    shown, texts = [], []
    for headers, body in server.requests:
        parts = discord_parts(headers, body)
        files = [parts[name] for name in sorted(name for name in parts if name and name.startswith("files"))]
        assert all(len(data) <= 8_000 for data in files) and sum(map(len, files)) <= 24_000
        shown += [Image.open(io.BytesIO(data)) for data in files]
        texts.append(json.loads(parts["payload_json"])["content"])
    assert [(picture.format, picture.width) for picture in shown] == [
        ("PNG", 50), *[("JPEG", 80)] * 4, ("JPEG", 80)
    ]  # fmt: skip
    assert texts == ["large"] + [""] * (len(texts) - 1) and len(texts) > 1


def test_an_error_that_passes_is_tried_again(server):
    server.answers = [(500, {}), (503, {}), (429, {"Retry-After": "2.5"}), (200, {})]
    waits = []
    delivery = Delivery(raw(server.url), "webhook 1", wait=lambda seconds, asked: bool(waits.append((seconds, asked))))
    delivery.put(HELLO)
    assert delivery.close() == 0
    assert waits == [(1.0, False), (4.0, False), (16.0, False)]
    assert len(server.requests) == 4
    assert server.bodies[3]["data"] == {"step": 3, "loss": None}


def test_the_end_of_a_run_is_no_time_for_patience(server):
    server.answers = [(500, {})] * 4
    delivery = Delivery(raw(server.url), "webhook 1", delays=(3600.0, 3600.0))
    delivery.put(HELLO)
    assert server.heard.wait(30)
    assert delivery.close() == 1
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("7", [(7.0, True)]), ("Wed, 21 Oct 2026 07:28:00 GMT", [(1.0, False)]), ("900", [])],
)
def test_a_server_says_how_long_to_wait(server, answer, expected):
    server.answers = [(429, {"Retry-After": answer})]
    waits = []
    delivery = Delivery(raw(server.url), "webhook 1", wait=lambda seconds, asked: bool(waits.append((seconds, asked))))
    delivery.put(HELLO)
    assert delivery.close() == (0 if expected else 1)
    assert waits == expected


def test_a_refusal_is_final_and_redirects_are_not_followed(server, caplog):
    server.answers = [(404, {}), (307, {"Location": server.url}), (200, {})]
    delivery = Delivery(raw(server.url, auth_token=SECRET), "webhook 1", wait=lambda *_: False)
    for _ in range(3):
        delivery.put(HELLO)
    assert delivery.close() == 2
    assert len(server.requests) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "webhook 1 answers 404; the run goes on, and messages may be lost",
        "webhook 1: 2 of 3 messages were not delivered",
    ]


def test_a_server_that_is_not_there_costs_little_and_names_no_address(caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{SECRET}"
    waits = []
    with caplog.at_level(logging.DEBUG):
        delivery = Delivery(raw(url), "webhook 1", wait=lambda seconds, asked: bool(waits.append((seconds, asked))))
        for _ in range(5):
            delivery.put(HELLO)
        assert delivery.close() == 5
    assert waits == [(1.0, False), (4.0, False), (16.0, False)]  # for the first message alone
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("tuner")]
    assert ours[0].startswith("webhook 1 cannot be reached (ConnectionError)")
    assert not any(SECRET in text for text in ours)


def test_a_server_that_hangs_delays_nothing(server, caplog):
    server.hangs = True
    delivery = Delivery(raw(server.url), "webhook 1", capacity=4)
    delivery.put(HELLO)
    assert server.heard.wait(30)
    for _ in range(9):
        delivery.put(HELLO)
    assert delivery.close(timeout=0.0) == 10
    assert "webhook 1: 10 of 10 messages were not delivered" in caplog.messages
    assert "webhook 1 is too slow for all that is told; the run goes on, and messages may be lost" in caplog.messages


def test_a_server_that_hangs_is_given_up(server):
    server.hangs = True
    delivery = Delivery(raw(server.url), "webhook 1", delays=(), timeouts=(5.0, 0.05))
    delivery.put(HELLO)
    assert delivery.close() == 1


def test_few_pictures_wait_in_memory(server):
    server.hangs = True
    delivery = Delivery(raw(server.url), "webhook 1")
    delivery.put(HELLO)
    assert server.heard.wait(30)
    preview = Message("validation.image", "info", "so far", {}, (Image.new("RGB", (2, 2)),))
    for _ in range(20):
        delivery.put(preview)
    delivery.put(HELLO)
    server.go_on.set()
    assert delivery.close() == 4
    assert [body["type"] for body in server.bodies].count("validation.image") == 16


def test_a_picture_that_is_gone_loses_its_message_alone(server, tmp_path):
    delivery = Delivery(raw(server.url), "webhook 1")
    delivery.put(Message("validation.images", "info", "gone", {}, (tmp_path / "gone.png",)))
    delivery.put(HELLO)
    assert delivery.close() == 1
    assert [body["message"] for body in server.bodies] == ["hello"]


def events(config, folder: Path) -> list[tuple[str, object]]:
    """What a run tells, in order."""
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    facts = load_family("toyfamily.plugin").facts
    preview = Image.new("RGB", (16, 8))
    return [
        ("run_started", RunStarted(config, 0, 4, folder, facts, {"base_model": "toy"})),
        ("step_ended", StepEnded(1, torch.tensor(0.5), 1e-3, 2, {"norm": torch.tensor(2.0)}, True)),
        ("previewed", Previewed(2, "cat", "a cat", 5, 20, 0.75, preview)),
        ("images_validated", ImagesValidated(2, "live", {}, {"cat": "a cat"}, {"cat": (folder / "p.png",)})),
        ("evaluated", Evaluated(2, "live", {"eval_loss/pictures": 0.25}, {"by_sigma": ((0.5, 0.25),)})),
        ("checkpoint_saved", CheckpointSaved(2, folder / "checkpoint-2")),
        ("run_ended", RunEnded(2, "failed", None, "the loss of step 2 is nan")),
    ]


KINDS = ["run.started", "validation.image", "validation.images", "evaluation", "checkpoint.saved", "run.ended"]


EVERYTHING = [KINDS[0], "training.step", *KINDS[1:]]


@pytest.mark.parametrize(
    ("level", "expected"),
    [("critical", KINDS[-1:]), ("warning", KINDS[-1:]), ("info", KINDS), ("debug", EVERYTHING)],
)
def test_a_run_tells_what_the_level_asks_for(server, write_config, tmp_path, level, expected):
    hook = {"webhook_type": "raw", "callback_url": server.url, "log_level": level}
    loaded = load_config(write_config(webhook_config=hook))
    manager = create_manager(loaded.family, [create(loaded.config)])
    for name, event in events(loaded.config, tmp_path):
        getattr(manager.hook, name)(event=event)
    assert [body["type"] for body in server.bodies] == expected
    told = {body["type"]: body for body in server.bodies}
    assert told["run.ended"]["message"] == "the run has failed, at step 2 of 4: the loss of step 2 is nan"
    assert told["run.ended"]["data"]["reason"] == "the loss of step 2 is nan"
    assert told["run.ended"]["level"] == "critical"
    assert str(tmp_path) not in json.dumps(server.bodies)
    if level == "debug":
        assert told["training.step"]["data"] == {"step": 1, "loss": 0.5, "learning_rate": 1e-3, "norm": 2.0}
    if level != "info":
        return
    assert told["run.started"]["message"] == f"{tmp_path.name}: training Toy from step 0 to 4"
    assert told["run.started"]["data"]["base_model"] == "toy"
    preview = told["validation.image"]
    assert {name: preview["data"][name] for name in ("step", "timestep", "resolution", "prompt")} == {
        "step": 2, "timestep": 750.0, "resolution": "16x8", "prompt": "a cat",
    }  # fmt: skip
    assert len(preview["images"]) == len(told["validation.images"]["images"]) == 1
    assert told["evaluation"]["data"]["metrics"] == {"eval_loss/pictures": 0.25}
    assert told["checkpoint.saved"]["data"] == {"step": 2, "checkpoint": "checkpoint-2"}


@pytest.mark.parametrize(
    ("outcome", "reason", "level", "text"),
    [
        ("failed", "chelsea.png is damaged", "critical", "the run has failed, before its first step ({}): {}"),
        ("interrupted", "", "warning", "the run was interrupted, before its first step ({})"),
    ],
)
def test_a_run_that_never_begins_is_told_of(server, write_config, tmp_path, outcome, reason, level, text):
    loaded = load_config(write_config(webhook_config={"webhook_type": "raw", "callback_url": server.url}))
    manager = create_manager(loaded.family, [create(loaded.config)])
    manager.hook.preparation_failed(event=PreparationFailed(tmp_path, outcome, reason))
    (body,) = server.bodies
    name = tmp_path.name
    assert (body["type"], body["level"], body["message"]) == ("run.ended", level, text.format(name, reason))
    assert body["data"] == {"outcome": outcome, "run": name, "reason": reason}


def test_the_end_says_what_the_evaluations_say(server, write_config, tmp_path):
    loaded = load_config(write_config(webhook_config={"webhook_type": "raw", "callback_url": server.url}))
    manager = create_manager(loaded.family, [create(loaded.config), Journal()])
    manager.hook.run_started(event=RunStarted(loaded.config, 0, 4, tmp_path, loaded.family.facts))
    manager.hook.evaluated(event=Evaluated(0, "base model", {"eval_loss/a": 0.5}))
    manager.hook.evaluated(event=Evaluated(4, "live", {"eval_loss/a": 0.25}))
    manager.hook.run_ended(event=RunEnded(4, "done", tmp_path / "weights.safetensors"))
    ended = server.bodies[-1]
    said = "Evaluation loss after step 4: 0.2500, better than the base model's 0.5000 by 50.0%."
    assert ended["data"]["summary"].startswith(said)
    assert ended["message"] == f"the run is done, at step 4 of 4: {ended['data']['summary']}"


def test_no_webhook_no_extension(write_config):
    assert create(load_config(write_config()).config) is None
    assert create(load_config(write_config(webhook_config=[])).config) is None


def test_all_forms_of_the_setting_mean_the_same(project, write_config, monkeypatch):
    monkeypatch.setenv("TUNER_TEST_HOOK", "https://example.org/hook")
    entry = {"webhook_type": "raw", "callback_url": "{env:TUNER_TEST_HOOK}", "log_level": "debug"}
    (project / "hook.json").write_text(json.dumps(entry))
    (project / "hooks.json").write_text(json.dumps([entry]))
    forms = [entry, [entry], "hook.json", "hooks.json", json.dumps(entry), json.dumps([entry])]
    for form in forms:
        (webhook,) = load_config(write_config(webhook_config=form)).config.webhooks
        assert webhook == raw("https://example.org/hook", log_level="debug")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"webhook_type": "discord"}, "webhook_url: is required by webhook_type discord"),
        ({"webhook_type": "raw", "webhook_url": f"https://a/{SECRET}"}, "means nothing to webhook_type raw"),
        ({"webhook_type": "raw", "callback_url": f"ftp://a/{SECRET}"}, "is no address of the form"),
        ({"webhook_type": "raw", "callback_url": {"a": SECRET}}, "callback_url"),
        ({"webhook_type": "slack", "webhook_url": f"https://a/{SECRET}"}, "webhook_type"),
        ({"callback_url": f"https://a/{SECRET}"}, "webhook_type: is required"),
        ({"webhook_type": "raw", "callback_url": f"https://a/{SECRET}", "log_levle": 1}, "did you mean log_level?"),
        ({"webhook_type": "raw", "callback_url": f"https://a/{SECRET}", "log_level": "loud"}, "log_level"),
        (["text"], "must be an object"),
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_a_webhook_that_cannot_work_is_refused(project, write_config, entry, expected, in_file):
    (project / "hook.json").write_text(json.dumps(entry))
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(webhook_config="hook.json" if in_file else json.dumps(entry)))
    assert expected in str(caught.value)
    assert ("hook.json" if in_file else "webhook_config") in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_without_being_quoted(project, write_config):
    with pytest.raises(ConfigError, match="webhook_config: no such file"):
        load_config(write_config(webhook_config="absent.json"))
    (project / "hook.json").write_text('{"callback_url":\n "https://a/' + SECRET + '" "b"}')
    for form in ("hook.json", (project / "hook.json").read_text()):
        with pytest.raises(ConfigError, match="line 2") as caught:
            load_config(write_config(webhook_config=form))
        assert SECRET not in str(caught.value)


def test_what_weakens_a_webhook_is_said(write_config):
    hook = {"webhook_type": "discord", "webhook_url": "https://a/b", "auth_token": SECRET, "ssl_no_verify": True}
    loaded = load_config(write_config(webhook_config=hook))
    told = [text for text in loaded.warnings if "webhook_config" in text]
    assert len(told) == 2 and "ssl_no_verify" in told[0] and "auth_token is not sent" in told[1]
    assert SECRET not in repr(loaded.config.webhooks) + str(loaded.config.webhooks)
    assert SECRET in loaded.secrets
