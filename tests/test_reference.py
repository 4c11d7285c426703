"""The command reference is what the commands say, and the shell can complete them; neither needs anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer.main

from pconv_cli.cli import reference
from pconv_cli.cli.app import app, run

PAGE = Path(reference.__file__).parents[1] / "COMMANDS.md"
COMMANDS: dict[str, Any] = dict(reference._walk("pconv", typer.main.get_command(app)))
TEXT = reference.reference()


def section(name: str) -> str:
    return TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_the_page_is_what_the_commands_say_now() -> None:
    found = PAGE.read_text("utf-8") if PAGE.exists() else ""
    assert found == TEXT + "\n", f"commands have changed; run: {reference.COMMAND}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_each_of_its_options_says_what_it_is_for(name: str) -> None:
    assert COMMANDS[name].help
    assert not [one.name for one in COMMANDS[name].params if one.name != "help" and not one.help]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_section_with_all_options_and_a_link_to_it(name: str) -> None:
    for one in COMMANDS[name].params:
        if one.param_type_name == "option" and one.name not in reference._EVERYWHERE:
            assert f"- `{', '.join(one.opts)}" in section(name), one.name
    assert name == "pconv" or f"](#{name.replace(' ', '-')})" in TEXT


class Way(Enum):
    left = "left"
    right = "right"


def walk(
    place: Annotated[Path, typer.Argument(metavar="PLACE", help="Where.")],
    end: Annotated[str | None, typer.Argument(help="Up to there.")] = None,
    way: Annotated[Way, typer.Option(help="The way.")] = Way.left,
    back: Annotated[Way | None, typer.Option("--back", "-b", help="The way back.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps.")] = 7,
    pace: Annotated[float | None, typer.Option(min=0, max=1, metavar="SHARE", show_default="half")] = None,
    far: Annotated[bool, typer.Option("--far", help="Far.")] = False,
    shoes: Annotated[str, typer.Option(help="Needed.")] = ...,  # type: ignore[assignment]
) -> None:
    """Walk,
    and on.

    Then *rest*.
    """


def test_an_option_shows_its_values_bounds_and_default() -> None:
    little = typer.Typer(add_completion=False)
    little.command()(walk)
    assert reference._section("walk", typer.main.get_command(little)).splitlines() == [
        "## walk", "",
        "```", "walk [OPTIONS] PLACE [END]", "```", "",
        "Walk, and on.", "",
        r"Then \*rest\*.", "",
        "Arguments:", "",
        "- `PLACE`: Where.",
        "- `[END]`: Up to there.", "",
        "Options:", "",
        "- `--way left|right` (default `left`): The way.",
        "- `--back, -b left|right`: The way back.",
        "- `--steps N` (at least 2, default `7`): Steps.",
        "- `--pace SHARE` (0 to 1, default `half`): ",
        "- `--far`: Far.",
        "- `--shoes TEXT` (required): Needed.",
    ]  # fmt: skip


def test_the_page_does_not_depend_on_the_terminal_and_is_made_without_torch() -> None:
    program = (
        "import runpy, sys; runpy.run_module('pconv_cli.cli.reference', run_name='__main__');"
        "sys.exit('heavy' if {'torch', 'cv2', 'numpy', 'rasterio'} & set(sys.modules) else 0)"
    )
    settings = {"COLUMNS": "37", "TERM": "dumb", "GITHUB_ACTIONS": "true", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().replace("\r\n", "\n") == TEXT + "\n"


def test_plain_words_are_kept_from_being_read_as_markdown() -> None:
    assert reference._escaped("NAME.* or <x>, see `a * b`") == r"NAME.\* or \<x>, see `a * b`"


# ---------------------------------------------------------------- completion


class Shell:
    """Asks as the scripts do that `--install-completion` installs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = monkeypatch, capture
        self.code = 0

    def __call__(self, shell: str, line: str, action: str = "") -> str:
        asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": action}
        asked |= {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_PCONV_COMPLETE": f"complete_{shell}"}
        with self._patch.context() as patch:
            for name, value in asked.items():
                patch.setenv(name, value)
            self.code = run([])
        out, err = self._capture.readouterr()
        assert not err
        return out


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pconv re", ["restore"]),
        ("pconv weights v", ["verify"]),
        ("pconv restore --pre", ["--precision"]),
        ("pconv restore --precision ", ["auto", "fp64", "fp32", "bf16", "fp16"]),
        ("pconv restore a b c --precision f", ["fp64", "fp32", "fp16"]),
        ("pconv restore --format t", ["tiff"]),
        ("pconv tile --device ", ["auto", "cpu", "cuda", "mps"]),
        ("pconv mask --detect ", ["auto", "dust", "scratches", "tears"]),
        ("pconv restore ", []),  # nothing, and bash completes files itself
        ("pconv tile --mask ", []),
    ],
)
def test_bash_completes_commands_options_and_values_and_leaves_files_to_itself(
    line: str, expected: list[str], complete: Shell
) -> None:
    assert complete("bash", line).split() == expected


