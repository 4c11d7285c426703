"""Comparison: holes of the user's own shapes in undamaged places, measured as an evaluation does, and honest advice."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Workplace, box, pixels, texture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from reference import one_thread  # noqa: F401 - a fixture

from pconv_cli import classical, comparison
from pconv_cli.cli import app
from pconv_cli.comparison import KEEP_OFF, MOST_HIDDEN, RIM, SMALLEST_HOLE, CompareSettings, advise, compare, place
from pconv_cli.errors import NothingToDo, OutputError, UsageError
from pconv_cli.evaluation import Measured, evaluate
from pconv_cli.events import Event, ItemFailed, Notice
from pconv_cli.masks import dilate
from pconv_cli.regions import Damage
from pconv_cli.restore import RestoreSettings, plan

Hole = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
SIDE = 160
QUICK = CompareSettings(
    weights=("none",), methods=("pconv", "telea"), places=4, side=96, device="cpu", precision="fp32"
)


def scratched(picture: int = SIDE) -> Hole:
    """Two shapes at the left, nothing at the right."""
    return box(picture, picture, 20, 20, 26, 60) | box(picture, picture, 30, 90, 50, 96)


def stocked(work: Workplace, pictures: int = 2, **save: Any) -> Workplace:
    for number in range(pictures):
        work.pair(f"p{number}.png", size=(SIDE, SIDE), hole=scratched(), seed=number, **save)
    return work


def run(work: Workplace, wanted: CompareSettings = QUICK, **more: Any) -> tuple[comparison.Comparison, list[Event]]:
    events: list[Event] = []
    reading = RestoreSettings()
    todo = plan(work.pictures, work.masks, "nowhere/", reading)
    return compare(todo, reading, wanted, events.append, **more), events


# ---------------------------------------------------------------- places

holes = st.builds(
    lambda boxes, h, w: np.logical_or.reduce(
        [np.zeros((h, w), np.bool_), *(box(w, h, x, y, x + across, y + down) for x, y, across, down in boxes)]
    ),
    st.lists(st.tuples(*[st.integers(0, 150)] * 2, *[st.integers(1, 60)] * 2), min_size=1, max_size=6),
    st.integers(80, 200),
    st.integers(80, 200),
)


@settings(max_examples=60, deadline=None)
@given(damage=holes, shapes=holes, seed=st.integers(0, 9))
def test_what_is_punched_keeps_off_damage_and_leaves_a_rim(damage: Hole, shapes: Hole, seed: int) -> None:
    if not shapes.any():
        return
    found = place(damage, Damage.of(shapes), 96, np.random.default_rng(seed))
    if found is None:
        return
    where, hole = found
    side = min(96, *damage.shape)
    rim = min(RIM, side // 8)
    assert hole.shape == (where.height, where.width) == (side, side)
    assert 0 <= where.x <= damage.shape[1] - side and 0 <= where.y <= damage.shape[0] - side
    assert not (hole & dilate(damage, KEEP_OFF)[where.slices]).any()
    assert hole.sum() >= SMALLEST_HOLE and (hole | damage[where.slices]).mean() <= MOST_HIDDEN
    assert hole[rim:-rim, rim:-rim].sum() == hole.sum()


def test_shapes_are_those_of_the_mask_moved_mirrored_and_turned() -> None:
    """An L that is longer than it is wide: its eight ways to lie, and no other shape."""
    ell = np.zeros((9, 5), np.bool_)
    ell[:, :2] = ell[7:] = True
    shapes = np.zeros((SIDE, SIDE), np.bool_)
    shapes[70:79, 70:75] = ell
    ways = {way.tobytes() + bytes(way.shape) for k in range(4) for way in (np.rot90(ell, k), np.rot90(ell, k)[:, ::-1])}
    damage, seen = np.zeros((SIDE, SIDE), np.bool_), set()
    for seed in range(60):
        found = place(damage, Damage.of(shapes), 96, np.random.default_rng(seed))
        if found is None:
            continue
        rows, columns = np.nonzero(found[1])
        cut = np.ascontiguousarray(found[1][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
        seen.add(cut.tobytes() + bytes(cut.shape))
    assert seen == ways


@pytest.mark.parametrize("shape", [(0, 60, 5, 90), (155, 60, 160, 90), (60, 0, 90, 5), (60, 155, 90, 160)], ids=str)
def test_torn_edges_are_shapes_like_others(shape: tuple[int, int, int, int]) -> None:
    torn = box(SIDE, SIDE, *shape)
    found = place(torn, Damage.of(torn), 96, np.random.default_rng(0))
    assert found is not None and found[1].sum() == torn.sum()


def test_a_shape_near_damage_is_left_out_as_a_whole() -> None:
    damage = box(96, 96, 0, 0, 96, 48)
    shapes = box(96, 96, 20, 60, 30, 70) | box(96, 96, 40, 40, 50, 66)  # one of them would reach into the damage
    found = place(damage, Damage.of(shapes), 96, np.random.default_rng(3))
    assert found is not None
    _, boxes = Damage.of(found[1]).components()
    sizes = {tuple(sorted((right - left, bottom - top))) for left, top, right, bottom in boxes.tolist()}
    assert sizes <= {(10, 10), (10, 26)} and sizes


def test_a_net_of_scratches_that_reaches_everywhere_is_cut_where_it_comes_near_damage() -> None:
    net = np.zeros((200, 200), np.bool_)
    net[::24] = net[:, ::24] = True
    assert place(net, Damage.of(net), 96, np.random.default_rng(0)) is not None


def test_where_all_is_damaged_there_is_no_place() -> None:
    full = np.ones((120, 120), np.bool_)
    assert place(full, Damage.of(scratched()), 96, np.random.default_rng(0)) is None


# ---------------------------------------------------------------- the run


def test_the_same_seed_measures_the_same_and_another_other_holes(work: Workplace) -> None:
    stocked(work)
    one, again = run(work)[0], run(work)[0]
    assert [replace(item, seconds=0) for item in one.items] == [replace(item, seconds=0) for item in again.items]
    other = run(work, replace(QUICK, seed=1))[0]
    assert [item.psnr_hole for item in one.items] != [item.psnr_hole for item in other.items]


def test_places_are_spread_over_the_pictures_and_every_method_fills_the_same(work: Workplace) -> None:
    stocked(work, 3)
    found, _ = run(work)
    assert found.measured == 4 and len(found.items) == 8
    per = [sum(item.picture == f"p{n}.png" for item in found.items) // 2 for n in range(3)]
    assert sorted(per) == [1, 1, 2]
    for ours, theirs in zip(found.items[::2], found.items[1::2], strict=True):
        assert (ours.method, theirs.method) == ("none", "telea")
        assert (ours.picture, ours.ratio) == (theirs.picture, theirs.ratio)


def test_no_picture_is_read_once_all_places_are_found(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    stocked(work, 6)
    read: list[str] = []
    inner = comparison.Reader.read
    monkeypatch.setattr(comparison.Reader, "read", lambda self, job: read.append(job.name) or inner(self, job))
    found, _ = run(work, replace(QUICK, places=2))
    assert found.measured == 2 and len(read) == 2


def test_methods_see_neither_what_was_punched_nor_what_is_damaged(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stocked(work, 1)
    seen: list[tuple[Pixels, Hole]] = []

    def spy(name: str) -> classical.Method:
        return lambda picture, hole: seen.append((picture.copy(), hole.copy())) or picture  # type: ignore[func-returns-value]

    monkeypatch.setattr(classical, "load", spy)
    monkeypatch.setattr(comparison, "SMALLEST_HOLE", 1)
    run(work, replace(QUICK, methods=("telea",), side=SIDE, weights=(None,)))
    assert seen
    for picture, hole in seen:
        assert (picture[hole] == 255).all()
        assert (hole & scratched() == scratched()).all() and hole.sum() > scratched().sum()
        assert (picture[~hole] == pixels(work.pictures / "p0.png")[~hole]).all()


def test_methods_see_all_16_bits_wherever_the_damage_is(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage in a dark corner, beside which 8 bits would do: the places are elsewhere."""
    deep = texture(SIDE, SIDE, 1)[..., 0].astype(np.uint16) * 257
    deep[:60, :60] //= 512
    Image.fromarray(deep).save(work.pictures / "a.png")
    work.mask("a.png", box(SIDE, SIDE, 20, 20, 26, 32))
    seen: list[Pixels] = []

    def spy(name: str) -> classical.Method:
        return lambda picture, hole: seen.append(picture[~hole]) or picture  # type: ignore[func-returns-value]

    monkeypatch.setattr(classical, "load", spy)
    reading = RestoreSettings(tile_size=48)
    todo = plan(work.pictures, work.masks, "nowhere/", reading)
    compare(todo, reading, replace(QUICK, methods=("telea",), weights=(None,)), lambda event: None)
    assert seen and all((colours == 255).mean() < 0.1 for colours in seen)


