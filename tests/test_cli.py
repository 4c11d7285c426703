"""The command line from outside: every exit code, what stands on which stream, and what is safe to type.

Most tests call `run`, which gives the exit code; few start a process, for signals, pipes and terminals need one.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import pty
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import warm
from conftest import Workplace, box, pixels, pressing_ctrl_c, texture
from PIL import Image
from rich.console import Console

from pconv_cli import __version__, bench, engine, files, filling, helpers, images, manifest
from pconv_cli import restore as use_case
from pconv_cli import weights as store
from pconv_cli.cli import app, ui
from pconv_cli.cli.text import percent
from pconv_cli.errors import ExitCode
from pconv_cli.events import (
    ItemDone,
    ItemFailed,
    ItemShown,
    ItemStarted,
    Notice,
    ProcessesStarting,
    ReportStarted,
    ReportWritten,
    RunFinished,
    RunStarted,
    TilesDone,
    TrainStarted,
    TrainStep,
)
from pconv_cli.journal import NAME
from pconv_cli.marks import Mark
from pconv_cli.nn.unet import UNetConfig

PATIENCE = 60
"""Seconds after which a process that should have ended is given up."""


class Pconv:
    """Runs the command line in this process, in a workplace."""

    def __init__(self, work: Workplace, capture: pytest.CaptureFixture[str]) -> None:
        self._work, self._capture = work, capture
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        self._capture.readouterr()
        try:
            return app.run(list(arguments))
        finally:
            self.out, self.err = self._capture.readouterr()

    def restore(self, *options: str, out: Path | str | None = None) -> int:
        return self(*self.line(*options, out=out))

    def line(self, *options: str, out: Path | str | None = None) -> list[str]:
        work = self._work
        fixed = ["restore", str(work.pictures), str(work.masks), str(out or work.out)]
        return [*fixed, "--weights", "none", "--device", "cpu", *options]

    @property
    def error_lines(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture
def pconv(work: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Pconv:
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    return Pconv(work, capsys)


def written(work: Workplace) -> list[str]:
    """All files in OUT, hidden ones too; not the journal."""
    return sorted(str(p.relative_to(work.out)) for p in work.out.rglob("*") if p.is_file() and p.name != NAME)


def items_and_summary(out: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What `--json` prints: an object an item, and one for the run."""
    *items, summary = (json.loads(line) for line in out.splitlines())
    assert {item["type"] for item in items} <= {"item"} and summary["type"] == "summary"
    return items, summary


# ---------------------------------------------------------------- exit codes


def test_exit_codes_are_stable() -> None:
    codes = {code.name: code.value for code in ExitCode}
    assert codes == {
        "OK": 0, "SOME_FAILED": 1, "USAGE": 2, "NOTHING_TO_DO": 3, "WEIGHTS": 4, "OUTPUT": 5, "DEVICE": 6,
        "BUG": 70, "INTERRUPTED": 130,
    }  # fmt: skip


def test_0_when_all_are_restored(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    work.pair("b.tif")
    assert pconv.restore() == 0
    assert written(work) == ["a.png", "b.tif"] and pconv.out == ""


def truncated(work: Workplace) -> None:
    path, _ = work.pair("bad.png")
    path.write_bytes(path.read_bytes()[:700])


def empty(work: Workplace) -> None:
    path, _ = work.pair("bad.png")
    path.write_bytes(b"")


def no_picture(work: Workplace) -> None:
    path, _ = work.pair("bad.png")
    path.write_bytes(b"Dear diary, today I was renamed to .png")


def missing_mask(work: Workplace) -> None:
    work.picture("bad.png")


def mask_of_wrong_size(work: Workplace) -> None:
    work.picture("bad.png")
    work.mask("bad.png", box(20, 20, 2, 2, 5, 5))


def broken_mask(work: Workplace) -> None:
    work.picture("bad.png")
    (work.masks / "bad.png").write_bytes(b"no mask")


def moving_picture(work: Workplace) -> None:
    work.mask("bad.png", box(48, 40, 2, 2, 5, 5))
    frames = [Image.new("RGB", (48, 40), colour) for colour in ("red", "blue")]
    frames[0].save(work.pictures / "bad.png", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing_mask, "no mask"),
        (truncated, "damaged or cut short"),
        (empty, "empty"),
        (no_picture, "not a JPEG, PNG, WebP, BMP or TIFF picture"),
        (moving_picture, "animated, 2 frames"),
        (mask_of_wrong_size, "never stretched"),
        (broken_mask, "not a JPEG, PNG, WebP, BMP or TIFF picture"),
    ],
)
def test_1_when_a_picture_fails_with_one_line_that_names_it_while_the_others_are_restored(
    work: Workplace, pconv: Pconv, spoil: Callable[[Workplace], None], says: str
) -> None:
    work.pair("a.png")
    spoil(work)
    work.pair("z.png")
    assert pconv.restore("--progress", "none") == 1
    assert written(work) == ["a.png", "z.png"]
    (line,) = pconv.error_lines
    assert line.startswith("failed bad.png") and says in line and "Traceback" not in line


@pytest.mark.parametrize("spoil", [mask_of_wrong_size, broken_mask])
def test_a_line_about_a_mask_names_the_mask(work: Workplace, pconv: Pconv, spoil: Callable[[Workplace], None]) -> None:
    spoil(work)
    assert pconv.restore("--progress", "none") == 1
    assert str(work.masks / "bad.png") in pconv.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["--tile-size", "8"], "--tile-size"),
        (["--format", "exe"], "--format exe: not a format"),
        (["--progress", "loud"], "--progress"),
        (["--jobs", "0"], "--jobs"),
        (["--dilate", "-1"], "--dilate"),
    ],
)
def test_2_for_an_option_that_makes_no_sense(work: Workplace, pconv: Pconv, arguments: list[str], says: str) -> None:
    work.pair()
    assert pconv.restore(*arguments) == 2
    (line,) = pconv.error_lines
    assert says in line and pconv.out == "" and not work.out.exists()


def test_2_for_missing_arguments_and_unknown_commands(pconv: Pconv) -> None:
    for arguments in (["restore"], ["restore", "in"], ["repair"], []):
        assert pconv(*arguments) == 2
        assert "Traceback" not in pconv.err


def test_2_where_in_is_missing(work: Workplace, pconv: Pconv) -> None:
    work.pictures.rmdir()
    assert pconv.restore() == 2
    (line,) = pconv.error_lines
    assert line.startswith(f"pconv: {work.pictures}: not found")


