"""Optimizers, their arguments and what goes together, as configurations ask for them."""

from __future__ import annotations

import sys

import pytest

from tuner.cli.configure.catalogue import settings_of_run
from tuner.config.loading import load_config
from tuner.config.optimisation import OptimizerName
from tuner.config.optimizer_options import parse_options, read_options
from tuner.config.optimizers import ALIASES, OPTIMIZERS, find_optimizer, optimizer_spec
from tuner.errors import ConfigError


@pytest.fixture
def load(write_config):
    return lambda **settings: load_config(write_config(**settings))


@pytest.fixture
def problems(load):
    def collect(**settings):
        with pytest.raises(ConfigError) as caught:
            load(**settings)
        return {problem.key: problem for problem in caught.value.problems}

    return collect


def test_the_names_are_those_of_the_table():
    assert list(OptimizerName.__args__) == list(OPTIMIZERS)
    assert settings_of_run(None)["optimizer"].choices == list(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_is_accepted(load, name):
    optimisation = load(optimizer=name, learning_rate=1e-4).config.optimisation
    assert optimisation.optimizer_spec is OPTIMIZERS[name]
    assert optimisation.optimizer_arguments == {}


def test_other_names_for_the_same(load):
    optimisation = load(optimizer="adamw_8bit", lr_scheduler="cosine_with_warmup").config.optimisation
    assert (optimisation.optimizer, optimisation.lr_scheduler) == ("bnb-adamw8bit", "cosine")


@pytest.mark.parametrize("name", sorted(ALIASES.keys() - {"adamw_8bit"}))
def test_names_that_users_files_have_stand_for_classes(load, name):
    optimisation = load(optimizer=name).config.optimisation
    assert optimisation.optimizer == ALIASES[name]
    kind = name.partition("-")[2]
    wanted = f"paged{kind.removesuffix('-paged')}" if kind.endswith("-paged") else kind
    assert find_optimizer(optimisation.optimizer_spec.path).__name__.lower() == wanted


@pytest.mark.parametrize(("path", "rounding"), [("optimi.Ranger", "kahan_sum"), ("torch.optim.RAdam", None)])
def test_a_class_of_a_known_library_keeps_what_rounding_would_lose(load, path, rounding):
    loaded = load(optimizer=path)
    assert loaded.config.optimisation.optimizer_spec.rounding == rounding
    assert any("1/256" in line for line in loaded.warnings) == (rounding is None)


def test_schedule_free_classes_are_refused(load, problems, project):
    """What they train is not what is to be used, and nobody would tell them to change it."""
    (project / "freeoptimizers.py").write_text(
        "import torch\nclass Free(torch.optim.SGD):\n    def eval(self): ...\n    def train(self): ...\n"
    )
    assert "use_ema averages weights" in problems(optimizer="freeoptimizers.Free")["optimizer"].message
    path = "prodigyplus.ProdigyPlusScheduleFree"
    assert "use_ema averages weights" in problems(optimizer=path)["optimizer"].message
    assert load(optimizer=path, optimizer_config="use_schedulefree=false").config.optimisation.optimizer == path


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sgd", "module.Class"),
        ("optimi_adamw", "optimi-adamw?"),
        ("bnb-adamw8bit-pagged", "bnb-adamw8bit-paged?"),
        ("a..b", "Class"),
    ],
)
def test_an_unknown_name_is_refused(problems, name, hint):
    message = problems(optimizer=name)["optimizer"].message
    assert message.startswith(f"{name!r} is not accepted: it is none of adamw_bf16, ")
    assert message.endswith(hint)


def test_a_class_of_ones_own(load, problems, project):
    (project / "ownoptimizers.py").write_text(
        "import torch\n"
        "class Mine(torch.optim.SGD):\n    pass\n"
        "class Asking(torch.optim.SGD):\n    def step(self, closure): ...\n"
        "class Nothing: ...\n"
    )
    assert load(optimizer="ownoptimizers.Mine").config.optimisation.optimizer == "ownoptimizers.Mine"
    assert "is no torch.optim.Optimizer" in problems(optimizer="ownoptimizers.Nothing")["optimizer"].message
    assert "has no Miner" in problems(optimizer="ownoptimizers.Miner")["optimizer"].message
    assert "missing a required argument" in problems(optimizer="ownoptimizers.Asking")["optimizer"].message
    found = problems(optimizer="nosuchlibrary.Mine")["optimizer"]
    assert "nosuchlibrary, which is not installed" in found.message


def test_a_missing_library_is_named_with_the_remedy(problems, monkeypatch):
    monkeypatch.delitem(sys.modules, "prodigyplus", raising=False)
    present = [folder for folder in sys.path if "site-packages" not in folder]
    monkeypatch.setattr(sys, "path", present)
    found = problems(optimizer="prodigy")["optimizer"]
    assert found.message == "'prodigy' needs prodigy-plus-schedule-free, which is not installed"
    assert found.remedy == "pip install 'tuner-core[prodigy]'"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("weight_decay=0.1", {"weight_decay": "0.1"}),
        ("betas=0.9,0.95, eps=1e-7", {"betas": "0.9,0.95", "eps": "1e-7"}),
        ("betas=(0.9, 0.95),eps = 1e-7", {"betas": "(0.9, 0.95)", "eps": "1e-7"}),
        ("--fused_back_pass=true", {"fused_back_pass": "true"}),
    ],
)
def test_arguments_as_text(text, options):
    assert parse_options(text) == options


