"""What the page on webhooks and trackers shows is what is read and sent."""

import json
import re
from pathlib import Path

from PIL import Image

from tuner.config.loading import load_config
from tuner.config.validation import ValidationConfig
from tuner.config.webhooks import Webhook
from tuner.events import Previewed
from tuner.plugins import installed_families, load_family
from tuner.tracking.messages import Message, requests_of
from tuner.tracking.webhooks import Webhooks

PAGE = (Path(__file__).parents[1] / "docs" / "webhooks-and-trackers.md").read_text(encoding="utf-8")
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_the_webhooks_of_the_page_are_read(project, monkeypatch):
    monkeypatch.setenv("DISCORD_WEBHOOK", "https://discord.example/api/webhooks/1/abc")
    monkeypatch.setenv("CALLBACK_TOKEN", "hush-hush")
    (discord,) = load_config(project(webhook_config=BLOCKS[0])).config.webhooks
    assert (discord.address, discord.message_prefix) == ("https://discord.example/api/webhooks/1/abc", "[cats]")
    (raw,) = load_config(project(webhook_config=BLOCKS[1])).config.webhooks
    assert (raw.address, raw.log_level) == ("https://example.org/training", "debug")
    assert raw.auth_token.get_secret_value() == "hush-hush"
    for key in Webhook.model_fields:
        assert f"| `{key}` |" in PAGE


class Kept:
    """Keeps the messages that it is to deliver."""

    def __init__(self, webhook, label):
        self.messages: list[Message] = []

    def put(self, message):
        self.messages.append(message)


def test_the_body_of_the_page_is_what_is_sent(tmp_path):
    webhook = Webhook(webhook_type="raw", callback_url="https://example.org")
    webhooks, kept = Webhooks((webhook,)), Kept(webhook, "")
    webhooks._deliveries.append((webhook, kept))
    picture = Image.new("RGB", (1024, 1024))
    webhooks.previewed(Previewed(200, "validation", "a ginger cat", 5, 20, 0.8125, picture))
    (post,) = requests_of(webhook, kept.messages[0])
    assert len(post["json"].pop("images")) == 1
    assert post["json"] == {name: value for name, value in BLOCKS[2].items() if name != "images"}


def test_the_settings_and_autoencoders_of_the_page_exist():
    assert ValidationConfig(**BLOCKS[3]).validation_preview_steps == 5
    rows = dict(re.findall(r"^\| ([A-Z][\w, ]+) \| `(madebyollin/\w+)` \|$", PAGE, re.MULTILINE))
    told = {title: name for titles, name in rows.items() for title in titles.split(", ")}
    for name in installed_families():
        facts = load_family(name).facts
        assert facts.tiny_autoencoder == told.get(facts.title), name
