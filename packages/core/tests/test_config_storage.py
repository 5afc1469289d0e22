"""Storage formats: what is refused before anything is loaded, and what is reported as without effect."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import get_args

import pytest

from tuner.config.loading import load_config
from tuner.config.precision import StoredPrecision
from tuner.config.storage import stored_parts
from tuner.errors import ConfigError
from tuner.quantisation.schemes import SCHEMES

KEY = "base_model_precision"


def problem(config):
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    (found,) = caught.value.problems
    return found


def test_settings_and_schemes_have_the_same_names():
    assert get_args(StoredPrecision) == ("no_change", *SCHEMES)


def test_formats_that_a_family_refuses_stay_refused(write_config):
    for knows in (False, True):
        found = problem(write_config(**{KEY: "int2-quanto"}, i_know_what_i_am_doing=knows))
        assert found.message == "int2-quanto is refused for Toy: too coarse for Toy"


def test_formats_that_nobody_tried_need_a_word(write_config):
    found = problem(write_config(**{KEY: "fp8-torchao"}))
    assert found.message == "fp8-torchao was never tried with Toy (tested: no_change, int8-quanto, nf4-bnb)"
    assert "i_know_what_i_am_doing" in found.remedy
    loaded = load_config(write_config(**{KEY: "fp8-torchao"}, i_know_what_i_am_doing=True))
    assert loaded.config.precision.base_model_precision == "fp8-torchao"


def test_formats_that_another_one_beats_need_a_word_and_say_which(write_config):
    found = problem(write_config(**{KEY: "int4-torchao"}))
    assert found.message == "int4-torchao is not worth it for Toy: no smaller than int8-torchao; use int4-quanto"
    assert found.remedy == "or set i_know_what_i_am_doing to true"
    loaded = load_config(write_config(**{KEY: "int4-torchao"}, i_know_what_i_am_doing=True))
    assert loaded.config.precision.base_model_precision == "int4-torchao"


def test_weights_that_are_trained_are_not_stored_rounded(write_config):
    given = {KEY: "int8-quanto", "model_type": "full"}
    assert "stores weights that model_type full is to change" in problem(write_config(**given)).message
    loaded = load_config(write_config(**given, i_know_what_i_am_doing=True))
    assert loaded.unread[KEY] == "model_type is 'full'"
    assert stored_parts(loaded.config.precision, loaded.config.model, loaded.family.facts) == ()


@pytest.mark.parametrize(("scheme", "extra"), [("int8-quanto", "quanto"), ("nf4-bnb", "bitsandbytes")])
def test_a_library_that_is_missing_is_named_with_what_installs_it(write_config, monkeypatch, scheme, extra):
    real = importlib.metadata.distribution

    def without(name):
        if name == SCHEMES[scheme].library.package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    config = write_config(**{KEY: scheme})
    load_config(config)
    monkeypatch.setattr(importlib.metadata, "distribution", without)
    found = problem(config)
    assert found.message == f"{scheme} needs {SCHEMES[scheme].library.package}, which is not installed"
    assert found.remedy == f"pip install 'tuner-core[{extra}]'"
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'{extra} = ["{SCHEMES[scheme].library.package}>=' in project


def test_networks_that_must_share_a_library(write_config):
    found = problem(write_config(**{KEY: "nf4-bnb"}, text_encoder_1_precision="int8-torchao"))
    assert f"{KEY} nf4-bnb and text_encoder_1_precision int8-torchao are of two" in found.message
    load_config(write_config(**{KEY: "int8-quanto"}, text_encoder_1_precision="int8-quanto"))
    load_config(write_config(text_encoder_1_precision="int8-torchao"))


def test_encoders_that_a_family_lacks_are_reported(write_config):
    loaded = load_config(write_config(text_encoder_1_precision="int8-quanto", text_encoder_3_precision="int8-quanto"))
    assert loaded.unread == {"text_encoder_3_precision": "Toy has 1 text encoder"}
    parts = stored_parts(loaded.config.precision, loaded.config.model, loaded.family.facts)
    assert [(part.folder, part.scheme.name) for part in parts] == [("text_encoder", "int8-quanto")]


def test_where_to_convert_is_inert_when_nothing_is_quantised(write_config):
    assert load_config(write_config(quantize_via="accelerator")).unread == {"quantize_via": "nothing is quantised"}
    assert load_config(write_config(quantize_via="cpu")).unread == {}
    assert load_config(write_config(**{KEY: "int8-quanto"}, quantize_via="accelerator")).unread == {}
    assert "parts are loaded one by one" in problem(write_config(quantize_via="pipeline")).message


def test_rebuilding_stored_weights_is_refused_with_file_and_key(project, write_config):
    lokr = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1}
    given = {"lora_type": "lycoris", "lycoris_config": "lokr.json"}
    for bypass in (True, None, False):
        (project / "lokr.json").write_text(json.dumps(lokr | ({} if bypass is None else {"bypass_mode": bypass})))
        load_config(write_config(**given))
        if bypass is not False:
            load_config(write_config(**given, **{KEY: "int8-quanto"}))
    found = problem(write_config(**given, **{KEY: "int8-quanto"}))
    assert (found.file, found.key) == ("lokr.json", "bypass_mode")
