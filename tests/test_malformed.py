"""Malformed pictures and masks through the command: a sample of what `benchmarks/fuzz.py` runs in full.

One run over all of them, in a process of its own so that a crash is seen; the tests look at different sides of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm
from conftest import Workplace, box, texture
from malformed import Malformed, changed_outside, malformed

WIDTH, HEIGHT = 48, 40
HOLE = box(WIDTH, HEIGHT, 18, 14, 30, 26)  # the same from all sides: some pictures are turned
OF_A_KIND = 8
PATIENCE = 120
"""Seconds after which the process has hung."""


@dataclass(frozen=True)
class Run:
    """What one run over everything has left."""

    work: Workplace
    code: int
    lines: list[str]
    items: dict[str, dict[str, Any]]
    kinds: dict[str, str]
    before: dict[str, bytes]


def sample(cases: list[Malformed], of_a_kind: int) -> list[Malformed]:
    """So many of each kind, spread over all of the kind."""
    kinds = sorted({case.kind for case in cases})
    found = {kind: [case for case in cases if case.kind == kind] for kind in kinds}
    return [case for some in found.values() for case in some[:: -(-len(some) // of_a_kind)]]


def items_of(stdout: str) -> dict[str, dict[str, Any]]:
    """Items of a report by name: one JSON object a line."""
    return {found["name"]: found for found in map(json.loads, stdout.splitlines()) if found["type"] == "item"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restore(work: Workplace, pictures: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pconv_cli", "restore", str(pictures), str(work.masks), str(out)]
    options = ["--weights", "none", "--device", "cpu", "--progress", "none", "--json"]
    return warm.run(
        [*command, *options], capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    work = Workplace(tmp_path_factory.mktemp("malformed"))
    work.pictures.mkdir()
    work.masks.mkdir()
    kinds = {}
    for case in sample(list(malformed(texture(WIDTH, HEIGHT))), OF_A_KIND):
        work.pictures.joinpath(case.name).write_bytes(case.data)
        work.mask(f"{Path(case.name).stem}.png", HOLE)
        kinds[case.name] = case.kind
    white = np.repeat(np.where(HOLE, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    for case in sample(list(malformed(white, seed=1)), 2):
        work.masks.joinpath(f"mask-{case.name}").write_bytes(case.data)
        name = work.picture(f"mask-{Path(case.name).stem}.png").name
        kinds[name] = f"mask {case.kind}"
    work.masks.joinpath("folder.png").mkdir()
    kinds[work.picture("folder.png").name] = "mask folder"
    for i, suffix in enumerate((".png", ".jpg", ".webp", ".bmp", ".tif")):
        name = f"{100 * i:04}-good{suffix}"
        work.pair(name, hole=HOLE)
        (work.root / "good").mkdir(exist_ok=True)
        (work.root / "good" / name).write_bytes((work.pictures / name).read_bytes())
    before = contents(work.pictures) | contents(work.masks)
    done = restore(work, work.pictures, work.out)
    return Run(work, done.returncode, done.stderr.splitlines(), items_of(done.stdout), kinds, before)


def failed(ran: Run) -> dict[str, dict[str, Any]]:
    return {name: item for name, item in ran.items.items() if item["status"] == "failed"}


def test_the_sample_has_all_kinds_and_is_the_same_for_the_same_seed() -> None:
    first, again = list(malformed(texture(WIDTH, HEIGHT))), list(malformed(texture(WIDTH, HEIGHT)))
    assert first == again
    assert len({Path(case.name).stem for case in first}) == len(first) >= 500
    kinds = ["bomb", "cut", "empty", "flip", "header", "icc", "metadata", "structure", "suffix", "text", "unusual"]
    assert sorted({case.kind for case in sample(first, 1)}) == kinds


def test_malformed_files_end_a_run_with_1_and_no_trace_of_a_bug(ran: Run) -> None:
    assert ran.code == 1, ran.lines[-1:]
    assert not [line for line in ran.lines if "Traceback" in line or "this is a bug" in line]


def test_every_picture_is_accounted_for(ran: Run) -> None:
    assert set(ran.items) == {path.name for path in ran.work.pictures.iterdir()}
    assert {item["status"] for item in ran.items.values()} <= {"restored", "copied", "failed"}


def test_every_failure_is_one_line_that_names_the_file_and_the_reason(ran: Run) -> None:
    told = Counter(re.split(r": | \(", line)[0] for line in ran.lines if line.startswith("failed "))
    assert told == Counter(f"failed {name}" for name in failed(ran))
    for item in failed(ran).values():
        assert item["reason"].strip() and len(item["reason"].splitlines()) == 1, item
        assert item["path"] in (item["image"], item["mask"], item["output"]), item


@pytest.mark.parametrize("kind", ["empty", "text", "bomb", "mask empty", "mask text", "mask bomb", "mask folder"])
def test_what_cannot_be_a_picture_is_never_restored(ran: Run, kind: str) -> None:
    names = [name for name in ran.kinds if ran.kinds[name] == kind]
    assert names and set(names) <= set(failed(ran))


def test_what_is_restored_of_a_malformed_picture_differs_only_inside_the_mask(ran: Run) -> None:
    names = [name for name in ran.kinds if ran.items[name]["status"] != "failed" and "mask" not in ran.kinds[name]]
    assert names
    amiss = {name: changed_outside(ran.work.pictures / name, ran.work.out / name, HOLE) for name in names}
    assert not {name: wrong for name, wrong in amiss.items() if wrong}


def test_good_pictures_come_out_as_they_do_without_bad_company(ran: Run) -> None:
    alone = ran.work.root / "alone"
    assert restore(ran.work, ran.work.root / "good", alone).returncode == 0
    for name, data in contents(alone).items():
        if not name.startswith(".pconv"):
            assert (ran.work.out / name).read_bytes() == data, name


def test_malformed_files_leave_nothing_half_written_and_are_not_touched(ran: Run) -> None:
    finished = {name for name, item in ran.items.items() if item["status"] != "failed"}
    written = {name for name in contents(ran.work.out) if not name.startswith(".pconv") or name.endswith(".part")}
    assert written == finished
    assert contents(ran.work.pictures) | contents(ran.work.masks) == ran.before
