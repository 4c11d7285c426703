"""`tile --resume`: what was stopped and gone on with, wherever and however often, is byte for byte the same in the end.

Most tests run the use case in this process, with a small network of both parts: rounds of a guide, the plan's windows,
healing.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm
from conftest import box, pressing_ctrl_c, texture
from numpy.typing import NDArray
from test_raw import network as raw_network
from test_tile import LARGE, PAINT, PATIENCE, Place, names, save, save_mask

from pconv_cli import engine, files, keeping, sharing
from pconv_cli import tile as use_case
from pconv_cli import weights as store
from pconv_cli.cli.app import main
from pconv_cli.events import Event, ItemFailed, Notice, RunFinished, TilesDone
from pconv_cli.keeping import Key
from pconv_cli.report import ItemReport
from pconv_cli.settings import Settings
from pconv_cli.tile import tile

WIDTH, HEIGHT = 300, 40  # so long that a guide of it has rounds of its own
HOLE = box(WIDTH, HEIGHT, 6, 10, 294, 32)
KINDS = ("colours", "overlapping", "layers", "see-through", "raw", "out of reach")
ALIKE = ("status", "tiles", "windows", "crossings", "pixels_computed", "seam_ratio", "by_pyramid", "unfilled", "space")


@dataclass
class Run:
    """What came of one run: what it has told, which results it has kept, which it has found."""

    item: ItemReport
    events: list[Event]
    kept: list[Key] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]

    def note(self, words: str) -> str:
        (one,) = (note for note in self.notes if words in note)
        return one

    def tiles(self, *, done_before: bool) -> int:
        done = [event for event in self.events if isinstance(event, TilesDone)]
        return sum(event.tiles for event in done if event.done_before == done_before)


class Job:
    """A damaged picture with its mask, to be restored again and again."""

    def __init__(self, root: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.big, self.mask, self.output = root, root / "big.tif", root / "m.png", root / "out.tif"
        self.settings: dict[str, Any] = {"weights": str(weights), "tile_size": 32, "jobs": 1, "batch_size": 1}
        self._keys: list[Key] = []
        add = keeping.Kept.add

        def spy(kept: keeping.Kept, key: Key, content: bytes) -> None:
            add(kept, key, content)
            self._keys.append(key)

        monkeypatch.setattr(keeping.Kept, "add", spy)

    @property
    def kept(self) -> Path:
        return files.kept(self.output)

    def fill_in(self, kind: str = "colours") -> None:
        pixels, hole = texture(WIDTH, HEIGHT), HOLE.copy()
        if kind == "overlapping":
            self.settings |= {"overlap": 8}
        elif kind == "layers":
            pixels = texture(WIDTH, HEIGHT, 2).astype(np.uint16) * 257
        elif kind == "see-through":  # beside the damage, too
            pixels = np.dstack([pixels, np.where(box(WIDTH, HEIGHT, 0, 0, 90, 12), 0, 255).astype(np.uint8)])
        elif kind == "raw":
            self.settings |= {"weights": str(self.root / "raw.safetensors"), "tile_size": 64}
            net = raw_network()
            store.write(self.root / "raw.safetensors", net, net.state_dict(), {}, half=False)
        elif kind == "out of reach":  # of a network that takes no guide
            self.settings |= {"weights": str(self.root / "raw.safetensors"), "tile_size": 48}
            net = raw_network(3, values="unit")
            store.write(self.root / "raw.safetensors", net, net.state_dict(), {}, half=False)
        if kind == "raw":
            values = np.where(hole[..., None], np.nan, pixels[..., :1] * 1.5).astype(np.float32)
            save(self.big, values, tiled=True, blockxsize=64, blockysize=64)
            return
        pixels[hole] = PAINT
        alpha = {"ALPHA": "NON-PREMULTIPLIED"} if kind == "see-through" else {}
        save(self.big, pixels, tiled=True, blockxsize=64, blockysize=64, compress="deflate", **alpha)
        save_mask(self.mask, hole)

    def __call__(
        self, stop: Callable[[], bool] = lambda: False, *, resume: bool = False, after: int | None = None, **more: Any
    ) -> Run:
        """Restore; with `after`, a stop is asked for once so many tiles are computed."""
        events: list[Event] = []
        computed = 0

        def listen(event: Event) -> None:
            nonlocal computed
            events.append(event)
            computed += event.tiles if isinstance(event, TilesDone) and not event.done_before else 0

        settings = Settings(**{"device": "cpu", "precision": "fp32", **self.settings, **more})
        mask = self.mask if self.mask.exists() else None
        self._keys = keys = []
        report = tile(
            self.big, mask, self.output, settings, listen,
            lambda: stop() or (after is not None and computed >= after), resume=resume,
        )  # fmt: skip
        return Run(report.items[0], events, keys)

    def whole(self, **more: Any) -> tuple[bytes, list[Any], list[Key]]:
        """What comes of it without a stop: the file, figures, and the results of all rounds; nothing is left."""
        run = self(**more)
        assert run.item.status == "restored", run.item.reason
        made, figures = self.output.read_bytes(), [getattr(run.item, name) for name in ALIKE]
        self.output.unlink()
        assert not self.kept.exists()
        return made, figures, run.kept

    def same(self, run: Run, whole: tuple[bytes, list[Any], list[Key]]) -> None:
        """Make sure that a run has ended as one without a stop has, and left nothing."""
        assert [getattr(run.item, name) for name in ALIKE] == whole[1], run.item.reason
        assert self.output.read_bytes() == whole[0]
        assert not [name for name in names(self.root) if name.endswith(".part")]


@pytest.fixture
def job(tmp_path: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(tmp_path, small_weights, monkeypatch)


def rounds(keys: list[Key]) -> list[int]:
    """How many results each round has, layer by layer."""
    counts: dict[tuple[int, int], int] = {}
    for layer, number, _ in keys:
        counts[layer, number] = counts.get((layer, number), 0) + 1
    return list(counts.values())


# ---------------------------------------------------------------- stopped, and gone on with


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_in_any_round_and_gone_on_with_gives_the_same_bytes_and_figures(job: Job, kind: str) -> None:
    job.fill_in(kind)
    whole = job.whole()
    counts = rounds(whole[2])
    assert len(counts) >= {"layers": 8, "raw": 2, "out of reach": 2}.get(kind, 4), "there are rounds to stop in"
    assert (whole[1][6] > 0) == (kind == "out of reach") and (whole[1][7] > 0) == (kind == "raw")
    reached: set[tuple[int, int]] = set()
    for number, count in enumerate(counts):  # in the middle of each
        after = sum(counts[:number]) + (count + 1) // 2
        stopped = job(after=after)
        assert stopped.item.status == "not_done" and not job.output.exists()
        assert after <= len(stopped.kept) <= len(whole[2])
        reached.add(stopped.kept[-1][:2])
        went_on = job(resume=True)
        job.same(went_on, whole)
        assert went_on.tiles(done_before=True) == len(stopped.kept)
        assert sorted(stopped.kept + went_on.kept) == sorted(whole[2]), "each window is computed once"
        last = went_on.events[-1]
        assert isinstance(last, RunFinished) and last.tiles == len(went_on.kept), "the rate is this run's own"
        job.output.unlink()
    assert len(reached) > len(counts) // 2


def test_stopped_again_and_again_it_comes_to_the_same_end(job: Job) -> None:
    job.fill_in()
    whole = job.whole()
    for step in range(len(whole[2])):
        run = job(after=4, resume=True)
        if run.item.status == "restored":
            break
        assert len(run.kept) >= 4, f"stop {step} has not got any further"
    assert step >= 3
    job.same(run, whole)


@pytest.mark.parametrize("how", [{"jobs": 2}, {"batch_size": 4}, {"overwrite": True, "provenance": True}])
def test_what_decides_no_fill_may_be_another_when_it_goes_on(job: Job, how: dict[str, Any]) -> None:
    job.fill_in()
    made = job.whole(**{name: value for name, value in how.items() if name != "provenance"})[0]
    stopped = job(after=12)
    went_on = job(resume=True, **how)
    assert went_on.tiles(done_before=True) == len(stopped.kept) and went_on.item.status == "restored"
    assert "provenance" in how or job.output.read_bytes() == made


def test_what_is_laid_and_not_computed_is_never_given_to_the_network(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.fill_in()
    whole = job.whole()
    stopped = job(lambda: len(job._keys) >= len(whole[2]))
    assert stopped.item.status == "not_done"
    monkeypatch.setattr(engine.Engine, "fill", lambda *_: pytest.fail("computed"))
    job.same(job(resume=True), whole)


# ---------------------------------------------------------------- what has happened to the file


@pytest.mark.parametrize("cut", [1, 200, 5000])
def test_results_that_a_kill_has_torn_are_computed_again(job: Job, cut: int) -> None:
    job.fill_in()
    whole = job.whole()
    stopped = job(after=15)
    with job.kept.open("r+b") as file:
        file.truncate(job.kept.stat().st_size - cut)
    went_on = job(resume=True)
    assert 0 < went_on.tiles(done_before=True) < len(stopped.kept)
    job.same(went_on, whole)


def test_a_result_that_has_rotted_in_the_middle_is_computed_again(job: Job) -> None:
    job.fill_in()
    whole = job.whole()
    stopped = job(after=15)
    data = bytearray(job.kept.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\x00"
    job.kept.write_bytes(data)
    went_on = job(resume=True)
    job.same(went_on, whole)
    assert went_on.tiles(done_before=True) == len(stopped.kept) - 1, "the test itself should hit the content of one"


def test_what_is_done_costs_no_disk_after_it(job: Job) -> None:
    job.fill_in()
    assert job().item.status == "restored" and names(job.root) == ["big.tif", "m.png", "out.tif"]


# ---------------------------------------------------------------- what is not as it was


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def another_mask(job: Job) -> None:
    save_mask(job.mask, HOLE | box(WIDTH, HEIGHT, 0, 0, 9, 9))


@pytest.mark.parametrize(
    ("says", "change", "how"),
    [
        ("the mask", another_mask, {}),
        ("the mask", lambda job: touched(job.mask), {}),
        ("the picture", lambda job: touched(job.big), {}),
        ("--size", None, {"tile_size": 48}),
        ("--dilate", None, {"dilate": 1}),
        ("--overlap", None, {"overlap": 8}),
        ("--padding", None, {"padding": "reflect"}),
        ("--invert-mask", None, {"invert_mask": True}),
        ("--linear", None, {"linear": True}),
        ("the precision", None, {"precision": "bf16"}),
        ("the weights", None, {"weights": "none"}),
    ],
)
def test_where_anything_that_decides_fills_has_changed_it_begins_anew_and_says_what(
    job: Job, says: str, change: Callable[[Job], None] | None, how: dict[str, Any]
) -> None:
    job.fill_in()
    assert job(after=12).item.status == "not_done"
    if change is not None:
        change(job)
    run = job(resume=True, **how)
    assert run.note("begins anew").endswith(f"since this is not as it was in the stopped run: {says}")
    assert run.item.status == "restored" and run.tiles(done_before=False) == run.item.tiles
    made = job.output.read_bytes()
    job.output.unlink()
    assert made == job.whole(**how)[0]


def test_another_version_of_pconv_begins_anew(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.fill_in()
    job(after=12)
    monkeypatch.setattr(use_case, "__version__", "0.0.0")
    assert job(resume=True).note("begins anew").endswith(": the version of pconv")


def test_a_picture_that_is_replaced_while_it_is_read_is_not_gone_on_with(job: Job) -> None:
    """What was kept is of the state that was opened: the run fails, and the next one begins anew."""
    job.fill_in()
    whole = job.whole()
    seen = 0

    def replaced() -> bool:
        nonlocal seen
        seen += 1
        if seen == 5:
            touched(job.big)
        return False

    failed = job(replaced)
    assert failed.item.status == "failed" and "changed" in str(failed.item.reason) and job.kept.exists()
    went_on = job(resume=True)
    assert went_on.note("begins anew").endswith(": the picture")
    job.same(went_on, whole)


def test_without_resume_it_begins_anew_and_says_what_that_costs(job: Job) -> None:
    job.fill_in()
    job(after=12)
    size = files.amount(job.kept.stat().st_size)
    run = job()
    assert f"begins anew: {size} of a stopped run are gone, which --resume goes on from" in run.note("begins anew")
    assert run.item.status == "restored" and run.tiles(done_before=True) == 0 and not job.kept.exists()


def test_where_there_is_nothing_to_go_on_from_it_says_so_and_begins(job: Job) -> None:
    job.fill_in()
    run = job(resume=True)
    assert run.item.status == "restored" and run.note("no stopped run has left anything to go on from")


# ---------------------------------------------------------------- ends


def test_the_last_note_of_a_stopped_run_says_how_to_go_on_and_how_large_that_is(job: Job) -> None:
    job.fill_in()
    run = job(after=12)
    size = files.amount(job.kept.stat().st_size)
    said = (
        f"{len(run.kept)} tiles are kept beside it ({size} in {job.kept.name}): the same command with --resume goes on"
    )
    assert said in run.notes[-1] and isinstance(run.events[-1], RunFinished)


def test_a_stop_before_the_first_tile_leaves_nothing(job: Job) -> None:
    job.fill_in()
    run = job(lambda: True)
    assert run.item.status == "not_done" and names(job.root) == ["big.tif", "m.png"] and not run.notes


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_that_fails_at_its_end_is_gone_on_with_from_there(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.fill_in()
    whole = job.whole()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        failed = job()
    assert failed.item.status == "failed" and "No space left" in str(failed.item.reason)
    assert [type(event) for event in failed.events[-3:]] == [Notice, ItemFailed, RunFinished]
    went_on = job(resume=True)
    assert went_on.tiles(done_before=False) == 0
    job.same(went_on, whole)


def test_a_disk_with_no_room_to_keep_results_does_not_cost_the_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor may what is kept take the room that the output needs."""
    job.fill_in()
    whole = job.whole()
    usage = shutil.disk_usage(job.root)
    monkeypatch.setattr(use_case.Canvas, "room", lambda *_: 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=18_000))
    run = job()
    assert run.item.status == "restored" and "No space left" in run.note("is not kept for --resume")
    assert job.output.read_bytes() == whole[0] and not job.kept.exists()
    job.output.unlink()
    stopped = job(after=15)
    assert 0 < job.kept.stat().st_size < 8_500, "the first record is not counted"
    went_on = job(resume=True)
    assert 0 < went_on.tiles(done_before=True) < stopped.item.tiles, "what had room is gone on from"
    job.same(went_on, whole)


