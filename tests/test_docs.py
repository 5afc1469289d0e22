"""What the documentation points at is there: pages, headings, files and names of the code."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tuner.cli.main import COMMANDS
from tuner.config.loading import load_config
from tuner.hookspecs import ExtensionSpec, FamilySpec
from tuner.testing.plugin import KIT

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "packages/*/README.md", "tests/third_party/*/README.md")
    for path in ROOT.glob(pattern)
)
FOLDERS = ("docs", "examples", "packages", "scripts", "tests")
PLACEHOLDERS = re.compile(r"NAME|FAMILY")
GROUPS = {"tuner.families", "tuner.extensions"}
"""Groups of entry points, which look like modules."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def inline_code(page: Path) -> list[str]:
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose_of(page))


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if hasattr(found, part):
                found = getattr(found, part)
            else:
                return part in getattr(found, "__dataclass_fields__", {}) and part == parts[-1]
        return True
    return False


@every_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@every_page
def test_files_that_are_named_exist(page):
    for code in inline_code(page):
        if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./*-]*", code):
            assert list(ROOT.glob(PLACEHOLDERS.sub("*", code))), code


@every_page
def test_names_of_the_code_exist(page):
    for code in inline_code(page):
        if re.fullmatch(r"tuner(\.\w+)+", code):
            assert code in GROUPS or resolves(code), code


@every_page
def test_commands_exist(page):
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for code in [*inline_code(page), *lines]:
        if command := re.match(r"(tuner|make) ([a-z][a-z-]*)(?=$| [A-Z.~/-]|  )", code):
            known = COMMANDS if command[1] == "tuner" else re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
            assert command[2] in known, code


def test_the_first_configuration_is_valid(tmp_path, monkeypatch):
    """That of the README, as it stands, without a setting that nothing reads."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```json\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for name, text in zip(("multidatabackend.json", "config.json"), blocks, strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    loaded = load_config(tmp_path / "config.json")
    assert loaded.family.facts.name == "sana"
    assert [dataset.id for dataset in loaded.config.datasets] == ["my-pictures"]
    assert dict(loaded.unread) == {}


def test_the_guide_names_every_hook():
    guide = (ROOT / "docs/plugin-guide.md").read_text(encoding="utf-8")
    families, extensions = (
        {name for name in vars(spec) if not name.startswith("_")} for spec in (FamilySpec, ExtensionSpec)
    )
    assert families == set(re.findall(r"^### (\w+): ", guide, re.MULTILINE))
    assert not {name for name in extensions if f"`{name}`" not in guide}


@pytest.mark.parametrize("page", ["README.md", "packages/core/README.md"])
def test_readmes_name_every_extra(page):
    """But for that of the tests."""
    project = tomllib.loads((ROOT / "packages/core/pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = re.findall(r"^\| (`.*`) \| ", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert project["optional-dependencies"].keys() - {"test"} <= named


def test_the_page_of_the_kit_names_every_file_of_it():
    named = re.findall(r"^\| `(test_\w+\.py)` \|", (ROOT / "docs/conformance-kit.md").read_text(), re.MULTILINE)
    assert sorted([*named, "test_sampling.py"]) == sorted(path.name for path in KIT.glob("test_*.py"))