def test_2_where_two_results_would_be_one_file(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    work.pair("a.jpg")
    assert pconv.restore("--format", "png") == 2
    (line,) = pconv.error_lines
    assert "a.png" in line and "a.jpg" in line and not work.out.exists()


def test_2_where_a_result_would_fall_on_its_picture(work: Workplace, pconv: Pconv) -> None:
    source, _ = work.pair("a.png")
    before = source.read_bytes()
    assert pconv.restore("--overwrite", out=work.pictures) == 2
    assert len(pconv.error_lines) == 1 and source.read_bytes() == before


@pytest.mark.parametrize("command", ["restore", "check", "--watch"])
def test_2_where_out_lies_inside_in_and_holds_pictures_that_no_run_has_written(
    work: Workplace, pconv: Pconv, command: str
) -> None:
    work.pair("a.png")
    work.pair("2019/b.png")
    taken = work.pictures / "2019"
    line = pconv.line(*(["--watch"] if command == "--watch" else []), out=taken)
    assert pconv(*(["check", *line[1:4]] if command == "check" else line)) == 2
    (told,) = pconv.error_lines
    assert str(taken / "b.png") in told and "choose another OUT" in told
    assert [path.name for path in taken.iterdir()] == ["b.png"]


def test_out_inside_in_is_no_trouble_once_a_run_has_noted_what_it_holds(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    out, more = work.pictures / "out", work.pictures / "more"
    assert pconv.restore(out=out) == 0
    assert pconv.restore("--resume", out=out) == 0
    assert pconv("check", *pconv.line(out=out)[1:4], "--resume", "--weights", "none") == 0
    listed = work.root / "list.csv"
    places = (work.pictures / "a.png", work.masks / "a.png", more / "deep" / "b.png")
    listed.write_text("image,mask,out\n" + ",".join(map(str, places)) + "\n")
    assert pconv("restore", "--manifest", str(listed), "--weights", "none", "--device", "cpu") == 0
    shutil.rmtree(out)
    assert pconv.restore(out=more) == 0


def test_3_for_a_folder_without_pictures(work: Workplace, pconv: Pconv) -> None:
    (work.pictures / "notes.txt").write_text("nothing to see")
    assert pconv.restore() == 3
    (line,) = pconv.error_lines
    assert line.startswith("pconv: no pictures in")


def test_4_for_an_unknown_weights_name_and_the_names_are_listed(work: Workplace, pconv: Pconv) -> None:
    work.pair()
    assert pconv.restore("--weights", "no-such-name") == 4
    (line,) = pconv.error_lines
    assert "no-such-name" in line and store.NONE in line and not work.out.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04}q\x00.", b"\xff" * 64])
def test_4_for_a_file_that_holds_no_weights(work: Workplace, pconv: Pconv, content: bytes) -> None:
    work.pair()
    path = work.root / "file.safetensors"
    path.write_bytes(content)
    assert pconv.restore("--weights", str(path)) == 4
    (line,) = pconv.error_lines
    assert line.startswith(f"pconv: {path}: not a safetensors file")


@pytest.mark.parametrize("header", ["{no json", "[]", '{"format": 1, "architecture": [1]}'])
def test_4_for_weights_whose_header_is_damaged(work: Workplace, pconv: Pconv, header: str) -> None:
    work.pair()
    path = work.root / "file.safetensors"
    store.write_tensors(path, {"a": torch.zeros(1)}, {"pconv": header})
    assert pconv.restore("--weights", str(path)) == 4
    (line,) = pconv.error_lines
    assert line.startswith(f"pconv: {path}: ")


@pytest.mark.parametrize("name", ["file/out", "file/out/deeper", "/dev/null/x"])
def test_5_where_the_output_folder_cannot_be_made(work: Workplace, pconv: Pconv, name: str) -> None:
    work.pair()
    (work.root / "file").write_bytes(b"in the way")
    assert pconv.restore(out=work.root / name) == 5
    (line,) = pconv.error_lines
    assert "cannot write there" in line and "choose another OUT" in line
    assert (work.root / "file").read_bytes() == b"in the way"


@pytest.mark.parametrize("name", ["file/out", "closed"])
def test_5_where_the_output_of_tile_cannot_be_written(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    picture, _ = work.pair()
    (work.root / "file").write_bytes(b"in the way")

    def refused(folder: Path) -> None:
        if folder.name == "closed":  # root may write anywhere
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pconv_cli.files.refuse_unwritable", refused)
    output = work.root / name / "a.tif"
    assert pconv("tile", str(picture), "--mask", str(work.root / "masks" / "a.png"), "-o", str(output)) == 5
    assert f"{output.parent}: cannot write there" in pconv.err and "choose another OUT" in pconv.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("option", ["--save-filled", "--save-confidence"])
def test_5_where_a_folder_of_an_option_cannot_be_made_and_the_option_is_named(
    work: Workplace, pconv: Pconv, option: str
) -> None:
    work.pair()
    (work.root / "file").write_bytes(b"in the way")
    assert pconv.restore(option, str(work.root / "file" / "x")) == 5
    (line,) = pconv.error_lines
    assert f"{option} {work.root / 'file' / 'x'}: cannot write there" in line


def test_6_for_a_device_that_is_not_there(work: Workplace, pconv: Pconv) -> None:
    work.pair()
    assert pconv.restore("--device", "cuda") == 6
    (line,) = pconv.error_lines
    assert line.startswith("pconv: --device cuda:") and "--device auto or cpu" in line and not work.out.exists()


@pytest.mark.parametrize("device", ["nonsense", "meta", "cpu:x"])
def test_6_for_a_device_that_means_nothing(work: Workplace, pconv: Pconv, device: str) -> None:
    work.pair()
    assert pconv.restore("--device", device) == 6
    (line,) = pconv.error_lines
    assert line.startswith(f"pconv: --device {device}:") and "auto, cpu, cuda" in line


def has_a_bug(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("the number was too small")


def slips_on_the_second(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception) -> None:
    """Have a function raise an error the second time that it is called, and no other."""
    plain, calls = getattr(module, name), itertools.count(1)

    def slips(*given: Any, **named: Any) -> Any:
        if next(calls) == 2:
            raise error
        return plain(*given, **named)

    monkeypatch.setattr(module, name, slips)


@pytest.mark.parametrize(
    ("module", "name"),
    [(bench, "probe"), (bench, "read_mask"), (bench, "plan_tiles"), (filling.Filling, "rounds"),
     (bench, "write_picture"), (bench.Work, "reported")],
    ids=lambda part: part if isinstance(part, str) else "",
)  # fmt: skip
def test_a_bug_fails_the_picture_that_met_it_and_the_others_go_on(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    for each in ("a.png", "b.png", "c.png", "d.png"):
        work.pair(each)
    slips_on_the_second(monkeypatch, module, name, ZeroDivisionError("the number was too small"))
    assert pconv.restore("--progress", "none", "--jobs", "1", "--json") == 1
    items, summary = items_and_summary(pconv.out)
    assert summary["failed"] == 1 and summary["restored"] == 3
    (failed,) = (item for item in items if item["status"] == "failed")
    assert failed["path"] == failed["image"] == str(work.pictures / failed["name"])
    (line,) = pconv.error_lines
    said = (
        "this is a bug in pconv: ZeroDivisionError: the number was too small; PCONV_DEBUG=1 shows where, please report"
    )
    assert line.startswith(f"failed {failed['name']}: {said}") and failed["reason"] in line


def test_a_bug_that_every_picture_meets_is_no_success(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    work.pair("b.png")
    monkeypatch.setattr(bench, "plan_tiles", has_a_bug)
    assert pconv.restore() == 1
    assert pconv.err.count("this is a bug in pconv: ZeroDivisionError") == 2 and "0 restored, 2 failed" in pconv.err
    assert pconv.out == "" and written(work) == []


@pytest.mark.parametrize("name", ["fill", "batch_size"])
def test_a_bug_in_what_pictures_share_ends_the_run(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for i in range(40):
        work.pair(f"{i}.png", size=(48, 40 + i))
    monkeypatch.setattr(engine.Engine, name, has_a_bug)
    assert pconv.restore("--progress", "none") == 70
    *_, last = pconv.error_lines
    assert last.startswith("pconv: this is a bug in pconv: ZeroDivisionError") and written(work) == []


def test_memory_that_runs_out_between_reading_and_writing_is_no_bug(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    work.pair("b.png")
    slips_on_the_second(monkeypatch, filling.Filling, "rounds", MemoryError())
    assert pconv.restore("--progress", "none") == 1
    (line,) = pconv.error_lines
    assert "too big for the memory of this machine" in line and "bug" not in line


def test_70_for_a_bug_with_one_line_that_says_how_to_see_more(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair()
    monkeypatch.setattr(use_case, "_tell", has_a_bug)
    assert pconv.restore("--progress", "none") == 70
    (line,) = pconv.error_lines
    assert "bug" in line and "ZeroDivisionError: the number was too small" in line and "PCONV_DEBUG=1" in line
    assert pconv.out == ""


def test_a_bug_is_raised_with_pconv_debug(work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch) -> None:
    work.pair()
    monkeypatch.setattr(bench, "plan_tiles", has_a_bug)
    monkeypatch.setenv("PCONV_DEBUG", "1")
    with pytest.raises(ZeroDivisionError) as raised:
        pconv.restore("--progress", "none")
    assert raised.traceback[-1].name == "has_a_bug"


def test_a_bug_is_one_line_even_if_its_message_has_several(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talkative(*_: object) -> None:
        raise RuntimeError("first\nsecond")

    work.pair()
    monkeypatch.setattr(use_case, "_tell", talkative)
    assert pconv.restore("--progress", "none") == 70
    assert len(pconv.error_lines) == 1


# ---------------------------------------------------------------- streams


def test_stdout_is_pure_json_with_json_and_empty_without(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    work.picture("b.png")
    assert pconv.restore("--progress", "plain") == 1
    assert pconv.out == ""
    assert pconv.restore("--progress", "plain", "--json", "--overwrite") == 1
    items, summary = items_and_summary(pconv.out)
    assert summary["pconv"] == __version__
    assert sorted(item["status"] for item in items) == ["failed", "restored"]


def test_a_run_that_ends_at_once_prints_no_json(work: Workplace, pconv: Pconv) -> None:
    assert pconv.restore("--json") == 3 and pconv.out == ""


def test_progress_json_is_one_event_a_line_on_stderr(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    work.picture("b.png")
    assert pconv.restore("--progress", "json", "--jobs", "1") == 1
    events = [json.loads(line) for line in pconv.error_lines]
    names = [event["event"] for event in events]
    assert names[0] == "run_started" and names[-1] == "run_finished"
    assert {"item_started", "tiles_done", "item_done", "item_failed"} <= set(names)
    (failed,) = [event for event in events if event["event"] == "item_failed"]
    assert failed["name"] == "b.png" and "no mask" in failed["reason"]
    assert pconv.out == ""


def test_without_a_terminal_progress_is_plain_numbered_lines(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "b.png"):
        work.pair(name)
    work.pair("c.png", hole=np.zeros((40, 48), np.bool_))
    assert pconv.restore("--precision", "fp32") == 0
    first, *items, last = pconv.error_lines
    assert first == "3 pictures, weights none, on cpu in fp32 (as asked for)"
    assert [line[:5] for line in items] == ["[1/3]", "[2/3]", "[3/3]"]
    assert {line[6:].partition(":")[0] for line in items} == {"restored a.png", "restored b.png", "copied c.png"}
    assert last.startswith(f"2 restored, 1 copied without damage to {work.out} in ")
    assert not set(pconv.err) & {"\x1b", "\r"}


def test_progress_none_shows_failures_and_notes_only(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    assert pconv.restore("--progress", "none") == 0
    assert pconv.err == ""
    work.pair("a.png", hole=box(48, 40, 0, 0, 48, 39))
    assert pconv.restore("--progress", "none", "--json", "--overwrite") == 0
    assert len(pconv.error_lines) == 1 and "--invert-mask" in pconv.err
    assert any("--invert-mask" in notice for notice in items_and_summary(pconv.out)[1]["notices"])
    assert pconv.restore("--progress", "none") == 1
    (line,) = pconv.error_lines
    assert "--overwrite" in line


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("cut", ["picture", "mask"])
def test_a_tiff_that_is_cut_short_is_told_without_the_words_of_libtiff(
    work: Workplace, compression: str, cut: str
) -> None:
    size = (300, 200)
    work.pair("a.tif", size=size)
    path = work.pictures / "a.tif" if cut == "picture" else work.masks / "a.tif"
    Image.fromarray(texture(*size)).save(path, compression=compression)
    if cut == "mask":
        (work.masks / "a.png").unlink()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    line = [sys.executable, "-m", "pconv_cli", "restore", str(work.pictures), str(work.masks), str(work.out)]
    done = warm.run([*line, "-q", "--weights", "none"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "damaged or cut short" in said and said.endswith(": fetch it again")
    assert "TIFF" not in said and "scanline" not in said


@pytest.mark.parametrize("mode", ["plain", "bar", "none", "quiet"])
@pytest.mark.parametrize("ours", [False, True])
def test_1_where_every_result_is_there_already_which_one_line_says_of_all(
    work: Workplace, pconv: Pconv, mode: str, ours: bool
) -> None:
    for n in range(5):
        work.pair(f"{n}.png")
        if not ours:
            work.out.mkdir(exist_ok=True)
            shutil.copy(work.pictures / f"{n}.png", work.out)
    assert not ours or pconv.restore("-q") == 0
    options = ["-q"] if mode == "quiet" else ["--progress", mode]
    assert pconv.restore(*options, "--json") == 1
    (line,) = [line for line in pconv.error_lines if "there" in line]
    assert f"all 5 results are there already, in {work.out}: --resume " in line and "--overwrite " in line
    assert "failed 0.png" not in pconv.err
    items, summary = items_and_summary(pconv.out)
    assert [item["status"] for item in items] == ["failed"] * 5 and summary["failed"] == 5
    assert pconv.restore("-v", "--progress", "plain") == 1 and "failed 0.png" in pconv.err
    (work.out / "4.png").unlink()
    assert pconv.restore(*options) == 1
    assert len([line for line in pconv.error_lines if "failed " in line and ".png" in line]) == 4, "else each says so"


def test_where_every_result_is_there_what_else_is_wrong_is_still_told(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    work.picture("b.png")  # has no mask
    work.out.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (work.out / name).touch()
    assert pconv.restore("--progress", "plain") == 1
    assert "all 2 results are there" in pconv.err and "failed b.png: no mask" in pconv.err
    assert "failed a.png" not in pconv.err
    assert pconv.restore("--progress", "json") == 1
    events = [json.loads(line)["event"] for line in pconv.error_lines]
    assert events.count("all_there") == 1 and events.count("item_failed") == 2


def test_quiet_shows_failures_only(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=box(48, 40, 0, 0, 48, 39))
    assert pconv.restore("--quiet") == 0 and pconv.err == ""
    assert pconv.restore("-q") == 1
    (line,) = pconv.error_lines
    assert "--overwrite" in line


def test_verbose_says_every_picture_and_how_it_went(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    assert pconv.restore("-v") == 0
    assert re.search(r"restored a\.png: .* 1 tile, \d+\.\d\d s, to .*a\.png", pconv.err)


# ---------------------------------------------------------------- names


NASTY = "line\nbreak\x1b[31mred\x07.png"


@pytest.mark.parametrize("mode", ["plain", "none"])
def test_control_characters_in_names_are_shown_and_not_obeyed(work: Workplace, pconv: Pconv, mode: str) -> None:
    work.picture(NASTY)
    assert pconv.restore("--progress", mode) == 1
    assert "line\\nbreak\\x1b[31mred\\x07.png" in pconv.err
    assert not set(pconv.err) & {"\x1b", "\x07"}
    assert len([line for line in pconv.error_lines if "break" in line]) == 1


def test_control_characters_in_names_come_through_json_unharmed(work: Workplace, pconv: Pconv) -> None:
    work.picture(NASTY)
    assert pconv.restore("--progress", "json", "--json") == 1
    assert items_and_summary(pconv.out)[0][0]["name"] == NASTY
    assert any(json.loads(line).get("name") == NASTY for line in pconv.error_lines)
    assert "\x1b" not in pconv.out + pconv.err


def test_control_characters_in_arguments_are_shown_and_not_obeyed(work: Workplace, pconv: Pconv) -> None:
    assert pconv("restore", f"{work.root}/{NASTY}", str(work.masks), str(work.out)) == 2
    assert len(pconv.error_lines) == 1 and "\x1b" not in pconv.err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_a_name_that_is_no_text_is_restored_and_reported(
    work: Workplace, pconv: Pconv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    for folder in (work.pictures, work.masks):
        (folder / "a.png").rename(os.fsdecode(bytes(folder) + b"/\xff.png"))
    with (tmp_path / "stdout").open("w", encoding="utf-8", errors="strict") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        code = pconv.restore("--json")
    assert code == 0
    assert items_and_summary((tmp_path / "stdout").read_text("utf-8"))[1]["restored"] == 1


# ---------------------------------------------------------------- a terminal


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Put a pseudo terminal in the place of stderr; afterwards the list holds all that was shown on it."""
    master, slave = pty.openpty()
    parts: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):  # the other end is closed
            while data := os.read(master, 4096):
                parts.append(data)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    shown: list[str] = []
    with monkeypatch.context() as patch:
        for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "30")):
            patch.setenv(name, value)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        with os.fdopen(slave, "w", encoding="utf-8") as stream:
            patch.setattr(sys, "stderr", stream)
            yield shown
    thread.join(PATIENCE)
    os.close(master)
    shown.append(b"".join(parts).decode())


def text(shown: str) -> str:
    """What a terminal shows, without its escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def bars(shown: str) -> list[str]:
    """Every state of a bar that a terminal has shown."""
    return [part for part in re.split(r"[\r\n]", text(shown)) if " pictures " in part and "weights" not in part]


def drawn(view: Any) -> str:
    """A bar as it would be drawn now."""
    console = Console(width=view._console.width)
    with console.capture() as captured:
        console.print(view._progress.get_renderable())
    return text(captured.get())


def cursor_is_visible(shown: str) -> bool:
    return shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


@pytest.mark.parametrize("width", [46, 50, 60, 80, 100, 200])
def test_a_bar_takes_one_line_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    with terminal(monkeypatch) as shown:
        monkeypatch.setenv("COLUMNS", str(width))
        with ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(1000, "photo", "cpu", "fp32", "as asked for"))
            for _ in range(1000):
                view(ItemDone("a.png", "out/a.png", "restored", 0.5, 1, (), 0.1))
            time.sleep(0.3)  # drawn anew ten times a second
    parts = [part for part in re.split(r"[\r\n]", text(shown[0])) if part.strip()]
    bars = [part for part in parts if "1000/1000" in part]
    assert bars and all(part.endswith((":00", "--")) and len(part) <= width for part in bars), bars
    assert all("restoring" in part or "weights photo" in part for part in parts), (
        "nothing of a bar on a line of its own"
    )


def test_time_left_goes_by_what_this_run_has_worked_on_and_not_by_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch) as shown:
        clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
        monkeypatch.setattr(ui, "time", clock)
        with ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(200, "photo", "cpu", "fp32", "as asked for"))
            for _ in range(64):
                view(ItemDone("a.png", "out/a.png", "done_before", 0, 0))
            clock.now += 7
            view(ItemStarted("b.png", 1))
            view(ItemFailed("c.png", "in/c.png", "in/c.png", "gone"))
            assert "--:--" in drawn(view), "nobody knows yet"
            for _ in range(4):
                clock.now += 2.5
                view(ItemDone("b.png", "out/b.png", "restored", 0.5, 1))
            assert "05:28" in drawn(view), "131 at 2.5 s each"
            clock.now += 4000
            view(ItemDone("b.png", "out/b.png", "restored", 0.5, 1))
    assert bars(shown[0])[-1].endswith("28:57:40")


@pytest.mark.parametrize(("items", "unit"), [(1, "tiles"), (2, "pictures"), (0, "")])
def test_a_bar_counts_pictures_a_second_where_there_are_several_and_tiles_of_a_single_one(
    monkeypatch: pytest.MonkeyPatch, items: int, unit: str
) -> None:
    with terminal(monkeypatch):
        clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
        monkeypatch.setattr(ui, "time", clock)
        with ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(items, "photo", "cpu", "fp32", "as asked for"))
            assert f"- {unit}/s" in drawn(view) if items else "/s" not in drawn(view)
            view(ItemStarted("b.png", 9))
            clock.now += 4
            view(TilesDone(9, 9))
            view(ItemDone("b.png", "out/b.png", "restored", 0.5, 9))
            rates = {0: [], 1: ["2.2"], 2: ["0.25"]}[items]
            assert re.findall(r"([\d.]+) (?:tiles|pictures)/s", drawn(view)) == rates
    said = str(ui.sentence(replace(finished(restored=items or 2, tiles=9), seconds=4)))
    assert said.endswith(" 2.2 tiles/s" if items == 1 else " 0.50 pictures/s")


def test_a_bar_counts_tiles_that_were_there_and_its_pace_goes_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
        monkeypatch.setattr(ui, "time", clock)
        with ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(1, "photo", "cpu", "fp32", "as asked for"))
            view(ItemStarted("b.png", 100))
            for _ in range(40):
                clock.now += 1
                view(TilesDone(1, 9, done_before=True))
            assert "- tiles/s" in drawn(view) and "--:--" in drawn(view)
            for _ in range(10):
                clock.now += 2
                view(TilesDone(1, 9))
            assert re.findall(r"([\d.]+) tiles/s", drawn(view)) == ["0.50"]
            assert "01:40" in drawn(view), "50 at 2 s each"


def test_time_left_of_a_training_that_goes_on_goes_by_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
        monkeypatch.setattr(ui, "time", clock)
        with ui.view(ui.ProgressMode.bar) as view:
            view(TrainStarted(10, 100, 50, "cpu", "fp32"))
            for step in range(51, 61):
                clock.now += 1
                view(TrainStep(step, 1.0, 0.1, {}, step / 100))
            assert "00:40" in drawn(view)


def test_a_bar_says_that_processes_are_started_until_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[Any] = [ItemStarted("a.png", 1), ItemDone("a.png", "out/a.png", "done_before", 0, 0)]
    for event in [*first, ItemFailed("a.png", "in/a.png", "in/a.png", "gone")]:
        with terminal(monkeypatch), ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(300, "photo", "cpu", "fp32", "as asked for"))
            assert drawn(view).startswith("restoring ")
            view(ProcessesStarting(4))
            for width in (80, 46):
                view._console.width = width
                (line,) = drawn(view).splitlines()
                assert line.startswith("starting processes ") and "  0/300 pictures" in line and len(line) <= width
            view(event)
            assert drawn(view).startswith("restoring ")


def test_a_bar_follows_the_width_of_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch), ui.view(ui.ProgressMode.bar) as view:
        view(RunStarted(1000, "photo", "cpu", "fp32", "as asked for"))
        lengths = []
        for width in (100, 80, 50, 46, 80):
            view._console.width = width
            (line,) = drawn(view).splitlines()
            assert line.startswith("restoring ") and len(line) < width and ("pictures/s" in line) == (width >= 80)
            lengths.append(line.index("   0/1000 pictures") - len("restoring  "))
        assert lengths == [40, 25, 12, 8, 25]


def test_one_picture_is_said_to_be_restored_to_its_file_several_to_their_folder(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    plain = ("--weights", "none", "--progress", "plain")
    one = (str(place / "a.png") for place in (work.pictures, work.masks, work.out))
    assert pconv("restore", *one, *plain) == 0
    assert f"1 restored to {work.out / 'a.png'} in" in pconv.err
    work.pair("b.png")
    assert pconv.restore(*plain, "--overwrite") == 0
    assert f"2 restored to {work.out} in" in pconv.err


def test_on_a_terminal_a_bar_runs_and_leaves_the_cursor_visible(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        work.pair(name)
    with terminal(monkeypatch) as screen:
        assert pconv.restore() == 0
    (shown,) = screen
    assert "\x1b[?25l" in shown and cursor_is_visible(shown)
    assert "restoring" in text(shown) and "/3 pictures" in text(shown)
    assert "3 pictures, weights none" in text(shown) and "3 restored to" in text(shown)
    assert "restored a.png" not in text(shown), "a picture that went well only moves the bar"


def test_on_a_terminal_names_are_neither_markup_nor_escape_sequences(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work.pictures / "[red]").mkdir()
    names = ("[red]x[/red].png", "[red]/[/]y.png", ":smile: [link=x]z[/link].png", NASTY)
    for name in names:
        work.picture(name)
    work.pair("fine.png")
    with terminal(monkeypatch) as screen:
        assert pconv.restore() == 1
    shown = text(screen[0])
    for name in (*names[:3], "line\\nbreak\\x1b[31mred\\x07.png"):
        assert f"failed {name}: " in shown
    assert "\x07" not in shown


def test_an_error_in_the_middle_gives_the_cursor_back(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair()
    monkeypatch.setattr(use_case, "_tell", has_a_bug)
    with terminal(monkeypatch) as screen:
        assert pconv.restore() == 70
    (shown,) = screen
    assert "\x1b[?25l" in shown and cursor_is_visible(shown)
    assert text(shown).rstrip().splitlines()[-1].startswith("pconv: this is a bug")


def test_plain_lines_can_be_asked_for_on_a_terminal(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair()
    with terminal(monkeypatch) as screen:
        assert pconv.restore("--progress", "plain") == 0
    assert "\x1b" not in screen[0] and "[1/1] restored a.png" in screen[0]


# ---------------------------------------------------------------- how events are said


def test_a_line_of_a_terminal_holds_no_control_character() -> None:
    everything = "".join(map(chr, [*range(0x100), 0xD800, 0xDFFF, 0x20AC, 0x1F600]))
    line = ui.one_line(everything)
    assert line.splitlines() == [line] and not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", line)
    assert "\\n" in line and "\\x1b" in line and line.endswith("€😀")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            RunStarted(1, "w", "cpu", "fp32", "as asked for"),
            "1 picture, weights w, on cpu in fp32 (as asked for)",
        ),
        (ItemDone("a", "out/a", "restored", 0.125, 1), "restored a: 12.5% damaged, 1 tile"),
        (ItemDone("a", "out/a", "done_before", 0.0, 0), None),
        (ItemDone("a", "out/a", "copied", 0, 0, ("x",)), "copied a: nothing is marked as damaged; note: x"),
        (ItemFailed("a", "in/a", "in/a", "gone"), "failed a: gone"),
        (ItemFailed("a", "in/a", "masks/a", "gone"), "failed a (masks/a): gone"),
        (Notice("x"), "note: x"),
        (ReportStarted(2), None),
        (ItemShown("a"), None),
        (ReportWritten("report/index.html", 1.25), "report: report/index.html, made in 1.2 s"),
    ],
)
def test_an_event_is_said_in_one_line(event: Any, said: str) -> None:
    assert ui.sentence(event) == said


# ---------------------------------------------------------------- stopping


HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def unheeded() -> Iterator[None]:
    """Signals as a process has them that nobody told to ignore any."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in HEARD}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("unheeded")
@pytest.mark.parametrize("number", HEARD)
def test_ctrl_c_once_asks_to_stop_the_same_press_again_is_ignored_and_a_second_press_interrupts(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told: list[object] = []

    class View:
        def __call__(self, event: object) -> None:
            told.append(event)

        def close(self) -> None:
            raise AssertionError("the view belongs to somebody else")

    before = [signal.getsignal(one) for one in HEARD]
    with ui.Stop(View()) as stop:
        assert not stop() and not told
        signal.raise_signal(number)
        assert stop() and stop()
        assert [type(event) for event in told] == [Notice]
        now = 0.1
        signal.raise_signal(signal.SIGINT)
        now = 0.5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(one) for one in HEARD] == before
    assert len(told) == 1


def test_a_signal_that_is_to_be_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ui.Stop(lambda _: None) as stop:  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_is_acknowledged_while_a_large_picture_is_computed(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.Engine, "fill", pressing_ctrl_c(2))
    hole = np.zeros((96, 96), np.bool_)
    hole[::16, ::16] = True
    work.pair(size=(96, 96), hole=hole)
    assert pconv.restore("--tile-size", "32", "--batch-size", "1", "--progress", "json") == 0  # nothing is left to do
    names = [json.loads(line)["event"] for line in pconv.error_lines]
    assert names.count("tiles_done") == 9
    assert "tiles_done" in names[names.index("notice") :]


SLOW = """
import sys, time
from pathlib import Path
from pconv_cli import engine

from pconv_cli import restore
fill, count, go_on = engine.Engine.fill, 0, Path(sys.argv.pop(1))
restore.WORTH_HELPERS = 1 if sys.argv.pop(1) == "helped" else 1000

def slow(*args):
    global count
    count += 1
    while count == 3 and not go_on.exists():
        time.sleep(0.01)
    return fill(*args)

engine.Engine.fill = slow
from pconv_cli.cli.app import main
main()
"""
"""`pconv`, except that its third batch waits until a file exists."""

HELPED = ["alone", pytest.param("helped", marks=pytest.mark.skipif(not helpers.can_be_had(), reason="no helpers here"))]
"""Whether processes read and write beside it."""

ONE_BATCH = box(48, 40, 17, 17, 23, 23)
"""A hole too small for a guide, so that a picture is a single tile."""


@contextmanager
def started(
    work: Workplace, pconv: Pconv, *options: str, stderr: int, helped: str = "alone"
) -> Iterator[subprocess.Popen[bytes]]:
    """The slow `pconv`, one reader thread or process, as a process that cannot outlive the test's patience."""
    go_on = str(work.root / "go-on")
    arguments = pconv.line("--json", "--jobs", "1", "--batch-size", "1", *options)
    command = [sys.executable, "-c", SLOW, go_on, helped, *arguments]
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
    with warm.Popen(command, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True, env=one_core) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.parametrize("helped", HELPED)
def test_130_ctrl_c_once_finishes_what_is_in_flight_and_reports_it(work: Workplace, pconv: Pconv, helped: str) -> None:
    names = [f"{n:02}.png" for n in range(20)]
    for name in names:
        work.pair(name, hole=ONE_BATCH)
    with started(work, pconv, "--progress", "json", stderr=subprocess.PIPE, helped=helped) as process:
        assert process.stderr is not None
        batches = 0
        while batches < 2:  # the third waits, or soon will
            batches += json.loads(process.stderr.readline())["event"] == "tiles_done"
        process.send_signal(signal.SIGINT)
        (work.root / "go-on").touch()
        out, err = process.communicate()
    assert process.returncode == 130, err
    items, summary = items_and_summary(out.decode())
    assert summary["interrupted"]
    done = sorted(item["name"] for item in items)
    assert {item["status"] for item in items} == {"restored"} and summary["not_done"] == 20 - len(done)
    # Two before, the third if it was handed to the lane, and one or two behind it: not what was only read.
    assert 2 <= len(done) <= 5 and done == names[: len(done)]
    assert written(work) == done
    for name in done:
        assert pixels(work.out / name).shape == (40, 48, 3)
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["text"].partition(":")[0] for event in events if event["event"] == "notice"] == ["stopping"]
    assert events[-1]["event"] == "run_finished" and events[-1]["not_done"] == 20 - len(done)


@pytest.mark.parametrize("helped", HELPED)
def test_130_ctrl_c_twice_ends_at_once_with_whole_outputs_and_a_visible_cursor(
    work: Workplace, pconv: Pconv, helped: str
) -> None:
    for n in range(20):
        work.pair(f"{n:02}.png", hole=ONE_BATCH)
    master, slave = pty.openpty()
    shown = b""

    def read_until(what: bytes) -> None:
        nonlocal shown
        while what not in shown:
            shown += os.read(master, 4096)

    try:
        with started(work, pconv, "--progress", "bar", stderr=slave, helped=helped) as process:
            os.close(slave)
            read_until(b"\x1b[?25l")
            while written(work) != ["00.png", "01.png"]:  # the third waits, and nothing will ever let it go on
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            time.sleep(1)  # a second press comes later than the echo of a first
            process.send_signal(signal.SIGINT)
            read_until(b"\x1b[?25h")
            out, _ = process.communicate()
    finally:
        os.close(master)
    assert process.returncode == 130 and out == b""
    assert cursor_is_visible(shown.decode()) and b"Traceback" not in shown
    assert written(work) == ["00.png", "01.png"]
    for name in written(work):
        assert pixels(work.out / name).shape == (40, 48, 3)


def test_ctrl_z_gives_the_cursor_back_and_going_on_hides_it_unless_in_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTSTP)
    with terminal(monkeypatch) as shown:
        stopped: list[Any] = []
        monkeypatch.setattr(ui.signal, "raise_signal", lambda number: stopped.append(signal.getsignal(number)))
        monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + len(stopped) - 1)
        with ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(2, "photo", "cpu", "fp32", "as asked for"))
            for _ in range(2):
                heard = signal.getsignal(signal.SIGTSTP)
                assert callable(heard)
                heard(signal.SIGTSTP, None)
            assert stopped == [signal.SIG_DFL] * 2, "or it would not stop"
        assert signal.getsignal(signal.SIGTSTP) is before
    assert re.findall(r"\x1b\[\?25.", shown[0]) == [f"\x1b[?25{state}" for state in "lhlhh"]


def test_time_that_a_run_was_suspended_is_no_time_that_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
        monkeypatch.setattr(ui, "time", clock)
        monkeypatch.setattr(ui.signal, "raise_signal", lambda _: setattr(clock, "now", clock.now + 3600))
        with ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(3, "photo", "cpu", "fp32", "as asked for"))
            view(ItemStarted("a.png", 1))
            heard = signal.getsignal(signal.SIGTSTP)
            assert callable(heard)
            heard(signal.SIGTSTP, None)
            clock.now += 2
            view(ItemDone("a.png", "out/a.png", "restored", 0.5, 1))
            assert "00:04" in drawn(view)


def test_ctrl_z_that_is_to_be_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        with terminal(monkeypatch), ui.view(ui.ProgressMode.bar) as view:
            view(RunStarted(2, "photo", "cpu", "fp32", "as asked for"))
            assert signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTSTP, before)


# ---------------------------------------------------------------- pipes and other ways in


def test_a_reader_of_stdout_that_has_gone_is_no_reason_to_complain(work: Workplace, pconv: Pconv) -> None:
    work.pair()
    command = [sys.executable, "-m", "pconv_cli", *pconv.line("--json", "--progress", "none")]
    process = warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE) in (0, 1)
    assert written(work) == ["a.png"]


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed by a shell")
@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_reason_to_fail_and_nothing_is_written_in_their_place(
    work: Workplace, pconv: Pconv, closed: str
) -> None:
    work.pair("a.png")
    work.pair("b.jpg")
    data = (work.pictures / "b.jpg").read_bytes()
    (work.pictures / "b.jpg").write_bytes(data[:-60] + b"\xff\xd9")  # libjpeg has something to say of it
    line = shlex.join([sys.executable, "-m", "pconv_cli", *pconv.line()])
    assert subprocess.run(["sh", "-c", f"{line} {closed}"], timeout=PATIENCE, check=False).returncode in (0, 1)
    assert "a.png" in written(work)
    for name in written(work):
        pixels(work.out / name)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder that is somebody's current one stays")
def test_a_current_folder_that_was_removed_is_one_line(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    (work.root / "gone").mkdir()
    line = shlex.join([sys.executable, "-c", "from pconv_cli.cli.app import main; main()", *pconv.line()])
    done = subprocess.run(
        ["sh", "-c", f"rmdir ../gone && {line}"], cwd=work.root / "gone", capture_output=True, text=True,
        timeout=PATIENCE, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pconv: the current folder is not there any more: cd into another\n"


def test_python_dash_m_is_pconv() -> None:
    command = [sys.executable, "-m", "pconv_cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert (done.stdout, done.stderr) == (f"pconv {__version__}\n", "")


def test_version_and_help_go_to_stdout(pconv: Pconv) -> None:
    assert pconv("--version") == 0 and pconv.out == f"pconv {__version__}\n" and pconv.err == ""
    for arguments in (["--help"], ["-h"], ["restore", "--help"], ["train", "-h"], ["weights", "-h"]):
        assert pconv(*arguments) == 0 and "Usage: pconv" in pconv.out and pconv.err == ""


def test_help_names_every_exit_code_and_every_format(pconv: Pconv) -> None:
    pconv("--help")
    words = re.findall(r"\d+", pconv.out[pconv.out.index("Exit codes") :])
    assert [int(word) for word in words] == [code.value for code in ExitCode]
    pconv("restore", "--help")
    offered = re.search(r"--format +(\S+)", pconv.out)
    assert offered and set(offered[1].split("|")) <= set(images.FORMATS)
    assert {images.FORMATS[name][1] for name in offered[1].split("|")} == {name for _, name in images.FORMATS.values()}


@pytest.mark.parametrize("spelling", ["png", "PNG", ".png"])
def test_a_format_may_be_spelled_as_people_do(work: Workplace, pconv: Pconv, spelling: str) -> None:
    work.pair("a.bmp")
    assert pconv.restore("--format", spelling) == 0 and written(work) == ["a.png"]


def test_one_picture_one_mask_and_one_file_to_write(work: Workplace, pconv: Pconv) -> None:
    source, _ = work.pair("a.png")
    target = work.root / "b.webp"
    arguments = ["restore", str(source), str(work.masks / "a.png"), str(target), "--weights", "none"]
    assert pconv(*arguments) == 0 and pixels(target).shape == (40, 48, 3)


def test_every_option_of_restore_reaches_its_setting(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Any] = []

    def restore(*arguments: Any) -> use_case.Report:
        got.extend(arguments)
        return use_case.Report({}, (), 0.0)

    monkeypatch.setattr(use_case, "restore", restore)
    work.pair("a.png")
    line = "--weights w --device mps --precision bf16 --tile-size 64 --batch-size 3 --jobs 5 --padding zero --overlap 7"
    line += " --invert-mask --dilate 2 --mask-on stored --format tif --overwrite --strict --linear --resume"
    line += " --max-failures 4 --failed-list f.csv --max-megapixels 9"
    places = ["restore", str(work.pictures), str(work.masks), str(work.out)]
    assert pconv(*places, *line.split()) == 0
    assert [job.output for job in got[0].jobs] == [work.out / "a.tif"]
    assert got[1] == use_case.RestoreSettings(
        weights="w", device="mps", precision="bf16", tile_size=64, batch_size=3, jobs=5, padding="zero", overlap=7,
        invert_mask=True, dilate=2, mask_on="stored", format="tif", overwrite=True, strict=True, linear=True,
        resume=True, max_failures=4, failed_list=Path("f.csv"), max_megapixels=9,
    )  # fmt: skip
    got.clear()
    assert pconv(*places) == 0
    assert got[1] == use_case.RestoreSettings()
    got.clear()
    assert pconv(places[0], places[1], places[3], "--mask-from", "band=4", "--on-error", "stop") == 0
    assert got[1] == use_case.RestoreSettings(mask_from=Mark("band", band=4), max_failures=1)


# ---------------------------------------------------------------- lists, samples, looking first


def test_a_manifest_stands_for_in_and_masks_and_relative_names_start_here(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    monkeypatch.chdir(work.root)
    (work.root / "pairs.csv").write_text("out,image,mask\nnew/b.png,in/a.png,masks/a.png\n,in/a.png,masks/a.png\n")
    assert pconv("restore", "--manifest", "pairs.csv", "out", "--weights", "none") == 0
    assert (work.root / "new" / "b.png").read_bytes() == (work.out / "a.png").read_bytes()


def test_a_manifest_on_standard_input_may_be_json_lines(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = work.pair("a.png")
    row = {"image": str(source), "mask": str(work.masks / "a.png"), "out": str(work.root / "b.png")}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(row).encode())))
    assert pconv("restore", "--manifest", "-", "--weights", "none") == 0
    assert (work.root / "b.png").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_among_files_is_refused_and_not_waited_for(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "b.png", "c.png"):
        work.pair(name)
    os.mkfifo(work.root / "pipe.png")
    for path in (work.pictures / "a.png", work.masks / "b.png"):
        path.unlink()
        path.symlink_to(work.root / "pipe.png")
    assert pconv.restore() == 1 and written(work) == ["c.png"]
    assert pconv.err.count("is a pipe or a device, not a file") == 2


def test_what_was_done_is_told_before_why_the_list_of_failures_could_not_be_written(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        work.pair(name)
    (work.pictures / "b.png").write_bytes(b"none")
    listed = work.root / "failed.csv"
    write = manifest.write

    def late(rows: Any, target: Path, *, overwrite: bool) -> None:
        target.write_text("somebody else's")
        write(rows, target, overwrite=overwrite)

    monkeypatch.setattr(manifest, "write", late)
    assert pconv.restore("--failed-list", str(listed), "--json", "--report", str(work.root / "page")) == ExitCode.OUTPUT
    summary = json.loads(pconv.out.splitlines()[-1])
    assert (summary["type"], summary["restored"], summary["failed"]) == ("summary", 1, 1)
    assert (work.root / "page" / "index.html").exists() and listed.read_text() == "somebody else's"
    assert "1 restored" in pconv.err and pconv.error_lines[-1].startswith(f"pconv: {listed}: is there already")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_130_for_a_kill_before_anything_has_begun_and_nothing_is_left(work: Workplace, number: signal.Signals) -> None:
    work.pair("a.png")
    stage = work.root / "tmp"
    stage.mkdir()
    line = [sys.executable, "-m", "pconv_cli", "restore", "-", str(work.masks / "a.png"), "-"]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(stage)}, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:  # fmt: skip
        until = time.monotonic() + PATIENCE
        while not list(stage.rglob("stdin*")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 130
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read() == b"" and b"Traceback" not in process.stderr.read()
    assert list(stage.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "whole.png"])
def test_nobody_may_read_a_result_who_may_not_read_its_source(work: Workplace, pconv: Pconv, name: str) -> None:
    work.pair(name, hole=np.zeros((40, 48), np.bool_) if name == "whole.png" else None)
    work.pair("open.png")
    (work.pictures / name).chmod(0o600)
    (work.pictures / "open.png").chmod(0o444)
    before = os.umask(0o022)
    try:
        assert pconv.restore() == 0
        assert [stat.S_IMODE((work.out / one).stat().st_mode) for one in (name, "open.png")] == [0o600, 0o644]
        (work.out / name).chmod(0o640)
        assert pconv.restore("--overwrite") == 0
        assert stat.S_IMODE((work.out / name).stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_a_list_of_failures_replaces_itself_and_keeps_what_was_not_begun(work: Workplace, pconv: Pconv) -> None:
    good = {name: work.pair(name)[0].read_bytes() for name in ("a.png", "b.png", "c.png")}
    for name, content in good.items():
        (work.pictures / name).write_bytes(content[:100])
    listed, copy = work.root / "failed.csv", work.root / "copy.csv"
    assert pconv.restore("--failed-list", str(listed)) == 1

    def again(target: Path, *options: str) -> int:
        line = ("--manifest", str(listed), "--failed-list", str(target), "--weights", "none", "--device", "cpu")
        return pconv("restore", *line, *options)

    def left() -> list[str]:
        return [Path(row.image).name for row in manifest.read(listed)]

    assert left() == ["a.png", "b.png", "c.png"]
    shutil.copy(listed, copy)
    assert again(copy) == 2 and "--overwrite" in pconv.err, "another list is somebody else's"
    assert again(listed, "--sample", "1") == 2 and left() == ["a.png", "b.png", "c.png"]
    (work.pictures / "a.png").write_bytes(good["a.png"])
    assert again(listed, "--on-error", "stop", "--jobs", "1") == 1
    assert left()[-2:] == ["b.png", "c.png"]  # and the first, if it was only read when the second failed
    plain = work.root / "list.csv"
    plain.write_text(f"image,mask,out\n{work.pictures / 'a.png'},{work.masks / 'a.png'},{work.out / 'z.png'}\n")
    line = ("--manifest", str(plain), "--failed-list", str(plain), "--weights", "none")
    assert pconv("restore", *line) == 2, "a list of the user's own is none of failures"
    for name, content in good.items():
        (work.pictures / name).write_bytes(content)
    assert again(listed) == 0 and listed.read_text().splitlines() == ["image,mask,out,reason"]


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (["in", "out"], "2 paths given, needed are IN MASKS OUT"),
        (["in"], "1 path given, needed are IN MASKS OUT"),
        (["in", "masks", "out", "--mask-from", "alpha"], "needed are IN OUT with --mask-from"),
        (["in", "out", "--mask-from", "beta"], "--mask-from beta: not a mark; use alpha, nodata"),
        (["--manifest", "x.csv", "in", "out"], "only OUT may stand there"),
        (["--manifest", "x.txt", "out"], "x.txt"),
        (["in", "masks", "out", "--failed-list", "x.txt"], "x.txt"),
        (["-", "-", "out.png"], "IN and MASKS are both -"),
        (["-", "m.png", "-", "--json"], "both write to standard output"),
        (["in", "masks", "-"], "standard output holds one picture"),
        (["-", "masks", "out", "--failed-list", "f.csv"], "--failed-list and - do not go together"),
    ],
)
def test_2_for_places_that_make_no_sense_together(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, places: list[str], says: str
) -> None:
    monkeypatch.chdir(work.root)
    work.pair("a.png")
    assert pconv("restore", *places) == 2
    (line,) = pconv.error_lines
    assert says in line and not work.out.exists()


def test_a_sample_is_the_first_pictures(work: Workplace, pconv: Pconv) -> None:
    for name in ("p10.png", "p2.png", "p1.png"):
        work.pair(name)
    assert pconv.restore("--sample", "2") == 0
    assert written(work) == ["p1.png", "p2.png"]


def test_check_finds_what_would_fail_before_anything_is_written(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    truncated(work)
    work.picture("c.png")
    work.picture("d.png")
    work.mask("d.png", box(20, 20, 2, 2, 5, 5))
    work.pair("e.png")
    work.out.mkdir()
    (work.out / "e.png").touch()
    work.mask("unused.png", box(20, 20, 2, 2, 5, 5))
    places = [str(work.pictures), str(work.masks), str(work.out)]
    assert pconv("check", *places, "--json") == 2
    found = json.loads(pconv.out)
    said = {finding["name"]: finding["reason"] for finding in found["findings"]}
    assert set(said) == {"bad.png", "c.png", "d.png", "e.png", ""} and "no picture pairs with it" in said[""]
    for name, words in (("bad", "cut short"), ("c", "no mask"), ("d", "must agree"), ("e", "exists already")):
        assert words in said[f"{name}.png"]
    assert [finding["grave"] for finding in found["findings"]] == [True, True, True, True, False]
    assert not found["usable"] and (found["items"], found["damaged"], found["tiles"]) == (5, 1, 1)
    assert found["disk_bytes"] == 2 * (work.pictures / "a.png").stat().st_size and found["seconds"] > 0
    assert written(work) == ["e.png"] and not (work.out / NAME).exists()
    assert pconv("check", *places) == 2 and "cut short" in pconv.out and "5, 4 would fail" in pconv.out


def test_check_tells_of_a_picture_that_meets_a_bug_and_looks_at_the_others(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    work.pair("b.png")
    slips_on_the_second(monkeypatch, bench, "plan_tiles", ZeroDivisionError("too small"))
    assert pconv("check", str(work.pictures), str(work.masks), str(work.out), "--json", "--jobs", "1") == 2
    found = json.loads(pconv.out)
    (finding,) = found["findings"]
    assert finding["name"] == "b.png" and finding["path"] == str(work.pictures / "b.png") and found["damaged"] == 1
    assert finding["reason"].startswith("this is a bug in pconv: ZeroDivisionError: too small")


def test_check_says_the_same_of_many_pictures_in_a_few_rows_and_of_each_in_json(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work.root)
    for n in range(9):
        work.pair(f"{n}.png", hole=box(48, 40, 0, 0, 48, 28 + n % 2))
        work.picture(f"without{n}.png")
    places = [str(place.relative_to(work.root)) for place in (work.pictures, work.masks)]
    assert pconv("check", *places) == 2
    (alike, same) = [line for line in pconv.out.splitlines() if "... and 6 more" in line]
    assert "note" in alike and "the same, but for figures" in alike
    assert "fails" in same and "the same " in same
    shown = re.findall(r"│ (fails|note) +│ \S*?((?:without)?\d)\.png", pconv.out)
    kinds = {kind: [name for other, name in shown if other == kind] for kind in ("fails", "note")}
    assert kinds == {"fails": ["without0", "without1", "without2"], "note": ["0", "1", "2"]}
    assert "9 of 9 masks mark most" in " ".join(re.sub("[│\n]", " ", pconv.out).split())
    assert pconv("check", *places, "--json") == 2 and len(json.loads(pconv.out)["findings"]) == 9 + 9 + 1
    (work.masks / "8.png").unlink()
    for n in range(4, 9):
        (work.pictures / f"without{n}.png").unlink()
        (work.masks / f"{n}.png").unlink(missing_ok=True)
        (work.pictures / f"{n}.png").unlink()
    assert pconv("check", *places) == 2 and "more" not in pconv.out, "a row would only stand for another"


def test_check_says_how_little_room_there_is_for_little(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 100))
    assert pconv("check", str(work.pictures), str(work.masks), str(work.out), "--json") == 2
    (found,) = json.loads(pconv.out)["findings"]
    assert re.search(r"need some [\d.]+ KiB, and 100 bytes are free", found["reason"])


def test_results_in_the_folder_of_the_pictures_are_refused_as_that(work: Workplace, pconv: Pconv) -> None:
    work.pair()
    assert pconv("restore", str(work.pictures), str(work.masks), str(work.pictures), "--overwrite") == 2
    assert f"{work.pictures}: is IN itself" in pconv.error_lines[0]


@pytest.mark.parametrize("others", [0, 2])
def test_check_tells_every_picture_that_two_masks_fit_and_all_else(work: Workplace, pconv: Pconv, others: int) -> None:
    for name in ["a", "b", *"cd"[:others]]:
        work.pair(f"{name}.png")
    for name in "ab":
        work.mask(f"{name}_mask.png", box(48, 40, 2, 2, 5, 5))
    assert pconv("check", str(work.pictures), str(work.masks), str(work.out), "--json") == 2
    found = json.loads(pconv.out)
    assert [(one["name"], one["grave"]) for one in found["findings"]] == [("a.png", True), ("b.png", True)]
    assert all("two masks fit" in one["reason"] for one in found["findings"])
    assert (found["items"], found["damaged"], found["complete"]) == (2 + others, others, True)


@pytest.mark.parametrize("changed", ["picture", "mask", "settings", "result", "journal", "companion", "taken"])
def test_check_says_what_a_run_that_resumes_says_of_outputs_that_are_there(
    work: Workplace, pconv: Pconv, changed: str
) -> None:
    for name in ("a.tif", "b.tif"):
        work.pair(name)
        (work.pictures / name).with_suffix(".tfw").write_text("1\n0\n0\n-1\n5\n5\n")
    assert pconv.restore() == 0
    options = ["--weights", "none", "--resume", "--json"]
    if changed == "picture":
        work.picture("a.tif", seed=9)
    elif changed == "mask":
        work.mask("a.png", np.zeros((40, 48), np.bool_))
    elif changed == "settings":
        options += ["--dilate", "1"]
    elif changed == "result":
        (work.out / "a.tif").write_bytes(b"somebody else's")
    elif changed == "journal":
        (work.out / NAME).unlink()
    elif changed == "companion":
        (work.out / "a.tfw").unlink()
    else:
        (work.out / "a.tif").unlink()
        (work.out / "a.tfw").write_text("other")
    before = {path: path.read_bytes() for path in work.out.iterdir()}
    places = [str(work.pictures), str(work.masks), str(work.out)]
    assert pconv("check", *places, *options) == 2
    found = json.loads(pconv.out)
    told = {(one["name"], one["path"], one["reason"]) for one in found["findings"] if one["grave"]}
    assert {path: path.read_bytes() for path in work.out.iterdir()} == before
    assert pconv("restore", *places, "--device", "cpu", *options) == 1
    items, summary = items_and_summary(pconv.out)
    assert told == {(item["name"], item["path"], item["reason"]) for item in items if item["status"] == "failed"}
    assert told and summary["done_before"] == found["done_before"]
    assert pconv("check", *places, *options, "--overwrite") == 0


def test_check_knows_what_a_run_of_a_larger_folder_has_done(work: Workplace, pconv: Pconv) -> None:
    work.pair("box/a.png")
    work.pair("b.png")
    assert pconv.restore() == 0
    before = written(work)
    places = [str(place / "box") for place in (work.pictures, work.masks, work.out)]
    assert pconv("check", *places, "--weights", "none", "--resume") == 0 and "1, 1 done before" in pconv.out
    assert written(work) == before and not (work.out / "box" / NAME).exists()


@pytest.mark.parametrize(
    "options",
    [("--precision", "fp32", "--overlap", "8"), ("--detect", "dust", "--sensitivity", "0.6"), ("--provenance",)],
)
def test_check_goes_by_the_options_of_the_run(work: Workplace, pconv: Pconv, options: tuple[str, ...]) -> None:
    work.pair("a.png", size=(64, 64), hole=box(64, 64, 20, 20, 24, 24))
    places = [str(work.pictures), *([str(work.masks)] if "--detect" not in options else []), str(work.out)]
    line = (*places, *options, "--save-filled", str(work.root / "filled"), "--weights", "none")
    assert pconv("check", *line, "--sample", "1") == 0 and "done before" not in pconv.out
    assert pconv("restore", *line, "--device", "cpu", "-q") == 0
    assert pconv("check", *line, "--resume") == 0 and "1, 1 done before" in pconv.out
    for more, says in (((), "from an earlier run"), (("--resume", "--dilate", "3"), "other settings")):
        assert pconv("check", *line, *more, "--json") == 2
        (finding,) = json.loads(pconv.out)["findings"]
        assert finding["grave"] and says in finding["reason"]


def test_check_weighs_damage_by_the_size_of_pictures_and_counts_one_that_is_listed_twice_twice(
    work: Workplace, pconv: Pconv
) -> None:
    work.pair("small.png", size=(32, 32), hole=box(32, 32, 0, 0, 32, 8))
    work.pair("large.png", size=(320, 320), hole=box(320, 320, 4, 4, 14, 14))
    assert pconv("check", str(work.pictures), str(work.masks), "--json") == 0
    assert json.loads(pconv.out)["hole_share"] == pytest.approx((256 + 100) / (32 * 32 + 320 * 320))
    image = work.picture("c.png")
    rows = [f"{image},,{work.out / name}" for name in ("1.png", "2.png")]
    rows.append(f"{work.pictures / 'small.png'},{work.masks / 'small.png'},{work.out / '3.png'}")
    (work.root / "list.csv").write_text("\n".join(["image,mask,out", *rows, ""]))
    assert pconv("check", "--manifest", str(work.root / "list.csv")) == 2
    assert "3, 2 would fail" in pconv.out and "1 of 1, 25.0% of their pixels" in pconv.out


def test_check_foretells_what_resume_leaves_out_and_what_is_no_picture(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "b.png"):
        work.pair(name)
    assert pconv.restore() == 0
    work.pair("c.png")
    (work.pictures / "d.gif").touch()
    line = ["check", str(work.pictures), str(work.masks), str(work.out), "--weights", "none", "--resume"]
    assert pconv(*line, "--json") == 0
    found = json.loads(pconv.out)
    assert (found["items"], found["done_before"], found["damaged"]) == (3, 2, 1) and "1 .gif" in found["left_out"]
    assert pconv(*line) == 0 and "3, 2 done before" in pconv.out and "1 of 1" in pconv.out and "1 .gif" in pconv.out
    assert pconv(*line[:-1]) == 2  # without --resume they are in the way


def test_check_finds_what_is_in_the_way_beside_a_picture_and_asks_for_out_to_resume(
    work: Workplace, pconv: Pconv
) -> None:
    work.pair("a.tif")
    (work.pictures / "a.tfw").write_text("1\n0\n0\n-1\n5\n5\n")
    work.out.mkdir(exist_ok=True)
    (work.out / "a.tfw").write_text("other")
    line = ["check", str(work.pictures), str(work.masks), "--weights", "none"]
    assert pconv(*line, str(work.out), "--json") == 2
    (found,) = json.loads(pconv.out)["findings"]
    assert "a.tfw beside it is there already" in found["reason"]
    assert pconv(*line, "--resume") == 2 and "--resume: what is done stands in OUT" in pconv.err


def test_check_finds_an_out_that_cannot_be_written(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    (work.root / "file").touch()
    assert pconv("check", str(work.pictures), str(work.masks), str(work.root / "file" / "out"), "--json") == 2
    assert "choose another OUT" in json.loads(pconv.out)["findings"][0]["reason"]


def test_check_finds_a_folder_below_out_that_cannot_be_written(work: Workplace, pconv: Pconv) -> None:
    work.pair("sub/a.png")
    work.out.mkdir()
    (work.out / "sub").touch()
    assert pconv("check", str(work.pictures), str(work.masks), str(work.out), "--json") == 2
    (found,) = json.loads(pconv.out)["findings"]
    assert (found["path"], found["reason"]) == (
        str(work.out / "sub" / "a.png"),
        "cannot be written: choose another OUT",
    )
    (work.root / "astray").symlink_to(work.root / "nowhere")
    assert pconv("check", str(work.pictures), str(work.masks), str(work.root / "astray")) == 2


def test_check_takes_a_photograph_for_a_mask_for_what_is_wrong(work: Workplace, pconv: Pconv) -> None:
    Image.fromarray(texture(200, 160)).save(work.picture("a.png", size=(200, 160)))
    work.mask("a.png", box(200, 160, 2, 2, 9, 9))
    assert pconv("check", str(work.pictures), str(work.masks), str(work.out)) == 0
    Image.fromarray(texture(200, 160, seed=3)).save(work.masks / "a.png")
    assert pconv("check", str(work.pictures), str(work.masks), str(work.out), "--json") == 2
    (found,) = json.loads(pconv.out)["findings"]
    assert found["grave"] and "is it the right file?" in found["reason"]


def test_check_refuses_a_list_that_says_not_where_to_as_restore_does(work: Workplace, pconv: Pconv) -> None:
    source, _ = work.pair("a.png")
    (work.root / "pairs.csv").write_text(f"image,mask,out\n{source},{work.masks / 'a.png'},\n")
    for command in ("restore", "check"):
        assert pconv(command, "--manifest", str(work.root / "pairs.csv")) == 2
        (line,) = pconv.error_lines
        assert "no file to write" in line


def test_check_finds_nothing_where_a_run_would_go_through(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png")
    assert pconv("check", str(work.pictures), str(work.masks)) == 0
    assert "1 of 1" in pconv.out and "What is wrong" not in pconv.out and pconv.err == ""
    assert not work.out.exists()


def test_check_says_that_masks_look_the_wrong_way_round(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "b.png"):
        work.pair(name, hole=box(48, 40, 0, 0, 48, 30))
    assert pconv("check", str(work.pictures), str(work.masks), "--json") == 2
    found = json.loads(pconv.out)
    assert [finding["grave"] for finding in found["findings"]] == [False, False, True]
    assert "2 of 2 masks mark most of the picture" in found["findings"][-1]["reason"]
    assert "use --invert-mask" in found["findings"][-1]["reason"]
    assert pconv("check", str(work.pictures), str(work.masks), "--invert-mask") == 0


@pytest.mark.parametrize(
    ("share", "digits", "shown"),
    [(0, 1, "0.0%"), (0.0004, 1, "<0.1%"), (0.0006, 1, "0.1%"), (1e-6, 2, "<0.01%"), (1, 1, "100.0%")],
)
def test_a_share_of_something_is_never_shown_as_nothing(share: float, digits: int, shown: str) -> None:
    assert percent(share, digits) == shown


# ---------------------------------------------------------------- standard input and output


def piped(arguments: list[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-m", "pconv_cli", "restore", *arguments, "--weights", "none", "--device", "cpu"]
    return warm.run(line, input=given, capture_output=True, timeout=PATIENCE)


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.jpg", "RGB"), ("a.tif", "L"), ("a.webp", "RGB")])
def test_a_picture_comes_in_and_goes_out_through_pipes_in_its_own_format(
    work: Workplace, pconv: Pconv, name: str, mode: str
) -> None:
    source, _ = work.pair(name, mode)
    done = piped(["-", str(work.masks / "a.png"), "-", "-q"], source.read_bytes())
    assert done.returncode == 0 and done.stderr == b""
    line = [str(source), str(work.masks / "a.png"), str(work.root / f"file{source.suffix}"), "-q"]
    assert pconv("restore", *line, "--weights", "none", "--device", "cpu") == 0
    assert done.stdout == (work.root / f"file{source.suffix}").read_bytes()


def test_a_format_may_be_asked_for_and_transparency_be_the_mask_in_a_pipe(work: Workplace) -> None:
    picture = np.dstack([np.full((40, 48, 3), 90, np.uint8), np.where(box(48, 40, 9, 9, 20, 20), 0, 255)]).astype(
        np.uint8
    )
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    done = piped(["-", "-", "--mask-from", "alpha", "--format", "webp", "-q"], stream.getvalue())
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "WEBP"
        np.testing.assert_array_equal(np.asarray(image)[..., :3], picture[..., :3])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_several_pictures_in_a_pipe_are_refused_for_only_one_would_come_out(work: Workplace, name: str) -> None:
    source, _ = work.pair(name)
    frames = source.read_bytes() + work.picture(f"b{source.suffix}", seed=1).read_bytes()
    done = piped(["-", str(work.masks / "a.png"), "-", "-q"], frames)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and b"holds several pictures" in done.stderr
    behind = source.read_bytes() + b"what a camera puts there"
    assert piped(["-", str(work.masks / "a.png"), "-", "-q"], behind).returncode == 0


def test_a_broken_picture_in_a_pipe_is_one_line_that_calls_it_by_its_name_and_writes_nothing(work: Workplace) -> None:
    work.pair()
    done = piped(["-", str(work.masks / "a.png"), "-", "-q"], b"no picture")
    assert done.returncode == 1 and done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("failed -: not a JPEG, PNG, WebP, BMP or TIFF picture")


def test_json_lines_call_what_is_piped_by_its_name_too(work: Workplace) -> None:
    source, mask = work.pair()[0], work.masks / "a.png"
    for places, given in ((["-", str(mask)], source), ([str(source), "-"], mask)):
        done = piped([*places, str(work.out / "a.png"), "--json", "-q", "--overwrite"], given.read_bytes())
        item = json.loads(done.stdout.splitlines()[0])
        assert [item["image"], item["mask"]] == places
        assert item["name"] == ("-" if places[0] == "-" else "a.png") and item["output"] == str(work.out / "a.png")
    broken = piped(["-", str(mask), str(work.root / "b.png"), "--json", "-q"], b"no picture")
    assert json.loads(broken.stdout.splitlines()[0])["path"] == "-"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_a_pipe_is_no_success(work: Workplace, unbuffered: str) -> None:
    source, _ = work.pair("a.bmp", size=(300, 200))
    line = [sys.executable, "-m", "pconv_cli", "restore", str(source), str(work.masks / "a.png"), "-", "-q"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as disk:
        done = warm.run([*line, "--weights", "none"], stdout=disk, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == ExitCode.OUTPUT and b"standard output: cannot be written" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_what_was_not_delivered_is_not_said_to_be_restored_to_standard_output(work: Workplace) -> None:
    source, _ = work.pair("a.bmp", size=(300, 200))
    line = [sys.executable, "-m", "pconv_cli", "restore", str(source), str(work.masks / "a.png"), "-"]
    for target, said in (("/dev/full", False), ("/dev/null", True)):
        with Path(target).open("wb") as out:
            done = warm.run([*line, "--weights", "none"], stdout=out, stderr=subprocess.PIPE)
        assert (b"restored to standard output" in done.stderr) == said == (done.returncode == 0)


def test_a_reader_that_has_gone_ends_a_pipe_quietly(work: Workplace) -> None:
    source, _ = work.pair()
    line = [sys.executable, "-m", "pconv_cli", "restore", str(source), str(work.masks / "a.png"), "-", "-q"]
    with warm.Popen([*line, "--weights", "none"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# ---------------------------------------------------------------- killed


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal")
@pytest.mark.parametrize("helped", HELPED)
def test_a_run_that_was_killed_goes_on_with_nothing_lost_repeated_or_half_written(
    work: Workplace, pconv: Pconv, helped: str
) -> None:
    names = [f"{n:02}.png" for n in range(20)]
    for name in names:
        work.pair(name, hole=ONE_BATCH)
    with started(work, pconv, "--progress", "json", stderr=subprocess.PIPE, helped=helped) as process:
        while not {"00.png", "01.png"} <= set(written(work)):  # the third waits, and nothing will ever let it go on
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    left = {name: (work.out / name).stat().st_ino for name in written(work) if not name.startswith(".")}
    assert pconv.restore("--resume", "--json", "--batch-size", "1") == 0
    items, summary = items_and_summary(pconv.out)
    assert {item["name"] for item in items if item["status"] == "done_before"} == set(left)
    assert summary["done_before"] + summary["restored"] == 20 and len(left) >= 2
    assert written(work) == names
    assert all((work.out / name).stat().st_ino == inode for name, inode in left.items())


# ---------------------------------------------------------------- weights


def test_weights_list_shows_what_is_shipped_and_none(pconv: Pconv) -> None:
    assert pconv("weights", "list") == 0 and store.NONE in pconv.out and pconv.err == ""
    assert pconv("weights", "list", "--json") == 0
    listed = json.loads(pconv.out)
    assert [entry["name"] for entry in listed] == [entry.name for entry in store.listed()]
    assert all(set(entry) == {"name", "file", "sha256", "default"} for entry in listed)


def test_weights_verify_agrees_with_the_manifest(pconv: Pconv) -> None:
    assert pconv("weights", "verify") == 0
    shipped = (*store.listed(), *store.listed_features())
    assert pconv.out.splitlines() == [f"{entry.name}: as listed" for entry in shipped]


def test_weights_verify_reads_what_is_named_and_ends_with_4_where_one_is_not_whole(
    work: Workplace, pconv: Pconv
) -> None:
    default = next(entry for entry in store.listed() if entry.default)
    mine, cut, bad = (work.root / f"{name}.safetensors" for name in ("mine", "cut", "bad"))
    mine.write_bytes(default.path.read_bytes())
    assert pconv("weights", "verify", str(mine), default.name) == 0
    digest = files.sha256(mine)
    assert pconv.out.splitlines() == [f"{name}: whole, SHA-256 {digest}" for name in (mine, default.name)]
    cut.write_bytes(mine.read_bytes()[:-1])
    tensors, metadata = store.read_tensors(mine)
    key = next(iter(tensors))
    tensors[key].view(-1)[-1] = float("nan")
    store.write_tensors(bad, tensors, metadata)
    assert pconv("weights", "verify", str(cut), str(bad), "no-such", "none", str(mine)) == 4
    lines = pconv.out.splitlines()
    assert lines[0].startswith(f"{cut}: not a safetensors file") and lines[2].startswith("no-such: neither a weights")
    assert lines[1] == f"{bad}: {key} holds what is no finite number; fetch the file again"
    assert lines[3].startswith("none: there is no file behind it") and lines[4] == f"{mine}: whole, SHA-256 {digest}"


def test_weights_verify_ends_with_4_where_a_file_is_not_what_the_manifest_says(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work.root / "n.safetensors").write_bytes(b"changed")
    entries = [
        {"name": "n", "file": "n.safetensors", "sha256": "0" * 64},
        {"name": "gone", "file": "gone.safetensors", "sha256": "0" * 64},
    ]
    (work.root / "manifest.json").write_text(json.dumps({"weights": entries}))
    monkeypatch.setattr(store, "shipped_folder", lambda: work.root)
    assert pconv("weights", "verify") == 4
    changed, gone = pconv.out.splitlines()
    assert changed.startswith("n: SHA-256 is") and gone.startswith("gone: cannot be read")
    work.pair()
    assert pconv.restore("--weights", "n") == 4
    assert "SHA-256" in pconv.err and len(pconv.error_lines) == 1


def test_weights_list_with_a_file_gone_is_no_bug(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"name": "gone", "file": "gone.safetensors", "sha256": "0" * 64}]
    (work.root / "manifest.json").write_text(json.dumps({"weights": entries}))
    monkeypatch.setattr(store, "shipped_folder", lambda: work.root)
    assert pconv("weights", "list") in (0, 4)


@pytest.mark.parametrize(("name", "code"), [("no-such-name", 4), ("none", 2)])
def test_weights_info_refuses_what_has_no_file(pconv: Pconv, name: str, code: int) -> None:
    assert pconv("weights", "info", name) == code
    assert len(pconv.error_lines) == 1 and pconv.out == ""


def test_weights_info_prints_the_header_of_a_file(work: Workplace, pconv: Pconv) -> None:
    path = work.root / "w.safetensors"
    store.write_tensors(path, {"a": torch.zeros(1)}, {"pconv": json.dumps({"format": 1, "licence": "très libre"})})
    assert pconv("weights", "info", str(path)) == 0
    document = json.loads(pconv.out)
    assert document == {"file": str(path), "sha256": files.sha256(path), "format": 1, "licence": "très libre"}
    assert "très" in pconv.out


@pytest.mark.parametrize("ending", ["", ".checkpoint"])
def test_train_does_not_replace_weights_or_what_a_killed_training_left_unasked(
    work: Workplace, pconv: Pconv, ending: str
) -> None:
    out = work.root / "w.safetensors"
    there = work.root / f"w.safetensors{ending}"
    there.write_bytes(b"mine")
    assert pconv("train", str(work.pictures), "--out", str(out)) == 5
    assert len(pconv.error_lines) == 1 and f"{there}: exists already; use --resume" in pconv.error_lines[0]
    assert there.read_bytes() == b"mine"


def photographs(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(texture(80, 70, seed=i)).save(folder / f"{i}.png")
    return folder


def briefly(*more: str) -> list[str]:
    """Options of the shortest training there is."""
    return ["--size", "64", "--batch-size", "1", "--perceptual", "none", "--device", "cpu", "--held-out", "1", *more]


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of few channels, for what is said and kept of a training, whatever is trained."""
    from pconv_cli.training import loop

    small = UNetConfig(encoder=((4, 5), (6, 3)), mean=(0.5,) * 3, std=(0.25,) * 3, floor=1, head=3)
    monkeypatch.setitem(loop.NETWORKS, "compact", small)
    monkeypatch.setitem(loop.NETWORKS, "deep", replace(small, coarse=small))
    monkeypatch.setattr(loop, "CALIBRATION", 2)


def test_train_makes_weights_that_restore_takes(work: Workplace, pconv: Pconv) -> None:
    out = work.root / "mine" / "w.safetensors"
    photos = photographs(work.root / "photos")
    assert pconv("train", str(photos), "--out", str(out), "--steps", "2", *briefly()) == 0, pconv.err
    assert "training on 3 photographs, 2 steps, on cpu in fp32" in pconv.err
    assert "note: fewer than 10 photographs: none is held out" in pconv.err
    assert "step 2: " in pconv.err and "perceptual distance" in pconv.err and pconv.out == ""
    endings = ["", ".checkpoint", ".log.jsonl", ".sheet.png"]
    assert sorted(path.name for path in out.parent.iterdir()) == [f"w.safetensors{ending}" for ending in endings]
    assert f"wrote {out} after 2 steps; sample fills in {out}.sheet.png" in pconv.err
    assert pconv("train", str(photos), "--out", str(out), "--steps", "3", "--resume") == 0, pconv.err
    assert "from step 2" in pconv.err
    assert pconv("weights", "info", str(out)) == 0
    assert json.loads(pconv.out)["training"]["size"] == 64, "the options of the beginning hold"
    assert pconv("train", str(photos), "--out", str(out), "--resume") == 2
    assert "has trained for 3 steps" in pconv.error_lines[0]
    work.pair("b.png")
    assert pconv.restore("--weights", f"{out}.checkpoint") == 4
    assert "is the checkpoint of a training" in pconv.error_lines[0]
    work.pair("a.png")
    assert pconv.restore("--weights", str(out)) == 0, pconv.err


def test_train_starts_from_weights_by_name_or_file_and_by_the_clock(work: Workplace, pconv: Pconv) -> None:
    out = work.root / "w.safetensors"
    photos = photographs(work.root / "photos")
    arguments = ["train", str(photos), "--out", str(out), "--from", "photo-3", "--minutes", "0.01"]
    assert pconv(*arguments, "--progress", "json", *briefly()) == 0, pconv.err
    events = [json.loads(line) for line in pconv.err.splitlines()]
    assert events[0]["event"] == "train_started" and events[0]["steps"] is None
    assert [event["event"] for event in events[-2:]] == ["validated", "train_finished"] and events[-3]["progress"] == 1
    assert pconv("weights", "info", str(out)) == 0
    assert json.loads(pconv.out)["training"]["start_from"] == "photo-3"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--steps", "2", "--minutes", "1"], 2, "give one of them"),
        (["--recipe", "best"], 2, "choose default or paper"),
        (["--network", "huge"], 2, "there are deep, compact, paper"),
        (["--network", "deep", "--from", "photo-3"], 2, "give one of them"),
        (["--from", "nowhere"], 4, "neither a weights file nor a name"),
        (["--masks", "nowhere"], 2, "not a folder of masks"),
        (["--resume"], 2, "no checkpoint to resume from"),
        (["--resume", "--from", "photo-3"], 2, "no checkpoint to resume from"),
        (["--out", "."], 2, "name a file that ends in .safetensors"),
        (["--out", "w.pt"], 2, "name a file that ends in .safetensors"),
    ],
)
def test_train_refuses_what_makes_no_sense_in_one_line(
    work: Workplace, pconv: Pconv, options: list[str], code: int, words: str
) -> None:
    photos = photographs(work.root / "photos")
    before = sorted(work.root.rglob("*"))
    assert pconv("train", str(photos), "--out", str(work.root / "w.safetensors"), *briefly(*options)) == code
    assert len(pconv.error_lines) == 1 and words in pconv.error_lines[0]
    assert sorted(work.root.rglob("*")) == before


@pytest.mark.usefixtures("small_networks")
def test_ctrl_c_while_training_saves_and_ends_with_130(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pconv_cli.training import loop

    step = loop._step

    def pressed(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", pressed)
    out = work.root / "w.safetensors"
    photos = photographs(work.root / "photos")
    assert pconv("train", str(photos), "--out", str(out), "--steps", "5", *briefly()) == 130
    assert "step 1: " in pconv.err and f"stopped and saved {out} at step 1; the same command with --resume" in pconv.err
    monkeypatch.setattr(loop, "_step", step)
    assert pconv("train", str(photos), "--out", str(out), "--steps", "2", "--resume", *briefly()) == 0, pconv.err


@pytest.mark.usefixtures("small_networks")
def test_the_same_command_with_resume_goes_on_and_keeps_its_options(work: Workplace, pconv: Pconv) -> None:
    from pconv_cli.training.loop import settings_of

    photos = photographs(work.root / "photos")
    marks = photos / "masks"
    marks.mkdir()
    half = np.zeros((70, 80), np.uint8)
    half[:35] = 255
    Image.fromarray(half).save(marks / "m.png")
    (start, out), network = (work.root / f"{name}.safetensors" for name in "vw"), ["--network", "compact"]
    short = ["--size", "64", "--batch-size", "2", "--perceptual", "none", "--held-out", "1"]
    assert pconv("train", str(photos), "--out", str(start), "--steps", "1", *network, *short) == 0, pconv.err
    begun = ["train", str(photos), "--out", str(out), "--from", str(start), "--recipe", "paper", *short]
    begun += ["--masks", str(marks), "--precision", "bf16", "--device", "cpu", "--overwrite"]
    assert pconv(*begun, "--steps", "1") == 0, pconv.err
    kept = settings_of(out)
    assert (kept.masks, kept.precision, kept.device, kept.compiled) == (str(marks), "bf16", "cpu", False)
    assert pconv(*begun, "--steps", "2", "--resume") == 0, pconv.err
    assert "from step 1, on cpu in bf16" in pconv.err and "--recipe" not in pconv.err
    assert pconv("train", str(photos), "--out", str(out), "--steps", "3", "--resume") == 0, pconv.err
    assert "from step 2, on cpu in bf16" in pconv.err
    assert settings_of(out) == replace(kept, steps=3)
    for options, words in (
        (["--recipe", "default"], f"--recipe default: {out} began with another; leave out --recipe"),
        (["--from", "photo-3"], f"--from photo-3: {out} began from {start}; leave out --from"),
    ):
        assert pconv("train", str(photos), "--out", str(out), "--steps", "4", "--resume", *options) == 2
        assert len(pconv.error_lines) == 1 and words in pconv.error_lines[0]
    again = ["train", str(photos), "--out", str(start), "--steps", "2", "--resume", "--from", "photo-3"]
    assert pconv(*again) == 2 and f"{start} began with nothing" in pconv.error_lines[0]
    shutil.rmtree(marks)
    assert pconv("train", str(photos), "--out", str(out), "--steps", "4", "--resume") == 2
    assert pconv.error_lines[0].endswith(f"{marks}: not a folder of masks; say with --masks where they are")


def test_an_option_of_the_beginning_holds_until_it_is_given_anew(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pconv_cli.training import loop

    begun = loop.TrainSettings(
        compiled=True, device="cuda:1", precision="fp16", masks="m", start_from="photo-3", minutes=5.0, second_rate=1e-4
    )
    found: list[loop.TrainSettings] = []
    monkeypatch.setattr(loop, "settings_of", lambda out: begun)
    monkeypatch.setattr(loop, "train", lambda photos, out, settings, *rest, **options: found.append(settings))
    line = ["train", str(work.pictures), "--out", str(work.root / "w.safetensors"), "--resume"]
    for options in ([], ["--from", "photo-3", "--recipe", "default"], ["--device", "cpu", "--precision", "fp32"]):
        assert pconv(*line, *options) == 0, pconv.err
    assert found == [begun, begun, replace(begun, device="cpu", precision="fp32")]


def test_results_that_cannot_be_written_are_no_bug(work: Workplace) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    work.pair()
    line = [sys.executable, "-m", "pconv_cli", "restore", str(work.pictures), str(work.masks), str(work.out)]
    with Path("/dev/full").open("w") as full:
        done = warm.run(
            [*line, "--weights", "none", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
    assert done.returncode == 5
    assert "standard output: cannot be written (No space left on device)" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize(("masks", "code"), [("masks", 0), ("nowhere", 2)])
def test_a_full_disk_behind_standard_error_stops_no_work(work: Workplace, masks: str, code: int) -> None:
    work.pair("a.png")
    work.pair("b.png")
    line = [sys.executable, "-m", "pconv_cli", "restore", str(work.pictures), str(work.root / masks), str(work.out)]
    with Path("/dev/full").open("w") as full:
        done = warm.run([*line, "--weights", "none"], stderr=full, timeout=PATIENCE)
    assert done.returncode == code
    assert len(list(work.root.glob("out/*.png"))) == (0 if code else 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("line", [["--help"], ["--version"], ["restore", "--help"], ["weights", "list"]])
def test_a_full_disk_behind_help_and_tables_is_no_bug(line: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "pconv_cli", *line]
        done = warm.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert done.returncode == 5
    assert done.stderr == "pconv: standard output: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("command", ["restore {} masks out", "tile {}", "tile a.png --mask a.png -o {}", "mask {} out"])
def test_2_for_a_name_that_is_too_long_for_the_disk(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shutil.copy(work.pair()[0], work.root / "a.png")
    monkeypatch.chdir(work.root)
    assert pconv(*command.format("x" * 300).split()) == 2
    assert "x" * 300 in pconv.err and ": a name too long for this disk: choose a shorter one" in pconv.err


@pytest.mark.parametrize("place", range(1, 6))
def test_2_for_an_argument_that_is_empty_for_it_would_be_the_current_folder(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    work.pair()
    monkeypatch.chdir(work.root)
    line = ["restore", "pictures", "masks", "out", "--weights", "none"]
    line[place] = "" if place < 4 else "--weights="
    before = sorted(work.root.rglob("*"))
    assert pconv(*line) == 2 and "an argument is empty" in pconv.err and "variable" in pconv.err
    assert sorted(work.root.rglob("*")) == before


def test_2_for_a_sensitivity_of_nothing(work: Workplace, pconv: Pconv) -> None:
    work.pair()
    assert pconv.restore("--sensitivity", "0.9") == 2 and "belongs to --detect" in pconv.err


def test_a_dumb_terminal_gets_lines(work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        work.pair(name)
    with terminal(monkeypatch) as screen:
        monkeypatch.setenv("TERM", "dumb")
        assert pconv.restore() == 0
    shown = text(screen[0])
    assert "[1/2] restored " in shown and "[2/2] restored " in shown


def test_an_old_console_of_windows_gets_lines(work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch) -> None:
    work.pair()
    monkeypatch.setattr("rich.console.Console.legacy_windows", True, raising=False)
    monkeypatch.setattr("rich.console.Console.__init__", lambda *_, **__: None)
    monkeypatch.setattr("rich.console.Console.is_dumb_terminal", False)
    with terminal(monkeypatch) as screen:
        assert pconv.restore() == 0
    assert "restored a.png" in text(screen[0]) and "\x1b" not in text(screen[0])


def test_a_pipe_gets_utf_8_whatever_the_system_speaks(work: Workplace) -> None:
    work.pair()
    work.picture("\u00fc\u65e5.png")  # has no mask, which is told
    line = [sys.executable, "-m", "pconv_cli", "check", str(work.pictures), str(work.masks), "--json"]
    done = warm.run(line, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, timeout=PATIENCE)
    assert done.returncode == ExitCode.USAGE and not done.stderr
    assert "\u00fc\u65e5.png" in done.stdout.decode("utf-8")


def test_what_a_stopped_run_has_not_done_says_how_to_go_on() -> None:
    assert "2 not done (the same command with --resume does them)" in str(ui.sentence(finished(not_done=2)))
    assert "1 not done (the same command with --resume does it)" in str(ui.sentence(finished(restored=2, not_done=1)))
    assert "1 not done in" in str(ui.sentence(finished(not_done=1)))  # of one picture there is nothing to go on with


def finished(**counts: int) -> RunFinished:
    named = {"restored": 0, "copied": 0, "failed": 0, "not_done": 0, "done_before": 0, "tiles": 0} | counts
    return RunFinished(*named.values(), 1.0, "out")


def test_a_table_whose_reader_has_gone_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    line = [sys.executable, "-m", "pconv_cli", "weights", "list"]
    reader, writer = os.pipe()
    os.close(reader)
    done = warm.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
