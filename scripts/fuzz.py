"""Mutate users' files and see to it that `tuner check` always gives a result or an error that explains itself.

    python scripts/fuzz.py [--count 10000] [--seed 0] [--files FOLDER ...]

Starts from the configurations in `examples/` and those in further folders (config.json, multidatabackend*.json,
lycoris_config*.json, user_prompt_library.json), damages text and values, and plans the data sets of what still reads.
Whatever is raised besides a `TunerError` is a fault: it is printed with the number that repeats it, and the script
ends with 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = "config.json"

ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 64, 10**30, -(10**30), 0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("nan"),
    "", " ", "0", "-1", "1e999", "nan", "inf", "true", "false", "None", "none", "null", "yes", "abc", "ä" * 300, "\x00",
    "a\x00b", "../..", "/dev/null", "~", "~nobody", "{env:HOME}", "{env:NO_SUCH_VARIABLE}", "{env:}", "{id}",
    "%s%n", "${HOME}", "a/b/c", "x" * 5000, "1024x", "x", "512x512,", "1,2,3", "a=b", "\ud800", "\u202e", "💥",
    [], {}, [[]], [None], ["a", 1], [{}], {"a": {}}, {"": ""}, [0] * 50, ["pictures"], {"path": "pictures"},
]  # fmt: skip
TEXT_PARTS = [*",}]{[\"#\\':é", "//x\n", "/*", "\\u", "\x00", "NaN", "1e", "\ufeff"]


@dataclass(frozen=True)
class Case:
    """A project of files: name -> parsed content."""

    files: dict[str, Any]


def seeds(folders: list[Path]) -> list[Case]:
    """Return the projects that mutations start from."""
    cases = []
    for folder in folders:
        for config in sorted(folder.rglob("config*.json")):
            files = {name.name: _read(name) for name in sorted(config.parent.glob("*.json"))}
            content = {**_base(), **files[config.name]} if isinstance(files[config.name], dict) else _base()
            files[CONFIG] = {key.lstrip("-"): value for key, value in content.items()}
            cases.append(Case({name: content for name, content in files.items() if content is not None}))
    return cases


def _base() -> dict[str, Any]:
    return {
        "model_family": "sana", "model_type": "lora", "output_dir": "output", "optimizer": "adamw_bf16",
        "data_backend_config": "multidatabackend.json", "max_train_steps": 10,
    }  # fmt: skip


def _read(path: Path) -> Any:
    from tuner.config.reader import read_document

    return read_document(path).values


class Mutator:
    """Damages projects, as a random generator says."""

    def __init__(self, chance: random.Random, vocabulary: list[str]) -> None:
        self._chance = chance
        self._vocabulary = vocabulary

    def mutate(self, case: Case) -> dict[str, str]:
        """Return a project's files as texts, one to four things in them changed."""
        files = copy.deepcopy(case.files)
        for _ in range(self._chance.randint(1, 4)):
            name = self._chance.choice([CONFIG, CONFIG, *files])
            files[name] = self._value(files[name])
        texts = {name: json.dumps(content, ensure_ascii=False, indent=1) for name, content in files.items()}
        if self._chance.random() < 0.25:
            name = self._chance.choice(list(texts))
            texts[name] = self._text(texts[name])
        if self._chance.random() < 0.03:
            texts.pop(self._chance.choice(list(texts)))
        return texts

    def _value(self, content: Any) -> Any:
        if isinstance(content, list) and content and self._chance.random() < 0.9:
            index = self._chance.randrange(len(content))
            content[index] = self._value(content[index])
            if self._chance.random() < 0.1:
                content.append(copy.deepcopy(content[index]))
            return content
        if isinstance(content, dict) and content and self._chance.random() < 0.95:
            return self._object(content)
        return copy.deepcopy(self._chance.choice(ODD_VALUES))

    def _object(self, content: dict[str, Any]) -> dict[str, Any]:
        key = self._chance.choice(list(content))
        actions: list[Callable[[], None]] = [
            lambda: content.update({key: self._value(content[key])}),
            lambda: content.update({key: copy.deepcopy(self._chance.choice(ODD_VALUES))}),
            lambda: content.update({self._chance.choice(self._vocabulary): self._chance.choice(ODD_VALUES)}),
            lambda: content.update({self._misspelt(key): content[key]}),
            lambda: content.update({f"--{key}": self._chance.choice(ODD_VALUES)}),
            lambda: content.update({key: str(content[key])}),
            lambda: content.pop(key),
        ]
        self._chance.choice(actions)()
        return content

    def _misspelt(self, key: str) -> str:
        if len(key) < 2:
            return key + "x"
        cut = self._chance.randrange(len(key) - 1)
        return key[:cut] + key[cut + 1] + key[cut] + key[cut + 2 :]

    def _text(self, text: str) -> str:
        place = self._chance.randrange(len(text) + 1)
        if self._chance.random() < 0.3:
            return text[:place]
        return text[:place] + self._chance.choice(TEXT_PARTS) + text[place + self._chance.randrange(3) :]


