"""README and guide are a promise: their commands, options, exit codes and file names are held against the program."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from pconv_cli import __version__
from pconv_cli.cli import app
from pconv_cli.errors import ExitCode
from pconv_cli.images import FORMATS
from pconv_cli.report import ItemReport

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "pconv_cli" / "GUIDE.md"]
README, GUIDE = (page.read_text("utf-8") for page in PAGES)
BOTH = README + GUIDE
COMMANDS = [
    line.split("#")[0].split("|")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", BOTH, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("pconv ")
]


def block_after(marker: str) -> str:
    found = re.search(re.escape(f"<!-- {marker} -->") + r"\n```bash\n(.*?)```", README, re.DOTALL)
    assert found, marker
    return found[1].strip()


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert app.run([*command, "--help"]) == 0
    return capsys.readouterr().out


def test_the_two_commands_are_one_line_each() -> None:
    assert len(block_after("run").splitlines()) == 1
    assert len(block_after("test").splitlines()) == 1


def test_the_run_command_restores_the_shipped_examples() -> None:
    words = shlex.split(block_after("run").rpartition("&&")[2])
    assert words[:2] == [".venv/bin/pconv", "restore"]
    assert (ROOT / words[2]).is_dir() and (ROOT / words[3]).is_dir()
    assert f"/{words[4]}/" in (ROOT / ".gitignore").read_text().splitlines()


def test_ci_calls_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "<!-- test -->" in script and "README.md" in script


def test_readme_shows_some_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("line", COMMANDS)
def test_every_option_of_a_shown_command_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)[1:]
    text = help_of(capsys, *words[:2]) if words[0] == "weights" else help_of(capsys, words[0])
    for word in words:
        if word.startswith("-"):
            assert word in text, word


def test_every_option_in_the_text_exists(capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(help_of(capsys, name) for name in ("restore", "mask", "train", "evaluate", "check"))
    for option in set(re.findall(r"(?<=`)--[a-z-]+", BOTH)) - {"--install-completion"}:
        assert option in text, option


def test_exit_code_table_is_the_exit_codes() -> None:
    table = re.search(r"\| exit code \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", GUIDE)
    assert table
    assert {int(row.split("|")[1]) for row in table[1].splitlines()} == {int(code) for code in ExitCode}


def test_the_guide_explains_everything_that_an_item_says() -> None:
    rows = re.search(r"What an item says.*?\n\n((?:\|.*\n)+)", GUIDE)
    assert rows
    named = [name for row in rows[1].splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(field.name for field in fields(ItemReport))


def test_formats_of_the_readme_are_the_formats() -> None:
    for name in {"PNG", "TIFF", "WebP", "BMP", "JPEG"}:
        assert name.lower() in FORMATS and name in README and f"| {name}" in GUIDE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_that_is_linked_to_is_there(page: Path) -> None:
    for path, _, part in re.findall(r"\]\(([^)#:]*)(#([^)]*))?\)", page.read_text("utf-8")):
        there = page.parent / path if path else page
        assert there.exists(), path
        if part:
            titles = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            assert part in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}, part


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_no_placeholder_is_left() -> None:
    assert not re.search(r"\b[A-Z]+-(TABLE|WORDS)\b", BOTH)


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"<!-- python -->\n```python\n(.*?)```", BOTH, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