def test_only_what_was_punched_is_measured(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that puts back the truth, and ruins what is damaged, has made no error."""
    stocked(work, 1)
    truth = pixels(work.pictures / "p0.png")

    def perfect(name: str) -> classical.Method:
        return lambda picture, hole: np.where(scratched()[..., None], np.uint8(7), truth)

    monkeypatch.setattr(classical, "load", perfect)
    found, _ = run(work, replace(QUICK, methods=("telea",), side=SIDE, weights=(None,)))
    assert found.items and all(item.psnr_hole == math.inf and item.perceptual == 0 for item in found.items)
    assert all(one["psnr_hole"] is None for one in json.loads(found.as_json())["items"])


def test_it_measures_as_an_evaluation_does(work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hole that was punched, given to `evaluate` as a mask over the same picture, has the same figures."""
    work.picture("a.png", size=(SIDE, SIDE), seed=5)
    work.mask("a.png", np.zeros((SIDE, SIDE), np.bool_))
    work.pair("b.png", size=(SIDE, SIDE), hole=scratched())
    punched: dict[str, Hole] = {}
    inner = comparison.place

    def noted(damage: Hole, *arguments: Any) -> Any:
        found = inner(damage, *arguments)
        if found is not None and not damage.any():
            punched["a.png"] = found[1]
        return found

    monkeypatch.setattr(comparison, "place", noted)
    found, _ = run(work, replace(QUICK, side=SIDE, places=2))
    own = [item for item in found.items if item.picture == "a.png"]
    other = Workplace(tmp_path / "other")
    other.picture("a.png", size=(SIDE, SIDE), seed=5)
    other.mask("m.png", punched["a.png"])
    wanted = replace(QUICK, size=512).evaluated
    monkeypatch.setattr("pconv_cli.pairs.EDGES", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    told = evaluate(other.pictures, other.masks, wanted, lambda event: None)
    figures = [(item.method, item.psnr_hole, item.ssim_hole, item.perceptual) for item in own]
    assert len(figures) == 2
    assert figures == [(item.method, item.psnr_hole, item.ssim_hole, item.perceptual) for item in told.items]


def test_a_picture_without_damage_takes_the_shapes_of_another(work: Workplace) -> None:
    work.pair("a.png", size=(SIDE, SIDE), hole=scratched())
    for number in range(4):
        work.picture(f"clean{number}.png", size=(SIDE, SIDE), seed=number)
        work.mask(f"clean{number}.png", np.zeros((SIDE, SIDE), np.bool_))
    found, _ = run(work, replace(QUICK, places=5))
    assert any(item.picture.startswith("clean") for item in found.items)


def test_what_cannot_be_read_is_a_failure_and_what_has_no_mask_is_left_out(work: Workplace) -> None:
    stocked(work, 2)
    (work.pictures / "bad.png").write_bytes(b"no picture")
    work.mask("bad.png", scratched())
    work.picture("maskless.png", size=(SIDE, SIDE))
    found, events = run(work)
    assert [failure.name for failure in found.failures] == ["bad.png"]
    assert [event.name for event in events if isinstance(event, ItemFailed)] == ["bad.png"]
    assert any("1 picture has no mask" in event.text for event in events if isinstance(event, Notice))
    assert any("no mask" in notice for notice in found.notices)
    assert found.measured == 4


def test_3_where_there_is_nothing_to_compare(work: Workplace) -> None:
    work.picture("a.png", size=(SIDE, SIDE))
    work.picture("b.png", size=(SIDE, SIDE))
    work.mask("c.png", scratched())
    with pytest.raises(NothingToDo, match="no picture has a mask"):
        run(work)
    work.mask("a.png", np.zeros((SIDE, SIDE), np.bool_))
    with pytest.raises(NothingToDo, match="no hole found an undamaged place"):
        run(work)


def test_a_stop_ends_after_the_place_in_hand(work: Workplace) -> None:
    stocked(work)
    asked = iter([False, False, False])
    found, _ = run(work, stop=lambda: next(asked, True))
    assert 0 < found.measured < 4 and found.interrupted


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"methods": ("magic",)}, UsageError, "magic is no method"),
        ({"side": 40}, UsageError, "--side 40"),
        ({"places": 0}, UsageError, "--places 0"),
        ({"csv": Path("no/such/folder.csv")}, OutputError, "make the folder first"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    work: Workplace, wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    stocked(work, 1)
    with pytest.raises(error, match=says):
        run(work, replace(QUICK, **wrong))


# ---------------------------------------------------------------- advice

Figures = tuple[float, float, float]  # PSNR in the holes, perceptual distance, seconds


def made(figures: dict[str, Figures], places: int = 20, spread: float = 0.01) -> list[Measured]:
    """Fills whose figures scatter a little round these."""
    noise = np.random.default_rng(0).normal(0, spread, (places, len(figures)))
    blank = Measured("p", "m", 0.1, "0.01-0.1", False, "", 0, 0, 0, 0, 0, 0, 0, 0)
    return [
        replace(
            blank, method=method, psnr_hole=psnr + noise[i, j], perceptual=far * (1 + noise[i, j] / 10), seconds=time
        )
        for i in range(places)
        for j, (method, (psnr, far, time)) in enumerate(figures.items())
    ]


def advised(figures: dict[str, Figures], **more: Any) -> tuple[str, str]:
    advice = advise(made(figures, **more), tuple(figures), {"net"})
    assert "\n" not in advice.sentence and advice.sentence.endswith(".") and advice.sentence.count(". ") == 0
    return advice.method, advice.sentence


def test_what_is_best_by_both_measures_is_recommended_with_its_price() -> None:
    method, says = advised({"net": (25, 0.4, 0.5), "telea": (21, 0.7, 0.05), "ns": (22, 0.6, 0.06)})
    assert method == "net"
    assert says.startswith("Use pconv net: it comes closest") and "Navier-Stokes, the next by its looks" in says
    assert "10 times the time of Telea" in says and "chance" not in says


def test_where_a_classical_method_wins_it_is_named_and_no_network_is_needed() -> None:
    method, says = advised({"net": (25, 0.4, 0.5), "telea": (27, 0.3, 0.05)})
    assert method == "telea"
    assert says.startswith("Use Telea: it comes closest") and "no network is needed" in says


def test_what_is_level_by_both_measures_and_ahead_by_neither_is_closest_on_the_whole() -> None:
    method, says = advised({"net": (20.0, 0.402, 0.5), "biharmonic": (20.1, 0.6, 0.3), "fillnodata": (18.0, 0.4, 0.1)})
    assert method == "net" and says.startswith("Use pconv net: on the whole it comes closest")


def test_what_is_as_good_and_faster_is_recommended() -> None:
    method, says = advised({"net": (25, 0.400, 0.5), "fillnodata": (24.9, 0.405, 0.05), "ns": (20, 0.9, 0.01)})
    assert method == "fillnodata"
    assert "as good as the best by both measures" in says and "pconv net (10 times the time)" in says
    assert "no network is needed" in says


def test_where_the_measures_disagree_that_is_said_and_looks_decide() -> None:
    method, says = advised({"net": (22, 0.3, 0.5), "biharmonic": (25, 0.6, 0.3)})
    assert method == "net"
    assert says.startswith("The measures disagree: pconv net looks closest") and "biharmonic where values count" in says


def test_a_method_that_is_exact_somewhere_is_not_the_worse_for_it() -> None:
    items = made({"net": (20, 0.3, 0.5), "telea": (20, 0.3, 0.05)}, spread=0)
    exact = [
        replace(item, psnr_hole=math.inf if item.method == "net" else 60.0, perceptual=0.1) if i < 4 else item
        for i, item in enumerate(items)
    ]
    advice = advise(exact, ("net", "telea"), {"net"})
    assert advice.method == "net" and "dB in the holes" in advice.sentence and "inf" not in advice.sentence


def test_methods_that_are_exact_everywhere_are_level() -> None:
    items = [replace(item, psnr_hole=math.inf) for item in made({"net": (20, 0.0, 0.5), "telea": (20, 0.0, 0.05)})]
    advice = advise(items, ("net", "telea"), {"net"})
    assert advice.method == "telea" and "(100.00 dB in the holes" in advice.sentence


def test_a_lead_that_may_be_chance_is_called_so() -> None:
    figures: dict[str, Figures] = {"net": (25, 0.4, 0.5), "telea": (24, 0.5, 0.05)}
    assert "room for chance" not in advised(figures, places=20)[1]
    assert "3 places leave room for chance" in advised(figures, places=3, spread=9)[1]
    assert "1 place leaves room for chance" in advised(figures, places=1)[1]


def test_one_method_alone_is_no_choice() -> None:
    assert "the only method" in advised({"net": (25, 0.4, 0.5)})[1]


# ---------------------------------------------------------------- the command


@pytest.fixture
def pconv(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(work.root)
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    fixed = ("--weights", "none", "--methods", "pconv,telea", "--places", "3", "--side", "96", "--device", "cpu")
    return lambda *arguments: app.run(["compare", *arguments, *fixed])


def test_the_command_shows_a_table_and_a_sentence(
    work: Workplace, pconv: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    stocked(work)
    assert pconv("in", "masks") == 0
    said = capsys.readouterr().out
    assert "Telea" in said and "pconv none" in said and "3 places" in said
    assert re.search(r"^(Use|The measures disagree)", said, re.M)


def test_json_csv_and_page_agree(
    work: Workplace, pconv: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    stocked(work)
    assert pconv("in", "masks", "--json", "--csv", "rows.csv", "--report", "report") == 0
    told = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(io.StringIO(Path("rows.csv").read_text("utf-8"))))
    assert [float(row["psnr_hole"]) for row in rows] == [item["psnr_hole"] for item in told["items"]]
    assert json.loads(Path("report/report.json").read_text("utf-8"))["means"] == told["means"]
    assert Path("report/report.csv").read_text("utf-8") == Path("rows.csv").read_text("utf-8")
    found = re.search(r'id="data">(.*?)</script>', Path("report/index.html").read_text("utf-8"), re.S)
    assert found
    page = json.loads(found[1])
    assert page["lead"] == told["recommendation"]["sentence"]
    assert len(page["entries"]) == 3
    for one in page["entries"]:
        (sheet,) = one["sheets"]
        assert sheet["views"][0]["name"] == "punched" and sheet["views"][-1]["name"] == "as it was"
        assert {view["name"] for view in sheet["views"]} == {"punched", "pconv none", "Telea", "as it was"}
        assert all((Path("report") / view["file"]).exists() for view in sheet["views"])


def test_the_command_writes_nothing_but_what_is_asked_for(work: Workplace, pconv: Callable[..., int]) -> None:
    stocked(work)
    before = sorted(work.root.rglob("*"))
    assert pconv("in", "masks") == 0
    assert sorted(work.root.rglob("*")) == before


def test_exit_codes(work: Workplace, pconv: Callable[..., int]) -> None:
    stocked(work)
    assert pconv("in") == 2
    assert pconv("in", "masks", "--report", "in/report") == 2
    (work.pictures / "p0.png").write_bytes(b"broken")
    assert pconv("in", "masks") == 1


def test_no_format_is_asked_for_and_none_is_refused(work: Workplace) -> None:
    stocked(work, pictures=0)
    work.picture("p0.png", "RGBA", size=(SIDE, SIDE))
    (work.pictures / "p0.png").rename(work.pictures / "p0.jpg")  # a JPEG could not hold it
    work.mask("p0.png", scratched())
    done, _ = run(work)
    assert done.items and not done.failures
