"""`tuner configure` in a real terminal: what people answer, and what then stands in the files."""

import json

from tuner.config.loading import load_config

ESCAPE = "\x1b"


def test_from_nothing(home, open_terminal, file_hashes, new_answers):
    before = file_hashes(home)
    terminal = open_terminal()
    asked = terminal.ask_all(new_answers)
    assert set(new_answers) <= set(asked)
    assert "in order" in terminal.save()
    assert terminal.end() == 0
    path = home / "config" / "config.json"
    assert json.loads(path.read_text()) == {
        "model_family": "toy", "model_type": "lora", "output_dir": "output", "max_train_steps": 10,
        "optimizer": "optimi-adamw", "learning_rate": 1e-4, "data_backend_config": "multidatabackend.json",
        "validation_prompt": "a cat", "lr_warmup_steps": 5,
    }  # fmt: skip
    loaded = load_config(path)
    assert loaded.config.optimisation.max_train_steps == 10
    assert {name: digest for name, digest in file_hashes(home).items() if name in before} == before
    assert set(file_hashes(home)) - set(before) == {"config/config.json"}


def test_unchanged_answers_change_no_byte(written, home, open_terminal, file_hashes):
    before, modified = file_hashes(home), written.stat().st_mtime_ns
    terminal = open_terminal("mine.json")
    asked = terminal.ask_all({})
    assert {"learning_rate", "use_ema", "hub_model_id"} & set(asked) == {"learning_rate", "use_ema"}
    assert "nothing changed in mine.json" in terminal.save()
    assert terminal.end() == 0
    assert "nothing was written" in terminal.rest
    assert file_hashes(home) == before
    assert written.stat().st_mtime_ns == modified


def test_one_changed_answer_changes_one_setting(written, home, open_terminal, file_hashes):
    written.chmod(0o640)
    before, expected = file_hashes(home), json.loads(written.read_text())
    terminal = open_terminal("mine.json")
    terminal.ask_all({"learning_rate": "2e-5", "gradient_checkpointing": "false", "validation_step_interval": "7.0"})
    shown = terminal.save()
    assert '-  "learning_rate": "4e-5"' in shown
    assert '+  "learning_rate": 2e-05' in shown
    assert terminal.end() == 0
    after = json.loads(written.read_text())
    assert after == {**expected, "learning_rate": 2e-5}
    assert list(after) == list(expected)
    assert written.stat().st_mode & 0o777 == 0o640
    assert {name for name, digest in file_hashes(home).items() if before.get(name) != digest} == {"mine.json"}


def test_config_json_in_the_folder_config_is_preloaded(write_config, open_terminal):
    path = write_config("config/config.json", lr_warmup_steps=3)
    terminal = open_terminal()
    terminal.wait("menu")
    terminal.answer("optimisation")
    while (name := terminal.wait()) != "menu":
        terminal.answer("4" if name == "lr_warmup_steps" else None)
    terminal.save()
    assert terminal.end() == 0
    assert json.loads(path.read_text())["lr_warmup_steps"] == 4


def test_comments_and_trailing_commas_are_lost_with_a_warning(written, open_terminal):
    written.write_text(written.read_text().replace('"seed": "42",', '"seed": "42", // the answer'))
    terminal = open_terminal("mine.json")
    terminal.ask_all({"lr_warmup_steps": "9"})
    assert "line 3: comment" in terminal.save()
    assert terminal.end() == 0
    assert load_config(written).config.optimisation.lr_warmup_steps == 9
    assert "//" not in written.read_text()


def test_an_invalid_answer_is_refused_at_once(written, open_terminal):
    terminal = open_terminal("mine.json")
    terminal.wait("menu")
    terminal.answer("optimisation")
    while terminal.wait() != "train_batch_size":
        terminal.answer()
    terminal.answer("0")
    terminal.child.expect_exact("greater than or equal to 1")
    terminal.answer("many")
    terminal.child.expect_exact("unable to parse")
    terminal.answer("3")
    while terminal.wait() != "menu":
        terminal.answer()
    terminal.save()
    assert terminal.end() == 0
    assert json.loads(written.read_text())["train_batch_size"] == 3


