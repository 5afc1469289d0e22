"""Discovery and isolation, with real distributions on the import path."""

import logging
import subprocess
import sys

import pytest

from tuner.config import RunConfig
from tuner.config.tracking import TrackingConfig
from tuner.errors import PluginError, TunerError
from tuner.plugins import create_extensions, create_manager, installed_families, load_family

FACTS = """FamilyFacts(
        name="good", title="Good", flavours={"a": Flavour("owner/a")}, default_flavour="a", latent_channels=4,
        latent_stride=8, patch_size=2, pixel_alignment=64, token_limit=77, adapter_targets=(), part_folders={},
        licence="mit",
    )"""
GOOD = f"""
from tuner import hookimpl
from tuner.types import FamilyFacts, Flavour

@hookimpl
def describe_family():
    return {FACTS}

@hookimpl
def quantisation_policy(options): ...

@hookimpl
def load_components(request): ...

@hookimpl
def encode_prompt(components, prompts, role): ...

@hookimpl
def compute_loss(components, batch): ...

@hookimpl
def validation_pipeline(components): ...

@hookimpl
def make_twin(folder): ...
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution: a module, its metadata and entry points, as pip would leave them."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module, code, entry_points, group="tuner.families"):
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *entry_points]))

    return write


def test_families_and_aliases_are_listed_without_importing_them(install):
    install("listed_family", "raise RuntimeError('imported')", ["one = listed_family", "Two = listed_family"])
    found = installed_families()
    assert found["one"].target == found["two"].target == "listed_family"
    assert (found["one"].package, found["one"].version) == ("listed_family", "1.2")
    assert "listed_family" not in sys.modules


def test_a_good_family_loads_by_name_and_alias_in_any_case(install):
    install("good_family", GOOD, ["good = good_family", "alias = good_family"])
    assert load_family("GOOD").facts == load_family("alias").facts
    assert create_manager(load_family("good")).hook.describe_family().title == "Good"


def test_a_broken_family_is_named_with_its_reason_and_harms_no_other(install):
    install("good_one", GOOD, ["good = good_one"])
    install("broken_family", "import nosuchmodule", ["broken = broken_family"])
    with pytest.raises(PluginError, match=r"'broken' of package broken_family 1\.2.*nosuchmodule"):
        load_family("broken")
    assert load_family("good").facts.name == "good"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def compute_loss", "def compute_los", "(?s)compute_los.*did you mean compute_loss"),
        ("def compute_loss(components, batch)", "def compute_loss(components, batsch)", "batsch"),
        ("@hookimpl\ndef make_twin", "def make_twin", "lacks the hooks make_twin"),
        (f"return {FACTS}", "return {}", "returned dict"),
        (f"return {FACTS}", "raise KeyError('x')", "describe_family failed"),
        ('default_flavour="a"', 'default_flavour="b"', "default_flavour 'b'"),
    ],
)
def test_what_breaks_the_contract_is_refused(install, old, new, message):
    assert old in GOOD
    module = f"odd_family_{abs(hash(new))}"  # Python imports a module of one name once
    install(module, GOOD.replace(old, new), [f"odd = {module}"])
    with pytest.raises(PluginError, match=message):
        load_family("odd")


def test_a_missing_family_is_named_with_the_nearest(install):
    install("nearby_family", GOOD, ["nearby = nearby_family"])
    with pytest.raises(PluginError, match="did you mean nearby"):
        load_family("nerby")


def test_a_plugin_may_be_a_class(install):
    body = GOOD.replace("\n\n@hookimpl\ndef ", "\n\n    @hookimpl\n    def ").replace("(options)", "(self, options)")
    for arguments in ("(request)", "(components, prompts, role)", "(components, batch)", "(components)", "(folder)"):
        body = body.replace(arguments, f"(self, {arguments[1:]}")
    body = body.replace("def describe_family():\n    return", "def describe_family(self):\n        return")
    body = body.replace(
        "    @hookimpl\n    def describe_family", "class Plugin:\n    @hookimpl\n    def describe_family", 1
    )
    install("class_family", body, ["classy = class_family:Plugin"])
    assert load_family("classy").facts.name == "good"


def test_a_misspelt_event_of_an_extension_is_refused(install):
    install("with_extension", GOOD, ["good = with_extension"])
    from tuner import hookimpl

    class Extension:
        @hookimpl
        def step_endet(self, event): ...

    with pytest.raises(PluginError, match=r"(?s)step_endet.*did you mean step_ended"):
        create_manager(load_family("good"), [Extension()])


BROKEN_EXTENSIONS = {
    "raises": "def create(config):\n    raise OSError('no disk')",
    "unimportable": "import nosuchmodule",
    "misspelt": """
from tuner import hookimpl

class Extension:
    @hookimpl
    def step_endet(self, event): ...

def create(config):
    return Extension()
""",
}


@pytest.mark.parametrize(
    ("kind", "reason"), [("raises", "no disk"), ("unimportable", "nosuchmodule"), ("misspelt", "step_ended")]
)
def test_a_broken_extension_is_reported_and_left_out(install, caplog, monkeypatch, kind, reason):
    monkeypatch.setattr(logging.getLogger("tuner"), "propagate", True)
    config = RunConfig.model_construct(tracking=TrackingConfig())
    own = [type(extension) for extension in create_extensions(config)]
    install(f"extension_{kind}", BROKEN_EXTENSIONS[kind], [f"a = extension_{kind}:create"], group="tuner.extensions")
    assert [type(extension) for extension in create_extensions(config)] == own
    assert reason in caplog.text
    assert "goes on without it" in caplog.text


def test_an_extension_can_refuse_a_configuration(install):
    code = "from tuner.errors import TunerError\ndef create(config):\n    raise TunerError('log in first')"
    install("refusing_extension", code, ["a = refusing_extension:create"], group="tuner.extensions")
    with pytest.raises(TunerError, match="log in first"):
        create_extensions(RunConfig.model_construct(tracking=TrackingConfig()))


def test_the_core_is_light_where_it_must_answer_at_once():
    code = "import sys, tuner.cli.main, tuner.plugins, tuner.config.loading; print([m for m in sys.modules])"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("'torch'", "'diffusers'", "'transformers'", "'accelerate'"):
        assert heavy not in names