def test_zsh_completes_options_and_is_sent_to_files_for_arguments(complete: Shell) -> None:
    assert '"--precision"' in complete("zsh", "pconv restore --pre")
    assert complete("zsh", "pconv restore ").strip() == "_files"


def test_fish_completes_options_and_is_told_to_take_files_for_arguments(complete: Shell) -> None:
    assert complete("fish", "pconv restore --pre", "get-args").startswith("--precision\t")
    complete("fish", "pconv restore --pre", "is-args")
    assert complete.code == 0
    complete("fish", "pconv restore ", "is-args")
    assert complete.code == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_answers_without_anything_heavy(shell: str) -> None:
    line = "pconv restore --precision "
    asked = {
        "_TYPER_COMPLETE_ARGS": line,
        "COMP_WORDS": line,
        "COMP_CWORD": "3",
        "_PCONV_COMPLETE": f"complete_{shell}",
    }
    program = (
        "import sys; from pconv_cli.cli import app; app.run([]);"
        "sys.exit('heavy' if {'torch', 'cv2', 'numpy', 'rasterio'} & set(sys.modules) else 0)"
    )
    settings = os.environ | asked
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr
    assert "bf16" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed_and_calls_what_was_tested_above(shell: str, tmp_path: Path) -> None:
    settings = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    line = [sys.executable, "-m", "pconv_cli", "--install-completion", shell]
    done = subprocess.run(line, capture_output=True, text=True, env=settings, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    written = [path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert any(f"_PCONV_COMPLETE=complete_{shell}" in text for text in written)


def test_fish_gets_one_line_for_each_option_however_narrow_the_terminal() -> None:
    asked = {"_TYPER_COMPLETE_ARGS": "pconv restore --", "_TYPER_COMPLETE_FISH_ACTION": "get-args", "COLUMNS": "40"}
    settings = os.environ | asked | {"_PCONV_COMPLETE": "complete_fish"}
    line = [sys.executable, "-m", "pconv_cli"]
    done = subprocess.run(line, capture_output=True, text=True, env=settings, check=True)
    assert all(line.startswith("--") and "\t" in line for line in done.stdout.splitlines())


NOT_FOR_CHECK = {  # who computes, how it is shown, and when a run ends: nothing that decides what would come of it
    "--device", "--batch-size", "--on-error", "--max-failures", "--failed-list", "--report", "--watch", "--settle",
    "--cluster", "--workers", "--quiet", "--verbose",
}  # fmt: skip


def test_check_takes_whatever_decides_what_a_run_would_do() -> None:
    def options(command: str) -> set[str]:
        return {option for one in COMMANDS[command].params for option in one.opts if option.startswith("--")}

    assert options("pconv restore") - options("pconv check") == NOT_FOR_CHECK
