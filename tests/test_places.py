"""Places through the command: odd names, links, folders that cannot be written, full disks, and pictures too big."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm
from conftest import Workplace, box, pixels
from malformed import chunk, zeros_packed
from PIL import Image

from pconv_cli.cli import app

OPTIONS = ["--weights", "none", "--device", "cpu", "--progress", "none", "--json"]
HOLE = box(48, 40, 16, 13, 32, 26)
PATIENCE = 60


class Pconv:
    """Runs `pconv restore` in this process; `items` are those of its report, by name."""

    def __init__(self, work: Workplace, capture: pytest.CaptureFixture[str]) -> None:
        self._work, self._capture = work, capture
        self.lines: list[str] = []
        self.items: dict[str, dict[str, Any]] = {}

    def __call__(
        self, *options: str, pictures: Path | None = None, masks: Path | None = None, out: Path | None = None
    ) -> int:
        work = self._work
        places = [str(pictures or work.pictures), str(masks or work.masks), str(out or work.out)]
        self._capture.readouterr()
        code = app.run(["restore", *places, *OPTIONS, *options])
        stdout, stderr = self._capture.readouterr()
        self.lines, self.items = stderr.splitlines(), items_of(stdout)
        return code


@pytest.fixture
def pconv(work: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Pconv:
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    return Pconv(work, capsys)


def items_of(stdout: str) -> dict[str, dict[str, Any]]:
    """Items of a report by name: one JSON object a line."""
    return {found["name"]: found for found in map(json.loads, stdout.splitlines()) if found["type"] == "item"}


def files(folder: Path) -> list[str]:
    """Every file below a folder but the journal of a run."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in found if not name.startswith(".pconv") or name.endswith(".part")]


def statuses(pconv: Pconv) -> dict[str, str]:
    return {name: item["status"] for name, item in pconv.items.items()}


# ---------------------------------------------------------------- names

LONG = "n" * 251 + ".png"
NAMES = {
    "composed": unicodedata.normalize("NFC", "Käthe é.png"),
    "decomposed": unicodedata.normalize("NFD", "Käthe é.png"),
    "other scripts": "写真 фото صورة.png",
    "emoji": "👩‍👩‍👧 album.png",
    "spaces": "  a  b .png",
    "newline": "a\nb.png",
    "control": "a\x1b[31m\tb.png",
    "quotes": "it's \"a\" $HOME `b` *?[x].png",
    "option": "--overwrite.png",
    "percent": "100% {name} %s.png",
    "right to left": "a\u202egnp.exe.png",
    "no utf-8": os.fsdecode(b"caf\xe9.png"),
    "255 bytes": LONG,
    "255 bytes of letters of two": "ä" * 125 + "a.png",
    "dots": "a.b..c.png",
    "capitals": "SCAN.PNG",
}  # fmt: skip


def odd_pair(work: Workplace, name: str) -> None:
    """A picture and a mask of any name, made under an ordinary one."""
    plain, _ = work.pair("plain.png", hole=HOLE)
    try:
        plain.rename(work.pictures / name)
        (work.masks / "plain.png").rename(work.masks / name)
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error.strerror}")


@pytest.mark.parametrize("kind", NAMES)
def test_a_picture_of_any_name_is_restored_under_that_name(work: Workplace, pconv: Pconv, kind: str) -> None:
    name = NAMES[kind]
    odd_pair(work, name)
    assert pconv() == 0, pconv.lines
    assert [path.name for path in work.pictures.iterdir()] == [name] and files(work.out) == [name]
    before, after = pixels(work.pictures / name), pixels(work.out / name)
    assert np.array_equal(before[~HOLE], after[~HOLE]) and (before[HOLE] != after[HOLE]).any()


@pytest.mark.parametrize("kind", NAMES)
def test_a_picture_of_any_name_fails_in_one_line(work: Workplace, pconv: Pconv, kind: str) -> None:
    odd_pair(work, NAMES[kind])
    (work.pictures / NAMES[kind]).write_bytes(b"no picture")
    assert pconv() == 1
    assert len(pconv.lines) == 1 and pconv.lines[0].startswith("failed "), pconv.lines
    # A reader's terminal must not obey a name; joiners between letters or emoji are harmless.
    assert not {unicodedata.category(letter) for letter in pconv.lines[0]} & {"Cc", "Cs", "Zl", "Zp"}
    assert "\u202e" not in pconv.lines[0] and files(work.out) == []


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_mask_whose_accents_are_stored_otherwise_is_found(
    work: Workplace, pconv: Pconv, form: str, other: str
) -> None:
    odd_pair(work, "plain.png")
    (work.pictures / "plain.png").rename(work.pictures / unicodedata.normalize(form, "é ü.png"))
    (work.masks / "plain.png").rename(work.masks / unicodedata.normalize(other, "é ü.png"))
    assert pconv() == 0
    assert files(work.out) == [unicodedata.normalize(form, "é ü.png")]


