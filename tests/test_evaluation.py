"""Evaluation: the same pairs for every method, measures that agree with sums by hand, and the command from outside."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Workplace, box, pixels, texture
from numpy.typing import NDArray
from PIL import Image
from rasters import save
from reference import one_thread  # noqa: F401 - a fixture
from rich.console import Console

from pconv_cli import classical, curves, evaluation, files
from pconv_cli import weights as store
from pconv_cli.cli import app, ui
from pconv_cli.errors import UsageError
from pconv_cli.evaluation import EvaluateSettings, Evaluation, Measured, evaluate
from pconv_cli.events import EvaluationFinished, EvaluationStarted, Event, ItemFailed, Notice, PairMeasured
from pconv_cli.pairs import BORDER, BUCKETS

Pixels = NDArray[np.uint8]
Hole = NDArray[np.bool_]
Method = Callable[[Pixels, Hole], Pixels]
SIDE = 128
QUICK = EvaluateSettings(weights=("none",), methods=("pconv",), device="cpu", precision="fp32")


def square(side: int, left: int = 50, top: int = 50, picture: int = SIDE) -> Hole:
    """A square hole; at 50, 50 with a side of 28 it keeps 50 px away from all borders."""
    return box(picture, picture, left, top, left + side, top + side)


def stocked(work: Workplace, holes: dict[str, Hole], pictures: int = 2) -> Workplace:
    for number in range(pictures):
        work.picture(f"p{number}.png", size=(SIDE, SIDE), seed=number)
    for name, hole in holes.items():
        work.mask(name, hole)
    return work


@pytest.fixture
def stock(work: Workplace) -> Workplace:
    """Two pictures; of two buckets two kinds of masks each, one of them clear of the border."""
    return stocked(
        work,
        {
            "few/dot_1.png": square(28),
            "few/edge_1.png": square(30, 0, 20),
            "many/dot_2.png": square(45, 5, 5),
            "many/edge_2.png": square(50, 78, 78),
        },
    )


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Method], None]:
    """Put a function in the place of a classical method."""
    before, own = classical.load, {}
    monkeypatch.setattr(classical, "load", lambda name: own.get(name) or before(name))
    return own.__setitem__


def run(work: Workplace, settings: EvaluateSettings = QUICK, **stop: Any) -> tuple[Evaluation, list[Event]]:
    events: list[Event] = []
    return evaluate(work.pictures, work.masks, settings, events.append, **stop), events


def command(work: Workplace, *options: str) -> int:
    """Run the command with few pairs and one network, unless options say otherwise."""
    fixed = ["evaluate", str(work.pictures), str(work.masks), "--device", "cpu", "--progress", "none"]
    fixed += ["--per-bucket", "1"]
    return app.run([*fixed, *(options if "--methods" in options else ("--methods", "pconv", *options))])


def truth_of(work: Workplace, seen: Pixels) -> Pixels:
    """The picture behind a damaged one: the one that agrees with it at most pixels."""
    return max((pixels(path) for path in work.pictures.iterdir()), key=lambda truth: int((truth == seen).sum()))


# ---------------------------------------------------------------- measures


def test_a_method_that_knows_the_truth_is_perfect(stock: Workplace, method: Callable[[str, Method], None]) -> None:
    method("telea", lambda seen, hole: truth_of(stock, seen))
    done, _ = run(stock, EvaluateSettings(methods=("telea",)))
    assert len(done.items) == 8
    for item in done.items:
        assert (item.l1, item.l1_hole, item.perceptual) == (0, 0, 0)
        assert item.psnr == item.psnr_hole == math.inf
        assert (item.ssim, item.ssim_hole) == pytest.approx((1, 1))
    assert done.mean("psnr", "telea", BUCKETS[0]) == 100 and done.mean("l1", "telea", BUCKETS[0]) == 0


def test_a_known_error_gives_the_sums_by_hand(stock: Workplace, method: Callable[[str, Method], None]) -> None:
    method("ns", lambda seen, hole: truth_of(stock, seen) + np.uint8(10))
    done, _ = run(stock, EvaluateSettings(methods=("ns",)))
    for item in done.items:
        assert item.l1_hole == pytest.approx(100 * 10 / 255)
        assert item.l1 == pytest.approx(100 * 10 / 255 * item.ratio)
        assert item.psnr_hole == pytest.approx(20 * math.log10(255 / 10))
        assert item.psnr == pytest.approx(20 * math.log10(255 / 10) - 10 * math.log10(item.ratio))
        assert 0 < item.ssim_hole < item.ssim < 1 and item.perceptual > 0
    few = done.mean("psnr", "ns", BUCKETS[0])
    assert few == pytest.approx(np.mean([item.psnr for item in done.items if item.bucket == BUCKETS[0]]))


def test_what_a_method_changes_outside_the_hole_does_not_count(
    stock: Workplace, method: Callable[[str, Method], None]
) -> None:
    method("telea", lambda seen, hole: np.where(hole[..., None], truth_of(stock, seen), np.uint8(0)))
    done, _ = run(stock, EvaluateSettings(methods=("telea",)))
    assert {item.l1 for item in done.items} == {0}


def test_no_method_sees_the_truth_and_all_see_the_same(stock: Workplace, method: Callable[[str, Method], None]) -> None:
    seen: dict[str, list[tuple[Pixels, Hole]]] = {"telea": [], "ns": []}

    def spy(name: str) -> Method:
        def look(picture: Pixels, hole: Hole) -> Pixels:
            seen[name].append((picture.copy(), hole.copy()))
            return picture

        return look

    for name in seen:
        method(name, spy(name))
    done, _ = run(stock, EvaluateSettings(methods=("telea", "ns")))
    assert [item.method for item in done.items] == ["telea", "ns"] * 8
    for (picture, hole), (other, other_hole) in zip(seen["telea"], seen["ns"], strict=True):
        assert (picture[hole] == 255).all() and (picture[~hole] == truth_of(stock, picture)[~hole]).all()
        assert (picture == other).all() and (hole == other_hole).all()


def test_a_method_that_paints_into_its_input_spoils_it_for_no_other(
    stock: Workplace, method: Callable[[str, Method], None]
) -> None:
    def spoils(seen: Pixels, hole: Hole) -> Pixels:
        seen[:] = 0
        return seen

    settings = EvaluateSettings(methods=("ns",), per_bucket=1)
    alone, _ = run(stock, settings)
    method("telea", spoils)
    both, _ = run(stock, replace(settings, methods=("telea", "ns")))
    assert [item.l1 for item in both.items if item.method == "ns"] == [item.l1 for item in alone.items]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_the_network_fills_as_restore_does(work: Workplace, mode: str) -> None:
    hole = square(50, 78, 78)
    truth = Image.open(work.picture("a.png", mode, (SIDE, SIDE)))
    mask = work.mask("any_name.png", hole)
    done, _ = run(work)
    assert len(done.items) == 1
    true = np.asarray(truth.convert("RGB"))
    grey = mode == "L"
    holed = Image.fromarray(np.where(hole[..., None], np.uint8(255), true))
    (holed.convert("L") if grey else holed).save(work.root / "holed.png")
    arguments = [str(work.root / "holed.png"), str(mask), str(work.root / "out.png"), "--weights", "none"]
    assert app.run(["restore", *arguments, "--device", "cpu", "--progress", "none"]) == 0
    made = np.asarray(Image.open(work.root / "out.png").convert("RGB")).astype(float)
    assert done.items[0].l1_hole == pytest.approx(100 * np.abs(made - true)[hole].mean() / 255)


def test_sizes_that_differ_are_cut_to_the_common_centre(work: Workplace, method: Callable[[str, Method], None]) -> None:
    truth = pixels(work.picture("a.png", size=(90, 61)))
    hole = np.zeros((71, 80), np.bool_)  # taller than the picture, and not as wide
    hole[:25] = True  # five of these rows are cut away
    work.mask("m.png", hole)
    seen: list[tuple[Pixels, Hole]] = []
    method("telea", lambda picture, hole: seen.append((picture, hole)) or picture)  # type: ignore[func-returns-value]
    done, _ = run(work, EvaluateSettings(methods=("telea",)))
    ((picture, cut),) = seen
    assert picture.shape == (61, 80, 3) and cut.shape == (61, 80) and cut.sum() == 20 * 80
    assert (picture[20:] == truth[20:, 5:85]).all()
    assert done.items[0].ratio == pytest.approx(20 / 61) and done.items[0].bucket == "0.3-0.4"


def test_the_ratio_that_counts_is_that_of_the_cut_mask(work: Workplace) -> None:
    work.picture("small.png", size=(40, 40))
    work.picture("large.png", size=(80, 80))
    work.mask("m_1.png", box(80, 80, 20, 20, 40, 40))  # 6 % of the large picture, a quarter of the small one
    done, _ = run(work)
    assert {(item.picture, item.bucket) for item in done.items} == {("large.png", "0.01-0.1"), ("small.png", "0.2-0.3")}


def test_masks_outside_all_buckets_are_left_out_with_a_note(stock: Workplace) -> None:
    stock.mask("all.png", np.ones((SIDE, SIDE), np.bool_))
    stock.mask("none.png", np.zeros((SIDE, SIDE), np.bool_))
    done, events = run(stock)
    (note,) = [event.text for event in events if isinstance(event, Notice)]
    assert "all.png and 1 more" in note and "1% or less, or more than 60%" in note
    assert done.notices == (note,) and not done.failures
    assert not {item.mask for item in done.items} & {"all.png", "none.png"}


def test_folders_are_searched_deeply_and_a_file_is_a_folder_of_one(stock: Workplace) -> None:
    (stock.pictures / "deep" / "er").mkdir(parents=True)
    (stock.pictures / "p0.png").rename(stock.pictures / "deep" / "er" / "p0.png")
    (stock.pictures / ".hidden.png").write_bytes(b"")
    (stock.pictures / "notes.txt").write_bytes(b"")
    done, _ = run(stock)
    assert {item.picture for item in done.items} == {"deep/er/p0.png", "p1.png"} and not done.failures
    assert {item.mask for item in done.items} == {
        "few/dot_1.png", "few/edge_1.png", "many/dot_2.png", "many/edge_2.png"
    }  # fmt: skip
    one = evaluate(stock.pictures / "p1.png", stock.masks / "few" / "dot_1.png", QUICK, lambda _: None)
    assert [(item.picture, item.mask) for item in one.items] == [("p1.png", "dot_1.png")]


def test_masks_inside_the_pictures_folder_are_no_pictures(stock: Workplace) -> None:
    masks = stock.pictures / "masks"
    stock.masks.rename(masks)
    done = evaluate(stock.pictures, masks, QUICK, lambda _: None)
    assert {item.picture for item in done.items} == {"p0.png", "p1.png"} and not done.failures


def test_more_networks_are_told_apart(stock: Workplace, tmp_path: Path) -> None:
    default = store.find(None)
    assert default is not None
    twin = tmp_path / default.name
    twin.write_bytes(default.read_bytes())
    settings = EvaluateSettings(
        weights=("none", None, default.stem, str(twin)), methods=("pconv",), per_bucket=1, device="cpu"
    )
    done, _ = run(stock, settings)
    assert done.methods == ("none", default.stem, str(twin))
    assert dict(done.weights) == {"none": None, default.stem: files.sha256(default), str(twin): files.sha256(default)}
    by_method = {item.method: item for item in done.items if item.bucket == BUCKETS[0]}
    assert by_method[default.stem].l1 == by_method[str(twin)].l1 != by_method["none"].l1


# ---------------------------------------------------------------- events, failures, stopping


def test_events_tell_the_beginning_every_pair_and_the_end(stock: Workplace) -> None:
    done, events = run(stock)
    started, *pairs, finished = events
    assert started == EvaluationStarted(8, ("none",), "cpu", "fp32")
    assert isinstance(finished, EvaluationFinished)
    assert (finished.measured, finished.failed, finished.not_done) == (8, 0, 0)
    assert [(e.name, e.mask, e.bucket) for e in pairs if isinstance(e, PairMeasured)] == [
        (item.picture, item.mask, item.bucket) for item in done.items
    ]


def test_what_cannot_be_read_fails_alone(stock: Workplace) -> None:
    whole = (stock.pictures / "p1.png").read_bytes()
    (stock.pictures / "p1.png").write_bytes(whole[: len(whole) // 2])  # its header is there
    (stock.pictures / "empty.png").write_bytes(b"")
    (stock.masks / "bad.png").write_bytes(b"GIF89a")
    done, events = run(stock)
    failed = [event for event in events if isinstance(event, ItemFailed)]
    assert failed == list(done.failures)
    assert {event.name for event in failed} == {"p1.png", "empty.png", "bad.png"}
    assert {item.picture for item in done.items} == {"p0.png"} and done.measured == 4
    assert next(event.not_done for event in events if isinstance(event, EvaluationFinished)) == 0


@pytest.mark.parametrize(("size", "what"), [((16, 64), "picture"), ((16, 64), "mask")])
def test_what_is_too_small_for_the_measures_fails(stock: Workplace, size: tuple[int, int], what: str) -> None:
    if what == "picture":
        stock.picture("tiny.png", size=size)
    else:
        stock.mask("tiny.png", box(*size, 2, 2, 12, 12))
    done, _ = run(stock)
    (failure,) = done.failures
    assert failure.name == "tiny.png" and "too small" in failure.reason and done.measured == 8


def test_a_mask_of_too_many_runs_fails_alone(stock: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    speckled = square(30)
    speckled[:, 1::2] = False
    stock.mask("speckled.png", speckled)
    monkeypatch.setattr("pconv_cli.regions.MOST_RUNS", 300)
    done, _ = run(stock)
    assert done.failures and {failure.name for failure in done.failures} == {"speckled.png"}
    assert "too many to plan" in done.failures[0].reason and done.items


def test_a_pair_too_big_for_the_memory_fails_for_all_methods(
    stock: Workplace, method: Callable[[str, Method], None]
) -> None:
    calls = []

    def full(seen: Pixels, hole: Hole) -> Pixels:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return seen

    method("ns", full)
    done, _ = run(stock, EvaluateSettings(weights=("none",), methods=("pconv", "ns"), device="cpu"))
    assert done.measured == 7 and len(done.items) == 14 and "memory" in done.failures[0].reason
    assert done.count(BUCKETS[0]) == len([i for i in done.items if i.bucket == BUCKETS[0] and i.method == "ns"]) == 3


def test_a_stop_keeps_what_is_measured(stock: Workplace) -> None:
    measured: list[Event] = []

    def stop() -> bool:
        return len([event for event in measured if isinstance(event, PairMeasured)]) == 3

    done = evaluate(stock.pictures, stock.masks, QUICK, measured.append, stop)
    assert done.interrupted and done.measured == 3 and done.pairs == 8
    assert isinstance(measured[-1], EvaluationFinished) and measured[-1].not_done == 5
    assert json.loads(done.as_json())["summary"]["interrupted"] is True


def test_a_stop_at_once_measures_nothing(stock: Workplace) -> None:
    done, _ = run(stock, stop=lambda: True)
    assert done.interrupted and not done.items and not done.failures


# ---------------------------------------------------------------- results


def result(**changes: Any) -> Evaluation:
    """Two methods, two pairs in one bucket and one in another, all figures different."""
    figures = iter(range(1, 1000))
    items = tuple(
        Measured(picture, "m.png", 0.05, bucket, border, method, *(next(figures) / 7 for _ in evaluation.MEASURES))
        for picture, bucket, border in (("a", BUCKETS[0], True), ("b", BUCKETS[0], False), ("c", BUCKETS[4], True))
        for method in ("net", "telea")
    )
    return replace(Evaluation({}, {"net": "0"}, ("net", "telea"), items, (), 1.0, False, (), 3), **changes)


def test_buckets_are_split_into_holes_at_the_border_and_clear_of_it() -> None:
    done = result()
    assert [done.count(BUCKETS[0], part) for part in (None, True, False)] == [2, 1, 1]
    assert [done.count(BUCKETS[4], part) for part in (None, True, False)] == [1, 1, 0]
    both, at, clear = (done.mean("psnr", "net", BUCKETS[0], part) for part in (None, True, False))
    assert at is not None and clear is not None and both == pytest.approx((at + clear) / 2)
    assert done.mean("psnr", "net", BUCKETS[4], False) is None and done.count(BUCKETS[2]) == 0


def test_best_is_the_highest_or_the_lowest_as_the_measure_has_it_and_both_where_they_look_level() -> None:
    done = result()
    by_name = {measure.name: measure for measure in evaluation.MEASURES}
    assert done.best(by_name["psnr"], BUCKETS[0]) == ("telea",) and done.best(by_name["l1"], BUCKETS[0]) == ("net",)
    assert done.best(by_name["l1"], BUCKETS[1]) == ()
    figures = {"net": 1.0, "telea": 1.00001}
    items = tuple(Measured("a", "m", 0.05, BUCKETS[0], True, name, *[value] * 8) for name, value in figures.items())
    level = result(items=items)
    assert level.best(by_name["psnr"], BUCKETS[0]) == ("net", "telea")


def test_an_exact_fill_counts_as_a_hundred_in_means_and_is_null_in_json() -> None:
    items = [
        Measured("a", "m", 0.05, BUCKETS[0], True, "net", 0.0, psnr, 1.0, 0.0, psnr, 1.0, 0.0, 0.1)
        for psnr in (math.inf, 30.0, 40.0)
    ]
    done = result(items=tuple(items), methods=("net",))
    assert done.mean("psnr", "net", BUCKETS[0]) == pytest.approx(170 / 3)
    text = done.as_json()
    assert not re.search("Infinity|NaN", text) and json.loads(text)["items"][0]["psnr"] is None
    assert next(csv.DictReader(io.StringIO(done.as_csv())))["psnr"] == "inf"


def test_a_method_that_is_exact_is_the_best_whatever_others_make_of_the_same_hole() -> None:
    holes = {"net": (math.inf, 20.0), "telea": (60.0, 20.0), "ns": (130.0, 20.0)}
    items = tuple(
        Measured(str(pair), "m", 0.05, BUCKETS[0], True, name, 0.0, psnr, 1.0, 0.0, psnr, 1.0, 0.0, 240.0)
        for pair in (0, 1)
        for name, psnr in ((name, values[pair]) for name, values in holes.items())
    )
    done = result(items=items, methods=tuple(holes), weights={"net": "0"})
    by_name = {measure.name: measure for measure in evaluation.MEASURES}
    for name in ("psnr", "psnr_hole"):
        means = [done.mean(name, method, BUCKETS[0]) for method in holes]
        assert means == [60, 40, 60], "nor does a tiny error count as more than none"
        assert done.best(by_name[name], BUCKETS[0]) == ("net", "ns")
    assert done.mean("seconds", "net", BUCKETS[0]) == 240, "what is no PSNR counts as it is"


def test_json_csv_and_tables_agree(stock: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--methods", "pconv,telea", "--weights", "none", "--per-bucket", "3")
    options += ("--csv", str(stock.root / "rows.csv"))
    assert command(stock, *options, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    with (stock.root / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert command(stock, *options, "--overwrite") == 0
    shown = capsys.readouterr().out
    assert document["methods"] == ["none", "telea"] and document["weights"] == {"none": None}
    assert document["summary"]["measured"] == 6 and document["settings"]["seed"] == 0
    assert len(rows) == len(document["items"]) == 12
    for row, item in zip(rows, document["items"], strict=True):
        assert row.keys() == item.keys()
        assert all(row[key] == str(item[key]) for key in ("picture", "mask", "bucket", "method", "l1", "ssim_hole"))
        assert row["border"] == str(int(item["border"]))
    for bucket, part in document["buckets"].items():
        assert part["n"] == part["border"]["n"] + part["clear"]["n"]
        for name, means in part["means"].items():
            mine = [row for row in rows if (row["bucket"], row["method"]) == (bucket, name)]
            assert part["n"] == len(mine)
            for measure in evaluation.MEASURES:
                expected = np.mean([float(row[measure.name]) for row in mine]) if mine else None
                assert means[measure.name] == (expected if expected is None else pytest.approx(expected))
    *tables, summed_up = re.split(r"^(?=\w)", shown, flags=re.MULTILINE)[1:]
    assert summed_up.startswith("Best in the most buckets. PSNR inside the holes: ")
    titles = [f"{measure.title} {'↑' if measure.higher else '↓'}" for measure in evaluation.MEASURES]
    assert [table.splitlines()[0].strip() for table in tables] == titles
    for measure, table in zip(evaluation.MEASURES, tables, strict=True):
        if measure.name == "seconds":
            continue
        line = next(line for line in table.splitlines() if "telea" in line)
        cells = [cell.strip() for cell in line.split("│")[2:-1]]
        means = [document["buckets"][b]["means"]["telea"][measure.name] for b in ("0.01-0.1", "0.1-0.2")]
        assert cells == [f"{mean:.{measure.digits}f}" for mean in means]
        assert ("at the border" in table) and ("clear of it" in table)


def test_the_best_of_a_column_is_bold_and_halves_that_do_not_exist_are_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui, "Console", lambda: Console(force_terminal=True, color_system="standard", width=100))
    items = tuple(
        Measured("a", "m", 0.05, BUCKETS[0], True, name, *[value] * 8) for name, value in (("net", 1), ("telea", 2))
    )
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: result(items=items))
    assert app.run(["evaluate", "photos", "masks"]) == 0
    shown = capsys.readouterr().out
    assert "at the border" not in shown and "0.1-0.2" not in shown
    tables = re.split(r"(?=\x1b\[3m\w)", shown)[1:]
    for measure, table in zip(evaluation.MEASURES, tables, strict=True):
        bold = re.findall(r"\x1b\[1m *(\d+\.\d+)(?=\x1b| )", table)
        assert bold == [f"{2 if measure.higher else 1:.{measure.digits}f}"]
    assert shown.splitlines()[-1] == (
        "Best in the most buckets. PSNR inside the holes: telea (1 of 1); SSIM: telea (1 of 1); "
        "L1: net (1 of 1); Perceptual distance: net (1 of 1)."
    )


def test_methods_that_are_best_equally_often_are_all_named() -> None:
    items = tuple(
        Measured("a", "m", 0.05, BUCKETS[bucket], True, name, *[value] * 8)
        for bucket, values in ((0, (1, 2)), (1, (2, 1)), (2, (3, 3)))
        for name, value in zip(("net", "telea"), values, strict=True)
    )
    for measure in evaluation.MEASURES:
        assert result(items=items).mostly_best(measure) == (("net", "telea"), 2)
    assert result(items=()).mostly_best(evaluation.MEASURES[0]) == ((), 0)


def test_elevation_models_are_evaluated_by_their_own_range_and_not_as_white(work: Workplace) -> None:
    stocked(work, {"dot.png": square(28)}, pictures=0)
    save(work.pictures / "dem.tif", texture(SIDE, SIDE, 1).astype(np.int16) * 30 - 2000)
    done, _ = run(work)
    assert done.items and all(5 < item.psnr_hole < 60 and item.perceptual > 0 for item in done.items)


def test_two_runs_agree_in_all_but_seconds(stock: Workplace) -> None:
    first, second = ([{**vars(item), "seconds": 0} for item in run(stock)[0].items] for _ in range(2))
    assert first == second


def test_the_plot_shows_four_measures_over_the_buckets_that_hold_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(curves, "draw", lambda stream, *arguments: drawn.extend(arguments))
    done = result()
    evaluation.save(done, EvaluateSettings(plot=tmp_path / "p.png"))
    panels, buckets, through = drawn
    assert tuple(buckets) == (BUCKETS[0], BUCKETS[4]) and set(through) == {"net"}
    better = {"psnr_hole": "higher", "ssim": "higher", "l1": "lower", "perceptual": "lower"}
    titles = {measure.name: measure.title for measure in evaluation.MEASURES}
    assert list(panels) == [f"{titles[name]} ({side} is better)" for name, side in better.items()]
    for name, panel in zip(better, panels.values(), strict=True):
        means = {method: [done.mean(name, method, BUCKETS[number]) for number in (0, 4)] for method in done.methods}
        assert panel == means and list(panel) == ["net", "telea"]


def test_an_evaluation_without_items_is_saved_too(tmp_path: Path) -> None:
    settings = EvaluateSettings(csv=tmp_path / "r.csv", plot=tmp_path / "p.png")
    evaluation.save(result(items=()), settings)
    assert (tmp_path / "r.csv").read_text("utf-8").count("\n") == 1


# ---------------------------------------------------------------- the command


def test_0_and_nothing_on_stderr_but_what_was_asked_for(stock: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(stock, "--weights", "none") == 0
    out, err = capsys.readouterr()
    assert "PSNR inside the holes, dB" in out and err == ""


def test_progress_plain_and_json(stock: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    (stock.masks / "bad.png").write_bytes(b"")
    command(stock, "--weights", "none", "--progress", "plain", "--precision", "fp32")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("failed bad.png: ") and lines[1] == "2 pairs, by none, on cpu in fp32"
    assert re.fullmatch(r"\[1/2\] measured p\d\.png under \w+/\w+\.png: \d\.\d% damaged", lines[2])
    assert re.fullmatch(r"2 measured, 1 failed in \d+\.\d s", lines[-1])
    command(stock, "--weights", "none", "--progress", "json")
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["item_failed", "evaluation_started", "pair_measured", "pair_measured", "evaluation_finished"]


def test_progress_bar_takes_all_events(stock: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    (stock.masks / "bad.png").write_bytes(b"")
    assert command(stock, "--weights", "none", "--progress", "bar") == 1
    assert "failed bad.png" in capsys.readouterr().err


def test_1_where_something_cannot_be_read_and_the_rest_is_shown(
    stock: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    (stock.pictures / "bad.png").write_bytes(b"")
    assert command(stock, "--weights", "none") == 1
    out, err = capsys.readouterr()
    assert "n = 1" in out and err.startswith("failed bad.png: ")


def test_1_where_nothing_can_be_read(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    (work.pictures / "bad.png").write_bytes(b"")
    work.mask("m.png", square(30))
    assert command(work, "--weights", "none") == 1 and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--methods", "pconv,patchmatch"), "patchmatch is no method; there are pconv, telea"),
        (("--methods", ","), "none is named"),
        (("--methods", "telea", "--weights", "none"), "add it"),
    ],
)
def test_2_for_methods_that_make_no_sense(
    stock: Workplace, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    assert command(stock, *options) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1


def test_2_for_a_place_that_is_not_there(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    work.picture("a.png")
    assert app.run(["evaluate", str(work.pictures), str(work.root / "nowhere")]) == 2
    assert "masks are looked for there" in capsys.readouterr().err
    assert app.run(["evaluate", str(work.root / "nowhere"), str(work.masks)]) == 2


@pytest.mark.parametrize("settings", [EvaluateSettings(size=31), EvaluateSettings(per_bucket=0)])
def test_settings_that_make_no_sense_are_refused(stock: Workplace, settings: EvaluateSettings) -> None:
    with pytest.raises(UsageError, match="or more"):
        run(stock, settings)


def test_3_where_there_is_no_picture_no_mask_or_none_in_a_bucket(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(work, "--weights", "none") == 3
    work.picture("a.png", size=(40, 40))
    assert command(work, "--weights", "none") == 3
    work.mask("a.png", np.ones((40, 40), np.bool_))
    assert command(work, "--weights", "none") == 3
    assert "white = hole" in capsys.readouterr().err
    assert app.run(["evaluate", str(work.masks), str(work.masks)]) == 3


def test_4_and_6_for_weights_and_devices_that_are_not_there(stock: Workplace) -> None:
    assert command(stock, "--weights", "no-such-name") == 4
    assert command(stock, "--device", "cuda:99") == 6


@pytest.mark.parametrize("option", ["--csv", "--plot"])
def test_5_where_a_file_is_there_before_any_work(
    stock: Workplace, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    target = stock.root / "results.png"
    target.write_bytes(b"mine")
    assert command(stock, "--weights", "none", option, str(target)) == 5
    out, err = capsys.readouterr()
    assert out == "" and "--overwrite" in err and target.read_bytes() == b"mine"
    assert command(stock, "--weights", "none", option, str(target), "--overwrite") == 0
    assert target.read_bytes() != b"mine"
    assert sorted(path.name for path in stock.root.iterdir()) == ["in", "masks", "results.png"]


def test_5_for_places_that_cannot_be_written(stock: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    picture = stock.pictures / "p0.png"
    before = picture.read_bytes()
    assert command(stock, "--plot", str(picture), "--overwrite") == 5
    assert picture.read_bytes() == before
    assert command(stock, "--csv", str(stock.root / "no" / "folder.csv")) == 5
    assert command(stock, "--csv", str(stock.masks), "--overwrite") == 5
    assert command(stock, "--csv", str(stock.root / "x.png"), "--plot", str(stock.root / "x.png")) == 5
    assert command(stock, "--plot", str(stock.root / "x.pdf")) == 2
    assert capsys.readouterr().out == ""


def test_5_and_the_tables_where_the_disk_is_full_in_the_end(
    stock: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert command(stock, "--weights", "none", "--csv", str(stock.root / "x.csv")) == 5
    out, err = capsys.readouterr()
    assert "PSNR" in out and "No space" in err and not (stock.root / "x.csv").exists()


def test_a_missing_package_is_an_error_where_it_was_asked_for_and_a_note_where_not(
    stock: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    assert command(stock, "--methods", "biharmonic") == 2
    out, err = capsys.readouterr()
    assert out == "" and "pip install 'pconv[evaluate]'" in err and err.count("\n") == 1
    done, events = run(stock, EvaluateSettings(weights=("none",), per_bucket=1, device="cpu"))
    assert done.methods == ("none", "telea", "ns", "fillnodata")
    (note,) = [event.text for event in events if isinstance(event, Notice)]
    assert note.startswith("left out: biharmonic: ") and "pconv[evaluate]" in note


def test_a_plot_without_its_package_is_refused_before_any_work(
    stock: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert command(stock, "--plot", str(stock.root / "p.png")) == 2
    out, err = capsys.readouterr()
    assert out == "" and "pip install 'pconv[evaluate]'" in err


def test_130_where_ctrl_c_stops_it_and_what_there_is_is_shown(
    stock: Workplace, capsys: pytest.CaptureFixture[str], method: Callable[[str, Method], None]
) -> None:
    def pressed(seen: Pixels, hole: Hole) -> Pixels:
        os.kill(os.getpid(), signal.SIGINT)
        return seen

    method("telea", pressed)
    rows = stock.root / "rows.csv"
    assert command(stock, "--methods", "telea", "--csv", str(rows)) == 130
    out, err = capsys.readouterr()
    assert "n = 1" in out and "stopping" in err and len(rows.read_text("utf-8").splitlines()) == 2


def test_every_option_reaches_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []

    def fake(*arguments: Any) -> Evaluation:
        got.extend(arguments)
        return result(items=())

    monkeypatch.setattr(evaluation, "evaluate", fake)
    monkeypatch.setattr(evaluation, "save", lambda done, settings: got.append(settings))
    line = "evaluate photos masks --weights a --weights b --methods pconv,ns --per-bucket 3 --seed 5 --size 64"
    line += " --device mps --precision bf16 --csv c.csv --plot p.png --overwrite"
    assert app.run(line.split()) == 0
    assert got[:2] == [Path("photos"), Path("masks")]
    assert got[2] == got[-1] == EvaluateSettings(
        weights=("a", "b"), methods=("pconv", "ns"), per_bucket=3, seed=5, size=64, device="mps", precision="bf16",
        csv=Path("c.csv"), plot=Path("p.png"), overwrite=True,
    )  # fmt: skip
    got.clear()
    assert app.run(["evaluate", "photos", "masks"]) == 0 and got[2] == EvaluateSettings()


def test_help_says_what_the_buckets_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["evaluate", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "within 50 px" in shown and "pconv,telea,ns,biharmonic,fillnodata" in shown
    assert BORDER == 50 and ",".join(evaluation.METHODS) == "pconv,telea,ns,biharmonic,fillnodata"


def test_the_default_weights_are_measured_unless_others_are_named(stock: Workplace) -> None:
    default = store.find(None)
    assert default is not None
    done, _ = run(stock, EvaluateSettings(methods=("pconv",), per_bucket=1, device="cpu"))
    assert done.methods == (default.stem,)