def test_epochs_take_the_place_of_steps(written, open_terminal):
    terminal = open_terminal("mine.json")
    terminal.ask_all({"length of the run": "epochs", "num_train_epochs": "3"})
    assert "in order" in terminal.save()
    assert terminal.end() == 0
    after = json.loads(written.read_text())
    assert (after["max_train_steps"], after["num_train_epochs"]) == (0, 3)


def test_any_setting_can_be_looked_up_and_taken_out(written, open_terminal):
    terminal = open_terminal("mine.json")
    terminal.wait("menu")
    terminal.answer("any setting")
    terminal.wait("setting")
    terminal.answer("toy_strength")
    terminal.wait("toy_strength")
    terminal.answer("0.25")
    terminal.wait("setting")
    terminal.answer("seed = 42")
    terminal.wait("seed")
    terminal.answer("")
    terminal.wait("setting")
    terminal.child.send(ESCAPE)
    terminal.wait("menu")
    terminal.save()
    assert terminal.end() == 0
    after = json.loads(written.read_text())
    assert after["toy_strength"] == 0.25
    assert "seed" not in after


def test_problems_are_shown_before_saving(written, open_terminal):
    terminal = open_terminal("mine.json")
    terminal.ask_all({"data_backend_config": "nosuchfile.json"})
    terminal.answer("review")
    terminal.wait("save")
    assert "mine.json: data_backend_config: no such file; looked for nosuchfile.json" in terminal.child.before
    assert "+" in terminal.child.before
    terminal.answer("back")
    terminal.wait("menu")
    terminal.answer("data")
    terminal.wait("data_backend_config")
    terminal.answer("multidatabackend.json")
    terminal.wait("resolution")
    terminal.child.send(ESCAPE)
    terminal.wait("menu")
    assert "nothing changed" in terminal.save()
    assert terminal.end() == 0


def test_a_new_lycoris_file_is_written_and_an_old_one_only_after_asking(written, home, open_terminal, file_hashes):
    answers = {"lora_type": "lycoris", "lycoris_config": "lokr.json", "factor": "8"}
    terminal = open_terminal("mine.json")
    terminal.ask_all(answers)
    assert "in order" in terminal.save()
    assert terminal.end() == 0
    lokr = json.loads((home / "lokr.json").read_text())
    assert lokr == {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 8}
    assert load_config(written).config.lycoris.factor == 8
    before = file_hashes(home)
    terminal = open_terminal("mine.json")
    assert "factor" not in terminal.ask_all({})
    terminal.save()
    assert terminal.end() == 0
    assert file_hashes(home) == before
    terminal = open_terminal("mine.json")
    asked = terminal.ask_all({"LyCORIS file": "change", "linear_alpha": "2"})
    assert "factor" in asked
    terminal.save()
    assert terminal.end() == 0
    assert json.loads((home / "lokr.json").read_text()) == {**lokr, "linear_alpha": 2}


def test_the_data_set_file_is_not_written_under_any_name(written, home, open_terminal):
    (home / "multidatabackend.json").unlink()
    terminal = open_terminal("mine.json")
    terminal.ask_all({"lora_type": "lycoris", "lycoris_config": "multidatabackend.json"})
    terminal.answer("review")
    terminal.wait("save")
    terminal.answer("save")
    terminal.wait("menu")
    assert "the data set file, which is never written" in terminal.child.before
    terminal.answer("cancel")
    assert terminal.end() == 130
    assert not (home / "multidatabackend.json").exists()


def test_weights_of_ones_own_take_the_place_of_a_flavour(write_config, open_terminal):
    path = write_config("mine.json", model_flavour="b")
    terminal = open_terminal("mine.json")
    terminal.ask_all({"model_flavour": "weights of", "pretrained_model_name_or_path": "owner/mine"})
    terminal.save()
    assert terminal.end() == 0
    after = json.loads(path.read_text())
    assert after["pretrained_model_name_or_path"] == "owner/mine"
    assert "model_flavour" not in after