def test_places_with_odd_names_work_as_in_mask_and_out(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    odd = work.root / "ein Ordner\nmit é"
    odd.mkdir()
    work.pictures.rename(odd / "in")
    work.masks.rename(odd / "masks")
    assert pconv(pictures=odd / "in", masks=odd / "masks", out=odd / "out") == 0
    assert files(odd / "out") == ["a.png"]


def test_a_path_of_some_thousand_bytes_is_restored(work: Workplace, pconv: Pconv) -> None:
    deep = "/".join(["d" * 200] * 15)
    work.pair(f"{deep}/a.png", hole=HOLE)
    assert pconv() == 0, pconv.lines
    assert files(work.out) == [f"{deep}/a.png"]


def test_an_output_whose_path_is_too_long_is_one_failed_item(work: Workplace, pconv: Pconv) -> None:
    deep = "/".join(["d" * 200] * 16)
    work.pair(f"{deep}/a.png", hole=HOLE)
    work.pair("b.png", hole=HOLE)
    # With these folders in front the output's path passes the 4096 bytes that Linux takes at once; the input's not.
    out = work.root / "/".join(["o" * 200] * 4)
    assert pconv(out=out) == 1, pconv.lines
    assert statuses(pconv) == {"b.png": "restored", f"{deep}/a.png": "failed"}
    assert len(pconv.lines) == 1 and (out / "b.png").is_file()


# ---------------------------------------------------------------- links


def test_pictures_masks_and_folders_behind_links_are_restored(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    store = work.root / "store"
    (store / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        shutil.copy(work.pictures / "a.png", store / name)
    (work.pictures / "a.png").unlink()
    (work.pictures / "a.png").symlink_to(store / "a.png")
    (work.pictures / "linked").symlink_to(store / "sub", target_is_directory=True)
    (work.masks / "linked").mkdir()
    (work.masks / "linked" / "b.png").symlink_to("../a.png")
    before = {name: (store / name).read_bytes() for name in files(store)}
    assert pconv() == 0, pconv.lines
    assert files(work.out) == ["a.png", "linked/b.png"]
    assert not (work.out / "a.png").is_symlink()
    assert {name: (store / name).read_bytes() for name in files(store)} == before


def test_links_in_circles_and_into_nothing_are_no_hang(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    (work.pictures / "up").symlink_to("..", target_is_directory=True)
    (work.pictures / "here").symlink_to(".", target_is_directory=True)
    (work.pictures / "self").symlink_to("self")
    (work.masks / "round").symlink_to(work.masks, target_is_directory=True)
    for name, target in {"me.png": "me.png", "ping.png": "pong.png", "pong.png": "ping.png", "gone.png": "no"}.items():
        (work.pictures / name).symlink_to(target)
        work.mask(name, HOLE)
    assert pconv() == 1
    expected = dict.fromkeys(("gone.png", "me.png", "ping.png", "pong.png"), "failed")
    assert statuses(pconv) == {"a.png": "restored"} | expected
    assert len([line for line in pconv.lines if line.startswith("failed ")]) == 4
    assert "left out" in pconv.lines[0], "the link to itself may have been anything"
    assert len(pconv.lines) == 5 and files(work.out) == ["a.png"]


def test_a_mask_that_is_a_link_to_itself_is_one_failed_item(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    work.picture("b.png")
    (work.masks / "b.png").symlink_to("b.png")
    assert pconv() == 1
    assert statuses(pconv) == {"a.png": "restored", "b.png": "failed"} and len(pconv.lines) == 1


def test_an_output_that_is_a_link_is_replaced_and_what_it_leads_to_is_not(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    other = work.root / "other.png"
    other.write_bytes(b"somebody's")
    work.out.mkdir()
    (work.out / "a.png").symlink_to(other)
    assert pconv() == 1 and statuses(pconv) == {"a.png": "failed"}
    assert pconv("--overwrite") == 0
    assert other.read_bytes() == b"somebody's" and not (work.out / "a.png").is_symlink()


# ---------------------------------------------------------------- input = output


@pytest.mark.parametrize("kind", ["the same folder", "a link to it", "the long way round", "the masks"])
@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_results_on_top_of_pictures_or_masks_are_refused_before_anything_is_touched(
    work: Workplace, pconv: Pconv, kind: str, options: tuple[str, ...]
) -> None:
    work.pair("a.png", hole=HOLE)
    work.pair("b.png", hole=HOLE)
    link = work.root / "link"
    link.symlink_to(work.pictures, target_is_directory=True)
    out = {
        "the same folder": work.pictures, "a link to it": link,
        "the long way round": work.pictures / ".." / work.pictures.name, "the masks": work.masks,
    }[kind]  # fmt: skip
    before = {path: path.read_bytes() for path in work.root.rglob("*") if path.is_file()}
    assert pconv(*options, out=out) == 2
    assert len(pconv.lines) == 1 and pconv.items == {}
    assert {path: path.read_bytes() for path in work.root.rglob("*") if path.is_file()} == before


def test_an_output_that_is_another_name_of_its_picture_leaves_the_picture_alone(work: Workplace, pconv: Pconv) -> None:
    picture, _ = work.pair("a.png", hole=HOLE)
    before = picture.read_bytes()
    work.out.mkdir()
    os.link(picture, work.out / "a.png")
    assert pconv("--overwrite") in (1, 2)
    assert len(pconv.lines) == 1 and picture.read_bytes() == before


# ---------------------------------------------------------------- places that cannot be written


@pytest.mark.parametrize("kind", ["a file", "below a file", "below a link to nowhere", "a device"])
def test_an_out_that_cannot_be_a_folder_ends_the_run_in_one_line(work: Workplace, pconv: Pconv, kind: str) -> None:
    work.pair("a.png", hole=HOLE)
    file = work.root / "file"
    file.write_bytes(b"somebody's")
    (work.root / "link").symlink_to(work.root / "nowhere" / "at all")
    out = {
        "a file": file, "below a file": file / "out", "below a link to nowhere": work.root / "link",
        "a device": Path(os.devnull),
    }  # fmt: skip
    assert pconv(out=out[kind]) in (2, 5)
    assert len(pconv.lines) == 1 and str(out[kind]) in pconv.lines[0], pconv.lines
    assert file.read_bytes() == b"somebody's"


def test_a_subfolder_that_cannot_be_made_is_one_failed_item(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    work.pair("sub/b.png", hole=HOLE)
    work.out.mkdir()
    (work.out / "sub").write_bytes(b"somebody's")
    assert pconv("--overwrite") == 1
    assert statuses(pconv) == {"a.png": "restored", "sub/b.png": "failed"} and len(pconv.lines) == 1


def test_an_output_name_that_a_folder_has_is_one_failed_item(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    work.pair("b.png", hole=HOLE)
    (work.out / "b.png").mkdir(parents=True)
    assert pconv("--overwrite") == 1
    assert statuses(pconv) == {"a.png": "restored", "b.png": "failed"} and len(pconv.lines) == 1
    assert files(work.out) == ["a.png"]


MOUNTED = """
import ctypes, os, runpy, subprocess, sys
script, listing, out, *sys.argv = sys.argv[1:]
user, group = os.getuid(), os.getgid()
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
    raise OSError(ctypes.get_errno(), "unshare")
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
subprocess.run(["sh", "-ec", "mount --make-rprivate /; " + script], check=True)
try:
    runpy.run_module("pconv_cli", run_name="__main__", alter_sys=True)
finally:
    with open(listing, "w") as file:
        for folder, _, names in os.walk(out):
            file.writelines(os.path.join(folder, name) + "\\n" for name in names)
"""
"""Runs `pconv` in a world of its own, root there, after a script that mounts something; lists what is in OUT then."""


@cache
def own_mounts() -> str:
    """Why no file system can be mounted here for one process; empty where it can."""
    if shutil.which("unshare") is None:
        return "no unshare here"
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return f"no mounts of one's own here: {done.stderr.strip()}" if done.returncode else ""


def mounted(work: Workplace, script: str) -> tuple[int, list[str], dict[str, dict[str, Any]], list[str]]:
    """Run `pconv` after a shell script that mounts on `$OUT`; exit code, stderr, items, and what is in OUT then."""
    if why := own_mounts():
        pytest.skip(why)
    work.out.mkdir(exist_ok=True)
    listing = work.root / "listing"
    command = [sys.executable, "-c", MOUNTED, script, str(listing), str(work.out), "pconv", "restore"]
    done = warm.run(
        [*command, str(work.pictures), str(work.masks), str(work.out), *OPTIONS],
        capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {"OUT": str(work.out)},
    )  # fmt: skip
    found = [str(Path(line).relative_to(work.out)) for line in listing.read_text().splitlines()]
    kept = sorted(name for name in found if not name.startswith(".pconv") or name.endswith(".part"))
    return done.returncode, done.stderr.splitlines(), items_of(done.stdout), kept


def test_a_folder_that_may_only_be_read_ends_the_run_with_5_in_one_line(work: Workplace) -> None:
    work.pair("a.png", hole=HOLE)
    code, lines, items, kept = mounted(work, 'mount -t tmpfs -o ro none "$OUT"')
    assert (code, items, kept) == (5, {}, []) and len(lines) == 1, lines
    assert str(work.out) in lines[0]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_ends_the_run_with_5_in_one_line(work: Workplace, pconv: Pconv) -> None:
    work.pair("a.png", hole=HOLE)
    work.out.mkdir(mode=0o555)
    assert pconv() == 5
    assert len(pconv.lines) == 1 and str(work.out) in pconv.lines[0]


def test_a_disk_that_becomes_full_fails_what_does_not_fit_and_leaves_nothing_half_written(work: Workplace) -> None:
    work.pair("a.png", hole=HOLE)
    work.pair("b.bmp", size=(600, 600))
    work.pair("c.png", hole=HOLE)
    code, lines, items, kept = mounted(work, 'mount -t tmpfs -o size=128k none "$OUT"')
    assert code == 1, lines
    assert {name: item["status"] for name, item in items.items()} == {
        "a.png": "restored", "b.bmp": "failed", "c.png": "restored",
    }  # fmt: skip
    assert len(lines) == 1 and "No space left" in lines[0] and kept == ["a.png", "c.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_every_format_says_it_in_one_line_when_the_disk_is_full(work: Workplace, suffix: str) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (400, 400, 3), np.uint8)).save(work.pictures / f"a{suffix}")
    work.mask("a.png", box(400, 400, 50, 50, 100, 100))
    code, lines, items, kept = mounted(work, 'mount -t tmpfs -o size=16k none "$OUT"')
    assert code == 1 and kept == [] and len(lines) == 1, lines
    assert "No space left" in items[f"a{suffix}"]["reason"]


def test_a_disk_without_room_for_a_single_name_ends_in_one_line(work: Workplace) -> None:
    work.pair("a.png", hole=HOLE)
    code, lines, _, kept = mounted(work, 'mount -t tmpfs -o nr_inodes=1 none "$OUT"')
    assert code in (1, 5) and len(lines) == 1 and kept == [], lines


# ---------------------------------------------------------------- bombs


def png_of_zeros(width: int, height: int) -> bytes:
    """A grey PNG, black all over, in order whatever its size."""
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    packed = chunk(b"IDAT", zeros_packed((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + head + packed + chunk(b"IEND", b"")


@pytest.mark.parametrize("where", ["picture", "mask"])
def test_a_bomb_is_refused_by_a_limit_that_its_line_names(work: Workplace, pconv: Pconv, where: str) -> None:
    work.pair("a.png", hole=HOLE)
    path, _ = work.pair("b.png", hole=HOLE)
    bomb = path if where == "picture" else work.masks / "b.png"
    bomb.write_bytes(png_of_zeros(40_000, 40_000))
    assert pconv() == 1
    assert statuses(pconv) == {"a.png": "restored", "b.png": "failed"}
    assert pconv.items["b.png"]["path"] == str(bomb)
    reason = pconv.items["b.png"]["reason"]
    assert "40000 x 40000" in reason and "1000" in reason and "--max-megapixels" in reason


def test_the_limit_is_the_one_that_is_asked_for_and_0_lifts_it(work: Workplace, pconv: Pconv) -> None:
    work.pictures.joinpath("a.png").write_bytes(png_of_zeros(1500, 1000))
    work.mask("a.png", box(1500, 1000, 5, 5, 20, 20))
    assert pconv("--max-megapixels", "1") == 1
    assert "1500 x 1000" in pconv.items["a.png"]["reason"] and "--max-megapixels" in pconv.items["a.png"]["reason"]
    assert pconv("--max-megapixels", "0") == 0
    assert pconv("--max-megapixels", "2", "--overwrite") == 0


def test_an_honest_scan_of_100_megapixels_is_no_bomb(work: Workplace, pconv: Pconv) -> None:
    # Packed as tight as an empty film: neither its size nor how tight it is packed makes it an attack.
    work.pictures.joinpath("a.png").write_bytes(png_of_zeros(10_000, 10_000))
    hole = np.zeros((10_000, 10_000), np.bool_)
    hole[5000:5010, 5000:5010] = True
    Image.fromarray(hole).save(work.masks / "a.png")
    assert pconv("--format", "bmp") == 0, pconv.lines
    assert statuses(pconv) == {"a.png": "restored"} and pconv.items["a.png"]["width"] == 10_000