def test_a_place_where_nothing_can_be_kept_does_not_cost_the_run(job: Job) -> None:
    job.fill_in()
    whole = job.whole()
    job.kept.mkdir()
    run = job()
    assert run.item.status == "restored" and run.note("is not kept for --resume")
    assert job.output.read_bytes() == whole[0]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_runs_at_once_of_one_output_are_one_too_many(job: Job) -> None:
    job.fill_in()
    inner: list[Run] = []

    def begin() -> bool:
        if job.kept.exists() and not inner and job._keys:
            inner.append(job(resume=True))
        return bool(inner)

    outer = job(begin)
    assert inner[0].item.status == "failed" and "another run is at work on it" in str(inner[0].item.reason)
    assert outer.item.status == "not_done" and job.kept.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="other rights there")
def test_what_is_kept_can_be_read_by_nobody_who_may_not_read_the_picture(job: Job) -> None:
    job.fill_in()
    job.big.chmod(0o600)
    job(after=12)
    assert job.kept.stat().st_mode & 0o777 == 0o600


def test_a_picture_without_damage_by_now_leaves_nothing_of_a_stopped_run(job: Job) -> None:
    job.fill_in()
    job(after=12)
    save_mask(job.mask, np.zeros_like(HOLE))
    assert job(resume=True).item.status == "copied" and not job.kept.exists()