@pytest.mark.parametrize("text", ["weight_decay", "0.1,betas=0.9", "eps=1,eps=2"])
def test_arguments_that_are_none(text):
    with pytest.raises(ValueError, match=r"has no value|given twice"):
        parse_options(text)


def test_arguments_get_the_types_of_their_defaults():
    given = {"betas": "0.9,0.95", "eps": "1e-7", "weight_decay": 1, "decouple_lr": "Yes", "max_lr": "none"}
    read = read_options(OPTIMIZERS["optimi-adamw"], given)
    assert read == {"betas": (0.9, 0.95), "eps": 1e-7, "weight_decay": 1, "decouple_lr": True, "max_lr": None}
    assert read_options(OPTIMIZERS["prodigy"], {"eps": "none", "beta3": "0.9"}) == {"eps": None, "beta3": 0.9}
    assert read_options(optimizer_spec("torch.optim.SGD"), {"momentum": 0.5}) == {"momentum": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("weight_decy=0.1", "weight_decy: no such option; did you mean weight_decay?"),
        ("decouple_lr=maybe", "decouple_lr: 'maybe' is neither true nor false"),
        ("weight_decay=much", "weight_decay: 'much' is no number"),
        ("betas=0.9", "betas: 0.9 is not 2 values"),
        ("betas=0.9,1.5", "Invalid beta2 parameter"),
        ("lr=0.1", "lr: it cannot be set here: learning_rate and lr_scheduler set it"),
        ("weight_decy=0.1,eps=x", "weight_decy: no such option; did you mean weight_decay?; eps: 'x' is no number"),
        ({"weight_decay": "much"}, "weight_decay: 'much' is no number"),
        ("weight_decay", "'weight_decay' has no value"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(problems, options, message):
    assert message in problems(optimizer_config=options)["optimizer_config"].message


def test_prodigy_keeps_what_trains_in_the_weights(problems):
    found = problems(optimizer="prodigy", optimizer_config="use_schedulefree=true")["optimizer_config"]
    assert "use_ema averages weights" in found.message


def test_arguments_as_an_object(load):
    optimisation = load(optimizer_config={"weight_decay": 0.1}).config.optimisation
    assert optimisation.optimizer_arguments == {"weight_decay": 0.1}
    assert load(optimizer_config="weight_decay=0.1").config.optimisation.optimizer_arguments == {"weight_decay": "0.1"}


def test_prodigy_has_a_learning_rate_of_its_own(load):
    loaded = load(optimizer="prodigy")
    assert (loaded.config.optimisation.learning_rate, loaded.given["learning_rate"].origin) == (1.0, "optimizer")
    assert not any("learning_rate" in line for line in loaded.warnings)
    above = load(optimizer="prodigy", learning_rate=2.5)
    assert above.config.optimisation.learning_rate == 2.5
    assert any("learning_rate 2.5 is above 1" in line for line in above.warnings)


@pytest.mark.parametrize("name", ["prodigy", "optimi-stableadamw"])
def test_the_receipt_says_that_nothing_is_clipped(load, name):
    assert load(optimizer=name, max_grad_norm=0.5).unread == {"max_grad_norm": f"{name} limits its own updates"}
    assert load(optimizer="optimi-adamw", max_grad_norm=0.5).unread == {}


def test_lost_updates_are_warned_of(load):
    def warned(name, **settings):
        return [line for line in load(optimizer=name, **settings).warnings if "1/256" in line]

    (line,) = warned("bnb-adamw8bit")
    assert line.endswith("ao-adamw8bit, prodigy)")
    assert not warned("bnb-adamw8bit", mixed_precision="no")
    assert not warned("ao-adamw8bit")


def test_schedules_and_their_settings(load, problems):
    assert load(lr_scheduler="linear", lr_end=1e-9).unread == {"lr_end": "lr_scheduler is 'linear'"}
    assert load(lr_scheduler="polynomial", lr_end=1e-9).unread == {}
    assert "1e-05" in problems(lr_scheduler="polynomial", lr_end=1e-3)["lr_end"].message
    (line,) = (line for line in load(lr_scheduler="cosine_with_restarts").warnings if "restarts" in line)
    assert "never restarts" in line
    assert "'sawtooth'" in problems(lr_scheduler="sawtooth")["lr_scheduler"].message


RELEASE = {"optimizer_release_gradients": True, "max_grad_norm": 0}


def test_gradients_can_be_released(load, problems):
    assert load(**RELEASE).config.optimisation.releases_gradients
    assert load(optimizer_release_gradients=True, grad_clip_method="value").config.optimisation.releases_gradients
    own = load(optimizer="prodigy", optimizer_config="fused_back_pass=true,d_coef=2").config.optimisation
    assert own.releases_gradients
    assert own.optimizer_arguments == {"d_coef": "2"}
    off = load(optimizer="prodigy", optimizer_config={"fused_back_pass": False}).config.optimisation
    assert not off.releases_gradients
    found = problems(optimizer="prodigy", optimizer_config="fused_back_pass=perhaps")["optimizer_config"]
    assert "'perhaps' is neither true nor false" in found.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "cannot be added up over 2 micro-batches"),
        ({"grad_clip_method": "norm", "max_grad_norm": 1.0}, "the norm of all gradients is not known"),
    ],
)
def test_what_needs_all_gradients_cannot_release_them(problems, settings, message):
    assert message in problems(**{**RELEASE, **settings})["optimizer_release_gradients"].message
    own = {"optimizer": "prodigy", "optimizer_config": "fused_back_pass=true", "gradient_accumulation_steps": 2}
    assert "cannot be added up" in problems(**own)["optimizer_config"].message