def examine(folder: Path) -> str:
    """Read the project in `folder`, which is the working directory, and plan its data sets; say how that ended.

    Raises whatever is no `TunerError`.
    """
    from tuner.config.loading import find_config, load_config
    from tuner.config.receipt import settings_receipt
    from tuner.data.index import FileIndex
    from tuner.data.report import format_plan
    from tuner.errors import TunerError
    from tuner.training.planning import Planner
    from tuner.training.sources import resolve_source

    try:
        loaded = load_config(find_config(None, variables={}))
        facts = loaded.family.facts
        rows = settings_receipt(loaded.config, loaded.given, facts, loaded.unread, loaded.secrets)
        json.dumps([[row.key, row.value, row.origin, row.unread] for row in rows], default=str)
        resolve_source(loaded.config.model, facts)
        local = all(dataset.type == "local" for dataset in loaded.config.datasets)
        if local:
            with closing(FileIndex(folder / "index")) as index:
                format_plan(Planner(loaded.config, facts, 1, index).training())
    except TunerError as error:
        str(error).encode("utf-8", errors="backslashreplace")
        return type(error).__name__
    return "fine"


def vocabulary() -> list[str]:
    """Return every key of the configuration and of the data set file."""
    from tuner.config.datasets import DatasetConfig
    from tuner.config.keys import canonical_keys

    return [*canonical_keys(), *DatasetConfig.model_fields]


def projects(count: int, seed: int, folders: list[Path]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (number, files) of mutated projects; each is a function of seed and number."""
    cases, words = seeds(folders), vocabulary()
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        yield number, Mutator(chance, words).mutate(chance.choice(cases))


def run(count: int, seed: int, folders: list[Path], only: int | None = None) -> tuple[Counter[str], dict[int, str]]:
    """Examine mutated projects. Returns how they ended, and the faults: number -> traceback."""
    endings: Counter[str] = Counter()
    faults: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        folder = Path(scratch)
        _pictures(folder)
        for number, files in projects(count, seed, folders):
            if only not in (None, number):
                continue
            for old in folder.glob("*.json"):
                old.unlink()
            for name, text in files.items():
                (folder / name).write_bytes(text.encode("utf-8", errors="surrogatepass"))
            try:
                endings[examine(folder)] += 1
            except Exception:  # whatever it is, it is a fault
                faults[number] = traceback.format_exc()
    return endings, faults


def _pictures(folder: Path) -> None:
    from PIL import Image

    for name in ("pictures", "datasets/pseudo-camera-10k", "datasets/dreambooth-subject", "masks"):
        (folder / name).mkdir(parents=True)
        for number, size in enumerate([(160, 160), (192, 128), (1100, 1100)]):
            Image.new("RGB", size, (number * 50, 99, 99)).save(folder / name / f"a_picture_{number}.png")
    (folder / "config").mkdir()
    (folder / "index").mkdir()


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one project")
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    folders = [ROOT / "examples", *(path.resolve() for path in options.files)]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    endings, faults = run(options.count, options.seed, folders, options.only)
    for number, text in list(faults.items())[:20]:
        print(f"--- project {number} of seed {options.seed}\n{text}")
    print(", ".join(f"{name} {count}" for name, count in endings.most_common()), f"faults {len(faults)}", sep=", ")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
