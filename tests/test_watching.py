"""A watched folder: what is still is taken once, restarts repeat nothing, and nothing of what was written is taken.

The clock is made of numbers: waiting makes time pass, and what is to happen meanwhile happens then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm
from conftest import Workplace, box, pixels
from PIL import Image

from pconv_cli import restore as use_case
from pconv_cli import weights as store
from pconv_cli.cli.app import run
from pconv_cli.cli.restore import exit_code
from pconv_cli.detection import Detect
from pconv_cli.errors import CHANGED, UsageError
from pconv_cli.events import Event, ItemDone, ItemFailed, ItemStarted, Notice, RunFinished, RunStarted
from pconv_cli.jobs import JobList
from pconv_cli.journal import NAME
from pconv_cli.marks import parse
from pconv_cli.report import Report
from pconv_cli.restore import RestoreSettings
from pconv_cli.watching import Arrivals, Clock, watched

PATIENCE = 60
"""Seconds after which a process that should have answered is given up."""
SETTLE = 10.0
HOLE = box(48, 40, 10, 8, 30, 25)


class Days:
    """Time as numbers, with what happens at what time; when nothing more is to happen for a while, it asks to stop."""

    def __init__(self) -> None:
        self.now, self.last, self.over = 0.0, 0.0, False
        self.plans: list[tuple[float, Callable[[], object]]] = []

    def at(self, when: float, what: Callable[[], object]) -> None:
        self.plans.append((when, what))

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        for plan in [plan for plan in self.plans if plan[0] <= self.now]:
            self.plans.remove(plan)
            plan[1]()
            self.last = self.now
        if not self.plans and self.now > self.last + 3 * SETTLE:
            self.over = True


class Watcher:
    """Watches a workplace until nothing happens any more."""

    def __init__(self, work: Workplace) -> None:
        self.work = work
        self.days = Days()
        self.events: list[Event] = []
        self.at: dict[str, float] = {}

    def listen(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ItemDone | ItemFailed):
            self.at[event.name] = self.days.now

    def __call__(self, masks: Path | None = None, **options: Any) -> Report:
        chosen = {"weights": "none", "device": "cpu", "precision": "fp32", "resume": True, **options}
        settings = RestoreSettings(**chosen)
        self.events.clear()
        self.days.over, self.days.last = False, self.days.now
        where = None if settings.mask_from or settings.detect else masks or self.work.masks
        look = watched(self.work.pictures, where, str(self.work.out), settings)
        clock = Clock(lambda: self.days.now, self.days.sleep)
        arrivals = Arrivals(look, settings, self.listen, lambda: self.days.over, SETTLE, clock)
        todo = JobList((), (), {}, self.work.out)
        return use_case.restore(todo, settings, self.listen, lambda: self.days.over, arrivals=arrivals)

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def done(self, status: str = "restored") -> list[str]:
        return [event.name for event in self.told(ItemDone) if event.status == status]


@pytest.fixture
def watcher(work: Workplace) -> Watcher:
    work.pictures.mkdir(parents=True, exist_ok=True)
    work.masks.mkdir(parents=True, exist_ok=True)
    return Watcher(work)


def bad(path: Path, content: bytes = b"no picture") -> None:
    path.write_bytes(content)


# ---------------------------------------------------------------- what is taken, and when


def test_what_arrives_is_restored_once_and_only_after_it_has_been_still_for_the_stated_time(watcher: Watcher) -> None:
    source: list[bytes] = []

    def begin() -> None:
        path, _ = watcher.work.pair("a.png")
        source.append(path.read_bytes())
        path.write_bytes(source[0][:100])

    def grow() -> None:
        (watcher.work.pictures / "a.png").write_bytes(source[0])

    watcher.days.at(20, begin)
    watcher.days.at(28, grow)  # within ten seconds: still not complete
    report = watcher()
    assert watcher.done() == ["a.png"] and not watcher.told(ItemFailed)
    assert 38 <= watcher.at["a.png"] <= 38 + SETTLE
    assert report.count("restored") == 1


def test_where_damage_is_detected_no_mask_is_waited_for(watcher: Watcher) -> None:
    kept = watcher.work.pictures / "masks"
    watcher.days.at(20, lambda: watcher.work.picture("a.png"))
    watcher(detect=Detect(("dust",)), save_masks=kept)
    assert [event.name for event in watcher.told(ItemDone)] == ["a.png"] and not watcher.told(ItemFailed)
    assert [path.name for path in kept.iterdir()] == ["a.png"]


def test_what_changes_while_it_is_restored_is_tried_again_once_it_is_still(watcher: Watcher) -> None:
    path, hole = watcher.work.pair("a.png")
    real, changed = watcher.listen, list[float]()

    def listen(event: Event) -> None:
        if isinstance(event, ItemStarted) and not changed:
            changed.append(watcher.days.now)
            watcher.days.last = watcher.days.now
            watcher.work.picture("a.png", hole=hole, seed=9)
        real(event)

    watcher.listen = listen  # type: ignore[method-assign]
    watcher()
    assert [event.reason for event in watcher.told(ItemFailed)] == [CHANGED]
    assert watcher.done() == ["a.png"] and watcher.at["a.png"] >= changed[0] + SETTLE
    outside = ~hole
    assert (pixels(watcher.work.out / "a.png")[outside] == pixels(path)[outside]).all()


def test_a_change_of_time_alone_is_a_change(watcher: Watcher) -> None:
    path, _ = watcher.work.pair("a.png")
    for number in range(4):
        watcher.days.at(5 + 8 * number, lambda number=number: os.utime(path, (1e9, 1e9 + number)))  # type: ignore[misc]
    watcher()
    assert watcher.done() == ["a.png"] and watcher.at["a.png"] >= 29 + SETTLE


def test_a_picture_waits_for_its_mask_and_for_that_to_be_still_and_says_so_once(watcher: Watcher) -> None:
    watcher.work.picture("box 1/a.png", hole=HOLE)
    watcher.work.picture("b.png", hole=HOLE)
    mask = watcher.work.masks / "box 1" / "a.png"
    watcher.days.at(60, lambda: watcher.work.mask("box 1/a.png", HOLE))
    watcher.days.at(66, lambda: os.utime(mask, (1e9, 1e9)))
    watcher()
    assert watcher.done() == ["box 1/a.png"] and watcher.at["box 1/a.png"] >= 66 + SETTLE
    texts = [event.text for event in watcher.told(Notice)]
    assert texts == [
        "b.png and 1 more are without a mask so far: waiting for it",
        "b.png is still without a mask: not restored",
    ]


def test_pictures_that_show_their_damage_themselves_wait_for_no_mask(watcher: Watcher) -> None:
    watcher.work.picture("a.png", "RGBA")
    watcher(mask_from=parse("alpha"))
    assert watcher.done("copied") == ["a.png"]


def test_masks_may_arrive_beside_their_pictures_and_before_them(watcher: Watcher) -> None:
    folder = watcher.work.pictures
    watcher.days.at(5, lambda: Image.fromarray(HOLE).save(folder / "a_mask.png"))
    watcher.days.at(40, lambda: watcher.work.picture("a.png", hole=HOLE))
    watcher.days.at(80, lambda: watcher.work.picture("b.png", hole=HOLE))
    watcher.days.at(120, lambda: Image.fromarray(HOLE).save(folder / "b_mask.png"))
    watcher(folder)
    assert watcher.done() == ["a.png", "b.png"] and not watcher.told(ItemFailed)


def test_an_empty_folder_is_watched_like_any_other_and_ends_with_a_summary(watcher: Watcher) -> None:
    report = watcher()
    assert not report.interrupted and not report.items
    assert isinstance(watcher.events[0], RunStarted) and isinstance(watcher.events[-1], RunFinished)


def test_the_network_is_loaded_once_for_all_that_arrives(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str | None] = []
    wanted = store.load_network
    monkeypatch.setattr(store, "load_network", lambda name, padding: (loaded.append(name), wanted(name, padding))[1])
    for number in range(3):
        watcher.days.at(30 * number, lambda number=number: watcher.work.pair(f"{number}.png"))  # type: ignore[misc]
    watcher()
    assert watcher.done() == ["0.png", "1.png", "2.png"] and len(loaded) == 1
    assert watcher.at["0.png"] + 20 < watcher.at["1.png"] < watcher.at["2.png"] - 20


# ---------------------------------------------------------------- what fails


def test_a_bad_picture_is_reported_once_and_tried_again_when_it_has_changed(watcher: Watcher) -> None:
    path, _ = watcher.work.pair("a.png")
    good = path.read_bytes()
    bad(path)
    watcher.days.at(100, lambda: bad(path, b"no picture either"))
    watcher.days.at(200, lambda: path.write_bytes(good))
    report = watcher()
    assert len(watcher.told(ItemFailed)) == 2
    assert watcher.done() == ["a.png"] and watcher.at["a.png"] >= 200 + SETTLE
    assert (report.count("restored"), report.count("failed")) == (1, 0)  # what became of each in the end


def test_what_is_done_is_counted_and_not_kept(watcher: Watcher) -> None:
    for number in range(3):
        watcher.work.pair(f"{number}.png")
    watcher.days.at(50, lambda: watcher.work.pair("late.png"))
    watcher.days.at(100, lambda: bad(watcher.work.pictures / "0.png"))
    report = watcher()
    assert [item.status for item in report.items] == ["failed"], "which is to be listed in the end"
    summary = json.loads(report.summary())
    assert (summary["restored"], summary["failed"], summary["items"]) == (4, 1, 5) and summary["tiles"] >= 4
    (finished,) = watcher.told(RunFinished)
    assert (finished.restored, finished.failed, finished.tiles) == (4, 1, summary["tiles"])


def test_a_picture_is_tried_again_when_its_mask_has_changed(watcher: Watcher) -> None:
    watcher.work.pair("a.png")
    watcher.work.mask("a.png", np.zeros((9, 9), np.bool_))
    watcher.days.at(50, lambda: watcher.work.mask("a.png", HOLE))
    watcher()
    (failed,) = watcher.told(ItemFailed)
    assert "must agree" in failed.reason and watcher.done() == ["a.png"]


def test_a_look_that_takes_long_is_followed_by_a_longer_rest(watcher: Watcher) -> None:
    looks: list[float] = []

    def look() -> JobList:
        looks.append(watcher.days.now)
        watcher.days.now += 7
        return JobList((), (), {}, watcher.work.out)

    clock = Clock(lambda: watcher.days.now, watcher.days.sleep)
    days = watcher.days
    days.at(200, lambda: None)
    assert not list(Arrivals(look, RestoreSettings(), watcher.listen, lambda: days.over, SETTLE, clock))
    assert np.diff(looks).min() >= 7 + 4 * 7


def test_a_picture_that_changes_after_it_was_restored_replaces_nothing_unless_it_may(watcher: Watcher) -> None:
    watcher.work.pair("a.png")
    watcher.days.at(50, lambda: watcher.work.pair("a.png", seed=1))
    watcher()
    (failed,) = watcher.told(ItemFailed)
    assert "--overwrite" in failed.reason and watcher.done() == ["a.png"]
    first = pixels(watcher.work.out / "a.png")
    watcher(overwrite=True)
    assert watcher.done() == ["a.png"]
    assert not np.array_equal(pixels(watcher.work.out / "a.png"), first)


def test_what_makes_no_sense_for_a_while_is_said_once_and_does_not_end_the_watch(watcher: Watcher) -> None:
    watcher.work.pair("a.png")
    second = watcher.work.masks / "a.jpg"
    watcher.days.at(1, lambda: Image.fromarray(HOLE.astype(np.uint8)).save(second))
    watcher.days.at(100, second.unlink)
    watcher()
    (notice,) = watcher.told(Notice)
    assert "two masks fit" in notice.text
    assert watcher.done() == ["a.png"] and watcher.at["a.png"] >= 100


def test_a_folder_that_is_gone_for_a_while_is_waited_for(watcher: Watcher) -> None:
    watcher.work.pair("a.png")
    away = watcher.work.root / "away"
    watcher.days.at(2, lambda: watcher.work.pictures.rename(away))
    watcher.days.at(90, lambda: away.rename(watcher.work.pictures))
    watcher()
    assert watcher.done() == ["a.png"] and watcher.at["a.png"] >= 90 and len(watcher.told(Notice)) == 1


def test_a_watch_that_is_ended_was_cut_off_only_where_something_is_left(watcher: Watcher) -> None:
    watcher.work.pair("a.png")
    report = watcher()
    assert (report.interrupted, exit_code(report)) == (False, 0)
    bad(watcher.work.pictures / "b.png")
    watcher.work.mask("b.png", HOLE)
    report = watcher()
    assert (report.interrupted, exit_code(report)) == (False, 1), "what has failed is no longer waited for"
    (watcher.work.pictures / "b.png").unlink()
    watcher.days.at(watcher.days.now + 1, lambda: watcher.work.picture("c.png"))
    report = watcher()
    assert (report.interrupted, exit_code(report)) == (True, 130), "one has no mask"
    watcher.work.mask("c.png", HOLE)
    assert exit_code(watcher()) == 0
    watcher.days.at(watcher.days.now + 1, lambda: watcher.work.pair("d.png"))
    watcher.days.at(watcher.days.now + 6, lambda: setattr(watcher.days, "over", True))
    report = watcher()
    assert not watcher.done() and exit_code(report) == 130, "one has not come to rest"
    watcher.days.at(watcher.days.now + 1, lambda: watcher.work.mask("d_mask.png", HOLE))
    assert exit_code(watcher()) == 130, "two masks fit one, so nobody can tell what is ready"
    (watcher.work.masks / "d_mask.png").unlink()
    assert exit_code(watcher()) == 0 and watcher.done() == ["d.png"]


def test_a_limit_of_failures_ends_the_watch(watcher: Watcher) -> None:
    for name in ("a", "b"):
        watcher.work.pair(f"{name}.png")
        bad(watcher.work.pictures / f"{name}.png")
    watcher.days.at(10_000, lambda: None)
    watcher(max_failures=1, jobs=1)
    assert watcher.days.now < 100


def test_failures_are_listed_at_the_end(watcher: Watcher) -> None:
    watcher.work.pair("a.png")
    bad(watcher.work.pictures / "a.png")
    watcher(failed_list=watcher.work.root / "failed.csv")
    assert "a.png" in (watcher.work.root / "failed.csv").read_text()


# ---------------------------------------------------------------- restarts, and what is not taken


def test_a_restart_goes_on_where_it_was_and_clears_away_what_was_left_half_written(watcher: Watcher) -> None:
    watcher.work.pair("a.png")
    watcher()
    (watcher.work.out / ".b.png.0123abcd.part").write_bytes(b"half")
    made = (watcher.work.out / "a.png").stat().st_mtime_ns
    watcher.work.pair("b.png")
    watcher()
    assert (watcher.done(), watcher.done("done_before")) == (["b.png"], ["a.png"])
    assert (watcher.work.out / "a.png").stat().st_mtime_ns == made
    assert sorted(path.name for path in watcher.work.out.iterdir()) == [NAME, "a.png", "b.png"]


def test_nothing_that_was_written_is_taken_wherever_it_lies_in_the_folder(watcher: Watcher) -> None:
    inside = watcher.work.pictures / "results"
    work = watcher.work
    watcher.work = Inside(work.root)
    maps = {"save_filled": work.pictures / "filled", "save_confidence": work.pictures / "confidence"}
    work.pair("a.png", hole=HOLE)
    work.pair("b.bmp", hole=HOLE)
    for name in ("results/a", "filled/a", "confidence/a"):  # masks that would fit, were they taken
        work.mask(f"{name}.png", HOLE)
    watcher.days.at(50, lambda: (work.pictures / "link").symlink_to(inside))
    watcher.days.at(50, lambda: (work.pictures / "c.png").symlink_to(inside / "a.png"))
    watcher.days.at(50, lambda: work.mask("c.png", HOLE))
    watcher.days.at(60, lambda: (inside / "deeper").mkdir())
    watcher.days.at(60, lambda: (work.pictures / "deep").symlink_to(inside / "deeper"))
    watcher.days.at(60, lambda: (inside / "deeper" / "d.png").write_bytes((inside / "a.png").read_bytes()))
    watcher.days.at(60, lambda: work.mask("deep/d.png", HOLE))
    watcher(**maps, provenance=True)
    assert sorted(watcher.done()) == ["a.png", "b.bmp"] and not watcher.told(ItemFailed)
    watcher(**maps, provenance=True)
    assert not watcher.done() and sorted(watcher.done("done_before")) == ["a.png", "b.bmp"]
    assert not [notice for notice in watcher.told(Notice) if "mask" in notice.text]


class Inside(Workplace):
    """A workplace whose results lie among the pictures."""

    @property
    def out(self) -> Path:
        return self.pictures / "results"


def test_files_that_are_hidden_or_no_pictures_are_left_alone(watcher: Watcher) -> None:
    for name in (".a.png", "a.png.part", "a.png.crdownload", "a.txt"):
        bad(watcher.work.pictures / name)
    watcher()
    assert not watcher.told(ItemFailed) and not watcher.told(Notice)


@pytest.mark.parametrize(
    ("places", "settings"),
    [
        (("in", "masks", "in"), {}),
        (("in", "masks", "."), {}),
        (("in", "masks", "masks"), {}),
        (("in", "out/masks", "out"), {}),
        (("in", "masks", "link"), {}),
        (("in", "masks", "out"), {"save_filled": Path()}),
        (("in/a.png", "masks", "out"), {}),
        (("in", "masks", "in/a.png"), {}),
        (("in", "nowhere", "out"), {}),
    ],
)
def test_places_where_results_would_arrive_among_pictures_or_masks_are_refused(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, places: tuple[str, str, str], settings: dict[str, Path]
) -> None:
    watcher.work.pair("a.png")
    monkeypatch.chdir(watcher.work.root)
    Path("out/masks").mkdir(parents=True)
    Path("link").symlink_to("in")
    source, masks, output = places
    with pytest.raises(UsageError):
        watched(Path(source), Path(masks), output, RestoreSettings(resume=True, **settings))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "arguments",
    [
        ["--watch", "--manifest", "list.csv", "out"], ["--watch", "-", "masks", "out"],
        ["--watch", "s3://a/in", "masks", "out"], ["--watch", "in", "masks", "out", "--cluster", "local"],
        ["--watch", "in", "masks", "out", "--sample", "3"], ["--watch", "in", "masks", "out", "--report", "page"],
        ["in", "masks", "out", "--settle", "3"],
    ],
)  # fmt: skip
def test_what_watching_cannot_go_with_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["restore", *arguments]) == 2
    told = capsys.readouterr().err
    assert "--watch" in told and told.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_the_command_restores_what_arrives_until_ctrl_c_and_after_a_kill_goes_on(watcher: Watcher) -> None:
    work = watcher.work
    arguments = ["restore", work.pictures, work.masks, work.out, "--watch", "--settle", "0", "--progress", "json"]
    command = [
        sys.executable,
        "-m",
        "pconv_cli",
        *map(str, arguments),
        "--weights",
        "none",
        "--device",
        "cpu",
        "--json",
    ]

    def started() -> subprocess.Popen[str]:
        return warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(name: str) -> None:
        end = time.monotonic() + PATIENCE
        while not (work.out / name).exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)

    process = started()
    try:
        work.pair("a.png")
        until("a.png")
        process.kill()
        process.communicate(timeout=PATIENCE)
        process = started()
        work.pair("b.png")
        until("b.png")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["status"] for line in lines[:-1]] == ["done_before", "restored"]
    assert (lines[-1]["type"], lines[-1]["restored"], lines[-1]["interrupted"]) == ("summary", 1, False)
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[-1] == "run_finished" and {"run_started", "item_done", "notice"} <= set(events)