# ---------------------------------------------------------------- packed


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_results_are_packed_to_the_bit(dtype: str, count: int) -> None:
    values: NDArray[Any] = (np.random.default_rng(0).random((count, 3)) * 255).astype(dtype)
    if dtype != "uint8" and count:
        values[0] = np.nan
    reached = np.packbits(np.arange(count) % 3 > 0).tobytes()
    found = sharing.Computed.unpacked(sharing.Computed(values, reached).packed())
    assert found.values.dtype == values.dtype and found.values.tobytes() == values.tobytes()
    assert found.values.shape == values.shape and found.reached == reached


# ---------------------------------------------------------------- the command


SLOW = """
import sys, time
from pathlib import Path
from pconv_cli import engine

fill, count, here, most = engine.Engine.fill, 0, Path(sys.argv.pop(1)), int(sys.argv.pop(1))

def slow(*args):
    global count
    count += 1
    while count > most:
        here.touch()
        time.sleep(0.01)
    return fill(*args)

engine.Engine.fill = slow
from pconv_cli.cli.app import main
main()
"""
"""`pconv`, except that all its batches beyond a number never end."""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_process_that_is_killed_or_stopped_at_once_is_gone_on_with(
    job: Job, how: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    job.fill_in()
    whole = job.whole()
    line = ["tile", str(job.big), "--mask", str(job.mask), "-o", str(job.output), "--size", "32", "--jobs", "1"]
    line += ["--batch-size", "1", "--weights", str(job.settings["weights"]), "--device", "cpu", "--precision", "fp32"]
    here = job.root / "here"
    with warm.Popen([sys.executable, "-c", SLOW, str(here), "14", *line], start_new_session=True) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            while not here.exists() or not job.kept.exists() or job.kept.stat().st_size < 2000:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(how)
            if how is signal.SIGINT:
                time.sleep(0.5)
                process.send_signal(how)  # twice: what is in flight is not waited for
            assert process.wait() == code
        finally:  # by itself it never ends
            watchdog.cancel()
            process.kill()
    here.unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*line, "--resume", "--progress", "plain"])
    assert end.value.code == 0
    found = re.search(r"goes on from (\d+) tiles of a stopped run", capsys.readouterr().err)
    assert found is not None and 1 < int(found[1]) <= 14
    assert job.output.read_bytes() == whole[0]
    assert names(job.root) == ["big.tif", "m.png", "out.tif"]


def test_the_command_says_130_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, capsys)
    place.fill_in(hole=LARGE)
    assert place("--size", "32") == 0
    made = place.output.read_bytes()
    place.output.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(engine.Engine, "fill", pressing_ctrl_c(9))
        assert place("--size", "32", "--jobs", "1", "--progress", "plain") == 130
    assert "the same command with --resume goes on from there" in place.error_lines[-2]
    assert place("--size", "32", "--resume", "--json", "--progress", "plain") == 0
    assert "goes on from" in place.err and place.output.read_bytes() == made
    assert place.lines()[0]["tiles"] == place.lines()[1]["tiles"]
    assert place("--size", "32", "--resume", "--progress", "none") == 1 and "--overwrite" in place.only_line
