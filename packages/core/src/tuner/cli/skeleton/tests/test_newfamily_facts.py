from __future__ import annotations

from tuner.plugins import load_family
from tuner_newfamily import plugin


def test_the_entry_point_leads_to_the_plugin() -> None:
    assert load_family("newfamily").facts == plugin.describe_family()


def test_the_default_flavour_is_published_here() -> None:
    facts = plugin.describe_family()
    assert facts.flavours[facts.default_flavour].repo == "owner/name"
