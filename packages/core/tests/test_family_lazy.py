"""A plugin that names its functions instead of importing them."""

import sys

import pluggy

from tuner.family.lazy import LazyFamily
from tuner.hookspecs import FamilySpec

FUNCTIONS = """
def facts(): return "facts"
def policy(options): return ("policy", options)
def load(request): return ("load", request)
def encode(components, prompts, role): return ("encode", components, prompts, role)
def predict(components, batch): return ("predict", components, batch)
def sampler(components): return ("sampler", components)
def twin(folder): return ("twin", folder)
"""


def test_each_hook_reaches_its_function_and_nothing_is_imported_before(tmp_path, monkeypatch):
    package = tmp_path / "lazy_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "all.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("policy", "load", "encode", "predict", "sampler", "twin")
    family = LazyFamily("lazy_package", describe="all:facts", **{name: f"all:{name}" for name in names})
    manager = pluggy.PluginManager("tuner")
    manager.add_hookspecs(FamilySpec)
    manager.register(family)
    manager.check_pending()
    assert "lazy_package.all" not in sys.modules
    hook = manager.hook
    assert hook.describe_family() == "facts"
    assert hook.quantisation_policy(options=1) == ("policy", 1)
    assert hook.load_components(request=2) == ("load", 2)
    assert hook.encode_prompt(components=1, prompts=["a"], role="caption") == ("encode", 1, ["a"], "caption")
    assert hook.compute_loss(components=1, batch=2) == ("predict", 1, 2)
    assert hook.validation_pipeline(components=3) == ("sampler", 3)
    assert hook.make_twin(folder="x") == ("twin", "x")
