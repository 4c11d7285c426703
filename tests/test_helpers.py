"""Processes that read and write beside the one that computes: what travels, who has what, and how they end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Workplace, box
from toys import ARRAYS, MAKE, Toy, Unheard, fail

from pconv_cli import helpers
from pconv_cli import restore as use_case
from pconv_cli.bench import Bench, Work
from pconv_cli.errors import DeviceError, ItemError, UsageError
from pconv_cli.events import Event, ItemStarted
from pconv_cli.filling import Piece, Shape
from pconv_cli.journal import NAME
from pconv_cli.pipeline import Again
from pconv_cli.remote import Stage
from pconv_cli.report import ItemReport, Report
from pconv_cli.restore import RestoreSettings, plan, restore

pytestmark = pytest.mark.skipif(not helpers.can_be_had(), reason="no helpers on this system")

PATIENCE = 60


def given_up(item: str) -> ItemError:
    return ItemError(item, "given up")


def engage(count: int, make: Any = MAKE, **options: Any) -> helpers.Crew[str, tuple[str, int], Any]:
    return helpers.Crew(make, count, given_up, **options)


@pytest.fixture(scope="module")
def crew() -> Iterator[helpers.Crew[str, tuple[str, int], Any]]:
    with engage(2) as crew:
        yield crew


def done(crew: helpers.Crew[str, tuple[str, int], Any], item: str) -> tuple[int, int, list[Any]]:
    """Take an item through all stages; the process that read it, the one that wrote it, and what it was given back."""
    held = crew.read(item)
    name, reader = crew.told(held)
    assert name == item and reader != os.getpid()
    rounds = 0
    while pieces := crew.pieces(held):
        rounds += 1
        assert [shape for shape, _ in pieces] == [7, 7]
        for i, (_, parcel) in enumerate(pieces):
            data = parcel.load()
            assert parcel.window == (2 * rounds - 1, i) and data.word == str(i)
            assert (data.more is None) == (i == 0)
            parcel.land(data, replace(data, numbers=data.numbers, more=None))
    assert rounds == 2
    writer, landed = crew.write(held)
    return reader, writer, landed


@pytest.mark.parametrize("item", ["bytes", "flags", "floats", "slice", "none", "large"])
def test_arrays_of_any_kind_travel_there_and_back_bit_by_bit(crew: Any, item: str) -> None:
    array = ARRAYS[item]
    assert crew.cost(item) == array.nbytes
    reader, writer, landed = done(crew, item)
    assert reader == writer
    assert landed == [(array.dtype.str, array.shape, array.tobytes(), word) for word in ("0", "1", "0", "1")]


def test_items_of_many_threads_are_spread_and_each_stays_where_it_was_read(crew: Any) -> None:
    items = list(ARRAYS)[:6] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: done(crew, item), items))
    assert all(reader == writer for reader, writer, _ in found)
    assert len({reader for reader, _, _ in found}) == 2
    assert all(landed[0][2] == ARRAYS[item].tobytes() for item, (_, _, landed) in zip(items, found, strict=True))


def test_what_fails_fails_here_as_it_did_there_and_the_helper_goes_on(crew: Any) -> None:
    with pytest.raises(ItemError) as read:
        crew.read("no item")
    assert (read.value.path, read.value.reason) == ("no item", "is none")
    held = crew.read("not cut")
    with pytest.raises(ItemError, match="cannot be"):
        crew.pieces(held)
    with pytest.raises(UsageError, match="makes no sense"):
        crew.read("no run")
    with pytest.raises(RuntimeError, match=r"KeyError: 'unheard of' \(in a helper: toys.py, line \d+\)"):
        crew.cost("unheard of")
    held = crew.read("not written")
    for _ in range(2):
        for _, parcel in crew.pieces(held):
            parcel.land(parcel.load(), parcel.load())
    assert not crew.pieces(held)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a slip"):
        crew.write(held)
    assert done(crew, "bytes")[2]


def test_a_bench_that_cannot_be_made_says_why() -> None:
    with (
        engage(1, partial(fail, UsageError("no bench for you"))) as crew,
        pytest.raises(UsageError, match="no bench for you"),
    ):
        crew.cost("bytes")


@pytest.mark.parametrize("until", ["read", "pieces"])
def test_what_a_helper_had_that_was_killed_is_begun_again_with_another(until: str) -> None:
    with engage(2) as crew:
        helds = [crew.read(item) for item in ("bytes", "flags", "bytes", "flags")]
        parcels = [parcel for _, parcel in crew.pieces(helds[0])] if until == "pieces" else []
        for parcel in parcels:
            parcel.land(parcel.load(), parcel.load())
        pids = [crew.told(held)[1] for held in helds]
        os.kill(pids[0], signal.SIGKILL)
        wait_for_the_end_of(pids[:1])
        with pytest.raises(Again):
            crew.pieces(helds[0])
        with pytest.raises(Again):
            crew.write(helds[2])
        assert crew.pieces(helds[1])  # the other helper goes on
        for item in ("bytes", "flags") * 3:
            reader, writer, _ = done(crew, item)
            assert reader == writer != pids[0]
        assert crew.deaths == 1


@pytest.mark.parametrize("item", ["poison", "late poison"])
def test_what_takes_two_helpers_with_it_is_given_up_and_nothing_else_is(item: str) -> None:
    with engage(2) as crew:
        beside = [crew.read("flags") for _ in range(2)]
        with pytest.raises(Again):
            done(crew, item)
        with pytest.raises(ItemError, match="given up"):
            done(crew, item)
        assert crew.deaths == 2
        (lost,) = [
            held for held in beside if not alive(crew.told(held)[1])
        ]  # the second went to who came for the first
        with pytest.raises(Again):
            crew.pieces(lost)
        assert done(crew, "flags")[2]
        with pytest.raises(ItemError, match="given up"):  # nor is it tried for ever
            done(crew, item)


def test_helpers_that_die_one_after_the_other_end_the_run_with_one_line_and_the_way_out() -> None:
    with engage(1) as crew:
        for i in range(4):
            with pytest.raises(Again):
                crew.read(f"poison {i}")
        with pytest.raises(DeviceError, match=r"are gone: were they killed.*--resume goes on"):
            crew.read("poison 4")
        assert crew.deaths == 4


def test_where_no_other_helper_is_to_be_had_the_others_go_on_until_none_is_left() -> None:
    nursery = helpers.Nursery()
    with engage(2, nursery=nursery) as crew:
        assert done(crew, "bytes")
        nursery.close()
        with pytest.raises(Again):
            crew.read("poison")
        assert {done(crew, "bytes")[0] for _ in range(4)} == {done(crew, "flags")[0]}
        with pytest.raises(ItemError, match="given up"):
            crew.read("poison")
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"--resume goes on"):
                crew.read("bytes")


def test_helpers_end_with_their_crew_and_heed_no_signal_before() -> None:
    with engage(2) as crew:
        pids = {crew.told(crew.read(item))[1] for item in ("bytes", "flags")}
        assert len(pids) == 2
        for pid in pids:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        assert crew.cost("bytes") == 24
    wait_for_the_end_of(pids)


def test_helpers_do_not_outlive_a_process_that_is_killed() -> None:
    code = (
        "import time, toys\n"
        "from pconv_cli.helpers import Crew\n"
        "with Crew(toys.MAKE, 2, lambda item: None) as crew:\n"
        "    print([crew.told(crew.read(item))[1] for item in ('bytes', 'flags')], flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        process.kill()
    wait_for_the_end_of(pids)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for children")
def test_the_nursery_heeds_no_signal_from_its_birth_and_ends_with_its_crew_or_with_nobody_to_ask() -> None:
    before = set(children(os.getpid()))
    nursery = helpers.Nursery()
    (pid,) = set(children(os.getpid())) - before
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    with engage(1, nursery=nursery) as crew:
        assert crew.cost("bytes") == 24
        os.kill(pid, signal.SIGKILL)  # helpers go on without it
        assert done(crew, "large")[2]
    assert set(children(os.getpid())) == before
    helpers.Nursery()
    assert set(children(os.getpid())) == before


def test_where_no_helper_comes_it_is_said_why() -> None:
    with pytest.raises(OSError, match=r"ended as soon as it began|reset by peer|Broken pipe"):
        engage(1, nursery=helpers.Nursery("no.such.module")).__enter__()
    unheard: Any = Unheard()
    with pytest.raises(OSError, match="ZeroDivisionError"):
        engage(1, partial(Toy, unheard)).__enter__()


def wait_for_the_end_of(pids: Any) -> None:
    until = time.monotonic() + PATIENCE
    while any(map(alive, pids)):
        assert time.monotonic() < until, "processes are still there"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------- restore


def run(work: Workplace, out: str, **settings: Any) -> tuple[Report, list[Event]]:
    events: list[Event] = []
    lock = threading.Lock()

    def listen(event: Event) -> None:
        with lock:
            events.append(event)

    chosen = RestoreSettings(**{"weights": "none", "device": "cpu", "precision": "fp32", "jobs": 2, **settings})
    todo = plan(work.pictures, work.masks, str(work.root / out), chosen)
    return restore(todo, chosen, listen), events


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def comparable(report: Report, out: str) -> list[dict[str, Any]]:
    told = []
    for item in report.items:
        row = asdict(item)
        for name in ("seconds", "megapixels_per_second", "peak_memory_bytes"):
            del row[name]
        told.append({key: str(value).replace(f"/{out}/", "/") for key, value in row.items()})
    return told


@pytest.fixture
def mixed(work: Workplace) -> Workplace:
    """Pictures of all kinds, some of which fail."""
    for name, mode in (("a.png", "RGB"), ("b.jpg", "RGB"), ("c.tif", "L"), ("d.webp", "RGBA"), ("e.bmp", "P")):
        work.pair(name, mode)
    work.pair("deep.png", hole=box(48, 40, 2, 2, 45, 38))
    work.pair("whole.png", hole=np.zeros((40, 48), np.bool_))
    work.pair("broken.jpg")
    (work.pictures / "broken.jpg").write_bytes((work.pictures / "a.png").read_bytes()[:50])
    work.pair("all.png", hole=np.ones((40, 48), np.bool_))
    work.pair("alone.png")
    for mask in work.masks.glob("alone*"):
        mask.unlink()
    return work


def test_files_and_reports_are_the_same_whoever_reads_and_writes(
    mixed: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"save_filled": mixed.root / "filled", "overwrite": True}
    alone, _ = run(mixed, "alone", **options)
    kept = files(mixed.root / "filled")
    monkeypatch.setattr(use_case, "WORTH_HELPERS", 1)
    together, events = run(mixed, "together", **options)
    assert comparable(together, "together") == comparable(alone, "alone")
    assert {item.status for item in together.items} == {"restored", "copied", "failed"}
    assert files(mixed.root / "together") == files(mixed.root / "alone")
    assert files(mixed.root / "filled") == kept
    kinds = [type(event).__name__ for event in events]
    assert kinds[:2] == ["RunStarted", "ProcessesStarting"]
    assert kinds.count("ItemStarted") == kinds.count("ItemDone") == 7 and kinds.count("ItemFailed") == 3


def test_what_helpers_have_done_is_noted_and_left_out_the_next_time(
    mixed: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_case, "WORTH_HELPERS", 1)
    first, _ = run(mixed, "out")
    before = {path: path.stat().st_ino for path in (mixed.root / "out").iterdir()}
    second, _ = run(mixed, "out", resume=True)
    assert first.count("restored") + first.count("copied") == second.count("done_before") == 7
    assert {path: path.stat().st_ino for path in (mixed.root / "out").iterdir()} == before
    again, _ = run(mixed, "out")  # without --resume: refused, file by file
    assert again.count("failed") == 10


def test_suspicious_masks_are_told_of_once_whoever_reads_them(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        work.pair(name, hole=box(48, 40, 1, 1, 47, 39))
    told = []
    for worth in (1, 1000):
        monkeypatch.setattr(use_case, "WORTH_HELPERS", worth)
        report, _ = run(work, f"out{worth}")
        told.append([text.partition(": ")[2] or text for text in report.notices])
    assert told[0] == told[1] and len(told[0]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for children")
def test_a_helper_that_is_killed_costs_a_run_nothing_but_time(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_case, "WORTH_HELPERS", 1)
    names = [f"{i:02}.png" for i in range(40)]
    for name in names:
        work.pair(name)
    kill = threading.Event()
    before = set(children(os.getpid()))

    def listen(event: Event) -> None:
        if isinstance(event, ItemStarted) and not kill.is_set():  # before anything can have been written
            kill.set()
            (nursery,) = set(children(os.getpid())) - before
            os.kill(children(nursery)[0], signal.SIGKILL)

    settings = RestoreSettings(weights="none", device="cpu", precision="fp32", jobs=2)
    report = restore(plan(work.pictures, work.masks, str(work.root / "out"), settings), settings, listen)
    assert kill.is_set() and {item.name: item.status for item in report.items} == dict.fromkeys(names, "restored")
    assert sorted(path.name for path in (work.root / "out").iterdir() if path.name != NAME) == names
    assert [text for text in report.notices if "died" in text and "done again" in text]


class Forgetful(Bench):
    """Dies once, of a signal, when a result and all that belongs beside it have their names, and nobody knows yet."""

    def write(self, work: Work) -> ItemReport:
        report = super().write(work)
        died = work.job.output.parent.parent / "died"
        if work.job.name == "03.jpg" and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return report


@pytest.mark.parametrize("options", [{}, {"resume": True}], ids=str)
def test_a_result_that_a_helper_did_not_live_to_tell_of_is_made_once_more(
    options: dict[str, bool], work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        work.pair(f"{i:02}.jpg", seed=i)
    kept = ("filled", "confidence")
    settings = {"save_filled": work.root / kept[0], "save_confidence": work.root / kept[1], "provenance": True}
    alone, _ = run(work, "alone", **settings, overwrite=True)
    maps = [files(work.root / name) for name in kept]
    for name in kept:
        shutil.rmtree(work.root / name)
    monkeypatch.setattr(use_case, "WORTH_HELPERS", 1)
    monkeypatch.setattr(use_case, "Bench", Forgetful)
    together, _ = run(work, "together", **settings, **options)
    assert (work.root / "died").exists() and [text for text in together.notices if "died, 1 in all" in text]
    if "resume" in options:
        assert {item.status for item in together.items} == {"restored", "done_before"}
    else:
        assert comparable(together, "together") == comparable(alone, "alone"), "with all there is to tell of it"
    assert files(work.root / "together").keys() == files(work.root / "alone").keys()
    assert [files(work.root / name) for name in kept] == maps
    assert not list(work.root.rglob("*.part"))


class Slipping(Bench):
    """Has a bug, for some."""

    def pieces(self, work: Work) -> Sequence[tuple[Shape, Piece]]:
        if work.job.name == "03.png":
            raise ZeroDivisionError("a slip")
        if work.job.name == "05.png":
            raise MemoryError
        return super().pieces(work)


def test_a_bug_in_a_helper_fails_the_picture_that_met_it_and_the_others_go_on(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    for i in range(8):
        work.pair(f"{i:02}.png", seed=i)
    monkeypatch.setattr(use_case, "WORTH_HELPERS", 1)
    monkeypatch.setattr(use_case, "Bench", Slipping)
    report, _ = run(work, "out")
    failed = {item.name: item.reason or "" for item in report.items if item.status == "failed"}
    assert report.count("restored") == 6 and failed.keys() == {"03.png", "05.png"}
    assert re.match(
        r"this is a bug in pconv: .*ZeroDivisionError: a slip \(in a helper: .*, line \d+\)", failed["03.png"]
    )
    assert failed["05.png"].startswith("too big for the memory")


def test_a_bug_in_a_worker_of_a_cluster_fails_the_picture_that_met_it_alone(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    for i in range(6):
        work.pair(f"{i:02}.png", seed=i)
    chosen = RestoreSettings(weights="none", device="cpu", precision="fp32")
    monkeypatch.setattr(
        use_case, "bench_of", lambda settings, view, signature, stage, journal: Slipping(settings, view, journal)
    )
    jobs = plan(work.pictures, work.masks, str(work.out), chosen).jobs
    with Stage() as stage:
        worker = use_case._Worker(chosen, None, use_case.signature_of(chosen, ""), stage)
        done = dict(found for found in worker(jobs, lambda: False) if isinstance(found, tuple))
    assert [number for number, one in sorted(done.items()) if isinstance(one, ItemError)] == [3, 5]
    assert "this is a bug in pconv: ZeroDivisionError: a slip" in str(done[3]) and len(done) == 6


def test_few_pictures_are_not_worth_helpers(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("a crew was engaged")

    monkeypatch.setattr(helpers.Crew, "__enter__", refuse)
    work.pair("a.png")
    assert run(work, "out")[0].count("restored") == 1


def test_macos_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not helpers.can_be_had()


def test_where_no_process_can_be_had_threads_do_it_and_it_is_told(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(use_case, "WORTH_HELPERS", 1)
    monkeypatch.setattr(helpers.Crew, "__enter__", refuse)
    work.pair("a.png")
    report, _ = run(work, "out")
    assert report.count("restored") == 1
    assert [text for text in report.notices if "temporarily unavailable" in text and "slower" in text]


SCRIPT = """
import sys
from pathlib import Path
from pconv_cli import restore as use_case

print("once")
use_case.WORTH_HELPERS = 1
settings = use_case.RestoreSettings(weights="none", device="cpu")
todo = use_case.plan(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], settings)
report = use_case.restore(todo, settings, lambda event: None)
print(report.count("restored"), *report.notices)
"""


def test_a_plain_script_is_not_run_again_and_needs_no_temporary_folder(work: Workplace) -> None:
    work.pair("a.png")
    script, temporary = work.root / "script.py", work.root / ("long" * 30)
    script.write_text(SCRIPT, "utf-8")
    temporary.mkdir()
    command = [sys.executable, "-W", "error", *map(str, (script, work.pictures, work.masks, work.root / "out"))]
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "once\n1\n", "")
    assert not list(temporary.iterdir())
