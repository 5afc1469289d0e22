"""Leaving `tuner configure`, and what it refuses to edit: nothing is written."""

import os
import signal
import subprocess
import sys

import pytest

CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
@pytest.mark.parametrize("place", ["menu", "model_type", "output_dir", "save"])
def test_leaving_writes_nothing(written, home, key, place, open_terminal, file_hashes):
    before = file_hashes(home)
    terminal = open_terminal("mine.json")
    name = terminal.wait("menu")
    if place == "save":
        terminal.answer("validation")
        while (name := terminal.wait()) != "menu":
            terminal.answer("a dog" if name == "validation_prompt" else None)
        terminal.answer("review")
        name = terminal.wait("save")
    elif place != "menu":
        terminal.answer("model")
        while (name := terminal.wait()) != place:
            terminal.answer("full" if name == "model_type" else None)
    terminal.child.send(key)
    assert terminal.end() == 130
    assert "nothing was written" in terminal.rest
    assert file_hashes(home) == before


@pytest.mark.parametrize("place", ["menu", "save"])
def test_choosing_cancel_writes_nothing(home, place, open_terminal, file_hashes, new_answers):
    before = file_hashes(home)
    terminal = open_terminal()
    terminal.ask_all(new_answers)
    if place == "save":
        terminal.answer("review")
        terminal.wait("save")
    terminal.answer("cancel")
    assert terminal.end() == 130
    assert file_hashes(home) == before
    assert not (home / "config").exists()


def test_hanging_up_writes_nothing(written, home, open_terminal, file_hashes):
    before = file_hashes(home)
    terminal = open_terminal("mine.json")
    terminal.ask_all({"learning_rate": "1e-3"})
    terminal.child.kill(signal.SIGHUP)
    assert terminal.end() == 130
    assert file_hashes(home) == before


@pytest.mark.parametrize("deaf", [False, True], ids=["with a signal", "without a signal"])
def test_closing_the_terminal_writes_nothing(written, home, deaf, open_terminal, file_hashes):
    before = file_hashes(home)
    terminal = open_terminal("mine.json", deaf=deaf)
    terminal.ask_all({"learning_rate": "1e-3"})
    terminal.child.ptyproc.fileobj.close()  # the window goes, the process stays
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.child.pid, 0)[1]) == 130
    assert file_hashes(home) == before


def test_a_file_that_changed_meanwhile_is_left_alone(written, home, open_terminal, file_hashes):
    terminal = open_terminal("mine.json")
    terminal.ask_all({"learning_rate": "1e-3"})
    written.write_text(written.read_text().replace("output", "elsewhere"))
    before = file_hashes(home)
    terminal.save()
    assert terminal.end() == 1
    assert "changed by somebody else" in terminal.rest
    assert "Traceback" not in terminal.rest
    assert file_hashes(home) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.toml", "seed = 1", "holds TOML"),
        ("mine.yaml", "seed: 1", "holds YAML"),
        ("mine.env", "SEED=1", "holds shell variables"),
        ("pictures", None, "is a folder"),
        ("list.json", "[]", "must be an object"),
        ("broken.json", "{", "is no valid JSON"),
    ],
)
def test_files_that_cannot_be_edited_are_refused(home, name, text, message, open_terminal, file_hashes):
    if text is not None:
        (home / name).write_text(text)
    before = file_hashes(home)
    terminal = open_terminal(name)
    assert terminal.end() == 2
    assert message in terminal.rest
    assert file_hashes(home) == before


def test_without_a_terminal_it_says_what_to_do(home):
    done = subprocess.run([sys.executable, "-m", "tuner", "configure"], cwd=home, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "tuner schema" in done.stderr
    assert "by hand" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["configure", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom tuner.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'prompt_toolkit', 'questionary', 'tuner.cli.configure'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "configure" in done.stdout
