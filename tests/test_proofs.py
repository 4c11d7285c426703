"""The report of a run: what it shows of what was restored, what it says, and that it never costs a result."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Workplace, box, pixels, texture
from PIL import Image
from rasterio.transform import Affine

from pconv_cli import proofs
from pconv_cli.cli import app
from pconv_cli.regions import Damage, Window
from pconv_cli.tiles import plan_tiles

Run = Callable[..., int]


@pytest.fixture
def run(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`pconv` in the workplace, with the pyramid, on the CPU."""
    monkeypatch.chdir(work.root)
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    return lambda *arguments: app.run([*arguments, "--weights", "none", "--device", "cpu"])


def page(folder: Path = Path("report")) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', (folder / "index.html").read_text("utf-8"), re.S)
    assert found
    document: dict[str, Any] = json.loads(found[1])
    return document


def entry(name: str, folder: Path = Path("report")) -> dict[str, Any]:
    return next(one for one in page(folder)["entries"] if one["name"] == name)


def shown(file: str) -> np.ndarray[Any, Any]:
    return pixels(Path("report") / file)


def close(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return (
        one.shape == other.shape and float(np.abs(one.astype(int) - other).mean()) < 6
    )  # what JPEG loses of the noise


# ---------------------------------------------------------------- restore


def test_before_after_and_mask_of_every_picture_are_there_at_full_size(work: Workplace, run: Run) -> None:
    source, hole = work.pair("box/a.png", size=(90, 60))
    assert run("restore", "in", "masks", "out", "--report", "report") == 0
    (sheet,) = entry("box/a.png")["sheets"]
    assert (sheet["width"], sheet["height"], sheet["scale"]) == (90, 60, 1)
    before, after = sheet["views"]
    assert (before["name"], after["name"]) == ("before", "after")
    assert close(shown(before["file"]), pixels(source)) and close(shown(after["file"]), pixels(work.out / "box/a.png"))
    assert not close(shown(before["file"]), shown(after["file"]))
    with Image.open(Path("report") / sheet["mask"]) as image:
        assert ((np.asarray(image.convert("RGBA"))[..., 3] > 0) == hole).all()


def test_json_and_csv_hold_every_item_as_the_run_reported_it(
    work: Workplace, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    work.pair("a.png")
    work.pair("b.png")
    (work.masks / "b.png").write_bytes(b"no picture")
    assert run("restore", "in", "masks", "out", "--report", "report", "--json") == 1
    *items, summary = map(json.loads, capsys.readouterr().out.splitlines())
    told = {item["name"]: item for item in items}
    document = json.loads(Path("report/report.json").read_text("utf-8"))
    for one in document["pictures"]:
        item = told[one["name"]]
        assert {key: one[key] for key in item if key != "type"} == {k: v for k, v in item.items() if k != "type"}
    assert {key: document[key] for key in ("restored", "failed", "settings")} == {
        key: summary[key] for key in ("restored", "failed", "settings")
    }
    with Path("report/report.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert rows["a.png"]["status"] == "restored" and rows["b.png"]["status"] == "failed"
    assert rows["b.png"]["reason"] == told["b.png"]["reason"]


def test_failures_stand_apart_with_the_file_at_fault_and_the_reason(work: Workplace, run: Run) -> None:
    work.pair("good.png")
    work.picture("lonely.png")
    assert run("restore", "in", "masks", "out", "--report", "report") == 1
    document = page()
    (failure,) = document["failures"]
    assert failure["name"] == "lonely.png" and failure["path"] == "in/lonely.png" and "no mask" in failure["reason"]
    assert [one["name"] for one in document["entries"]] == ["good.png"]
    assert document["lead"].startswith("1 of 2 pictures is restored, 1 failed.")


def test_the_lead_says_what_was_damaged_and_that_nothing_else_changed(work: Workplace, run: Run) -> None:
    work.pair("a.png", size=(100, 100), hole=box(100, 100, 10, 10, 30, 30))
    assert run("restore", "in", "masks", "out", "--report", "report") == 0
    assert page()["lead"] == (
        "The picture is restored. 4.0 % of the pixels were damaged; all of that is filled. "
        "Outside the masks no pixel has changed."
    )


def test_pictures_come_by_their_seams_and_those_without_by_their_damage(work: Workplace, run: Run) -> None:
    for name, side in (("cut.png", 90), ("large.png", 20), ("small.png", 8)):
        work.pair(name, size=(128, 128), hole=box(128, 128, 10, 10, 10 + side, 10 + side))
    work.pair("none.png", size=(128, 128), hole=box(128, 128, 0, 0, 0, 0))
    assert run("restore", "in", "masks", "out", "--report", "report", "--tile-size", "64") == 0
    document = page()
    assert document["orders"][0] == ["seam", "worst seams first"]
    rank = {one["name"]: one["order"]["seam"] for one in document["entries"]}
    assert sorted(rank, key=rank.__getitem__, reverse=True) == ["cut.png", "large.png", "small.png", "none.png"]
    assert dict(entry("cut.png")["facts"])["seam"] != "–" and dict(entry("large.png")["facts"])["seam"] == "–"
    assert entry("none.png")["note"] == "no damage, copied"


def test_a_picture_that_exif_turns_is_shown_as_people_see_it(work: Workplace, run: Run) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    hole = box(90, 60, 10, 10, 20, 30)
    work.mask("a.png", hole)
    work.picture("a.jpg", size=(90, 60), hole=hole, exif=exif, quality=95)
    assert run("restore", "in", "masks", "out", "--report", "report", "--mask-on", "stored") == 0
    (sheet,) = entry("a.jpg")["sheets"]
    assert (sheet["width"], sheet["height"]) == (60, 90)
    upright = np.rot90(pixels(work.out / "a.jpg"), -1)
    assert close(shown(sheet["views"][1]["file"]), upright)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("P", "png"), ("RGBA", "png"), ("L", "tif")])
def test_every_kind_of_picture_can_be_shown(work: Workplace, run: Run, mode: str, suffix: str) -> None:
    work.pair(f"a.{suffix}", mode)
    assert run("restore", "in", "masks", "out", "--report", "report") == 0
    assert len(entry(f"a.{suffix}")["sheets"]) == 1


def test_floats_are_shown_in_their_own_range_before_and_after_alike(work: Workplace, run: Run) -> None:
    hole = box(64, 48, 20, 20, 30, 30)
    values = texture(64, 48, 1)[..., 0].astype(np.float32) * 10 - 300
    values[hole] = 1e6
    Image.fromarray(values).save(work.pictures / "a.tif")
    work.mask("a.png", hole)
    assert run("restore", "in", "masks", "out", "--report", "report") == 0
    before, after = (shown(view["file"]) for view in entry("a.tif")["sheets"][0]["views"])
    assert close(before[:15], after[:15]) and before[:15].std() > 20


@pytest.mark.parametrize("command", ["restore", "tile"])
def test_16_bits_are_shown_by_all_that_is_known_and_not_by_what_lies_round_the_damage(
    work: Workplace, run: Run, command: str
) -> None:
    deep = texture(200, 160, 1)[..., 0].astype(np.uint16) * 257
    deep[:60, :60] //= 512
    Image.fromarray(deep).save(work.pictures / "a.tif")
    mask = work.mask("a.png", box(200, 160, 20, 20, 26, 32))
    line = ("restore", "in", "masks", "out", "--tile-size", "48")
    if command == "tile":
        line = ("tile", "in/a.tif", "--mask", str(mask), "-o", "out.tif", "--size", "48")
    assert run(*line, "--report", "report") == 0
    for view in entry("a.tif")["sheets"][0]["views"]:
        assert close(shown(view["file"])[60:, 60:, 0], (deep >> 8).astype(np.uint8)[60:, 60:])


def test_a_large_picture_is_shown_reduced_with_its_worst_places_pixel_by_pixel(
    work: Workplace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "PRINTED", 100 * 100)
    monkeypatch.setattr(proofs, "OVERVIEW", 60)
    monkeypatch.setattr(proofs, "PLACE", 40)
    hole = box(240, 120, 100, 20, 220, 100)
    work.pair("a.png", size=(240, 120), hole=hole)
    assert run("restore", "in", "masks", "out", "--report", "report", "--tile-size", "64") == 0
    overview, *places = entry("a.png")["sheets"]
    assert (overview["width"], overview["height"], overview["scale"]) == (60, 30, 0.25)
    assert 1 <= len(places) <= proofs.PLACES
    ratios = [float(place["title"].split()[1]) for place in places if place["title"].startswith("seam")]
    assert ratios and ratios == sorted(ratios, reverse=True)
    after = pixels(work.out / "a.png")
    x, y = (int(number) for number in re.findall(r"at (\d+), (\d+)", places[0]["title"])[0])
    assert (places[0]["width"], places[0]["height"], places[0]["scale"]) == (40, 40, 1)
    left, top = min(max(x - 20, 0), 200), min(max(y - 20, 0), 80)
    assert close(shown(places[0]["views"][1]["file"]), after[top : top + 40, left : left + 40])


def test_the_worst_step_across_a_cut_is_the_first_place() -> None:
    hole = box(600, 60, 10, 5, 590, 55)
    plan = plan_tiles(hole, 64)
    cuts = [cut for cut in plan.cuts.tolist() if cut[0] == cut[2]]
    assert len(cuts) > 3
    picture = texture(600, 60).astype(np.int64)
    worst = cuts[len(cuts) // 2]
    picture[:, worst[0] :] += 30
    found = proofs.worst_places(plan, lambda window: picture.clip(0, 255).astype(np.uint8)[window.slices])
    title, window = found[0]
    assert title.startswith("seam") and f"at {worst[0]}," in title
    assert window.x <= worst[0] < window.right


def test_without_cuts_the_largest_damage_is_the_first_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "PLACE", 100)
    hole = box(2000, 300, 100, 100, 110, 110) | box(2000, 300, 1500, 100, 1600, 200)
    first = proofs.worst_places(plan_tiles(hole, 512), lambda window: texture(window.width, window.height))[0]
    assert first[0].startswith("damage") and Damage.of(hole).window(first[1]).sum() > 2000
    assert isinstance(first[1], Window)


def test_where_the_page_cannot_be_written_the_run_ends_with_5_and_its_results_stand(
    work: Workplace, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work.pair("a.png")
    whole = proofs.Folder.write

    def taken(folder: Any, *arguments: Any) -> Path:
        (folder.path / "report.csv").mkdir()
        return whole(folder, *arguments)

    monkeypatch.setattr(proofs.Folder, "write", taken)
    assert run("restore", "in", "masks", "out", "--report", "report", "--json") == 5
    said = capsys.readouterr()
    assert (work.out / "a.png").exists()
    assert json.loads(said.out.splitlines()[-1])["restored"] == 1
    assert "what was restored is there all the same" in said.err.splitlines()[-1]
    assert not Path("report/index.html").exists()


def test_a_picture_that_cannot_be_shown_is_listed_with_the_reason(
    work: Workplace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    read = proofs.read_picture

    def gone(path: Path) -> Any:
        path.unlink()
        return read(path)

    monkeypatch.setattr(proofs, "read_picture", gone)
    assert run("restore", "in", "masks", "out", "--report", "report") == 0
    assert "cannot be shown" in entry("a.png")["notices"][0] and entry("a.png")["sheets"] == []


def test_resume_keeps_the_figures_of_what_an_earlier_run_has_done(work: Workplace, run: Run) -> None:
    work.pair("a.png")
    line = ("restore", "in", "masks", "out", "--report", "report")
    assert run(*line, "--sample", "1", "--resume") == 0
    before = entry("a.png")
    work.pair("b.png")
    assert run(*line, "--resume") == 0
    assert entry("a.png")["facts"] == before["facts"] and entry("a.png")["note"] == "by an earlier run"
    assert len(entry("a.png")["sheets"]) == 1 and entry("b.png")["note"] == ""


@pytest.mark.parametrize("alone", [True, False])
def test_figures_of_another_file_in_the_same_place_are_not_taken_over(work: Workplace, run: Run, alone: bool) -> None:
    work.pair("a.png", size=(100, 100), hole=box(100, 100, 10, 10, 30, 30))
    line = ("restore", "in", "masks", "out")
    assert run(*line, "--report", "report", "--resume") == 0
    work.pair("a.png", size=(100, 100), hole=box(100, 100, 0, 0, 50, 50))
    assert run(*line, "--overwrite") == 0
    if not alone:
        work.pair("b.png", size=(100, 100), hole=box(100, 100, 10, 10, 30, 30))
    assert run(*line, "--report", "report", "--resume") == 0
    listed = entry("a.png")
    assert listed["facts"] == [] and listed["note"] == "by an earlier run" and len(listed["sheets"]) == 1
    told = json.loads(Path("report/report.json").read_text("utf-8"))["pictures"][0]
    assert told["status"] == "done_before" and told["hole_share"] is None and told["width"] == 0
    assert page()["lead"] == (
        "The picture is restored. Figures of 1 picture by an earlier run are not known."
        if alone
        else "All 2 pictures are restored. Figures of 1 picture by an earlier run are not known, and what follows is "
        "of the others. 4.0 % of the pixels were damaged; all of that is filled. "
        "Outside the masks no pixel has changed."
    )
    assert run(*line, "--report", "report", "--resume") == 0
    assert entry("a.png")["facts"] == [], "nor does a report know what the one before did not"


def test_an_existing_report_is_refused_before_anything_is_restored(work: Workplace, run: Run) -> None:
    work.pair("a.png")
    line = ("restore", "in", "masks", "out", "--report", "report")
    assert run(*line) == 0
    (work.out / "a.png").unlink()
    assert run(*line) == 5
    assert not (work.out / "a.png").exists()
    assert run(*line, "--overwrite") == 0


@pytest.mark.parametrize("place", ["in/report", "masks"])
def test_2_where_a_report_would_lie_among_the_inputs(work: Workplace, run: Run, place: str) -> None:
    work.pair("a.png")
    assert run("restore", "in", "masks", "out", "--report", place) == 2
    assert not work.out.exists()


def test_2_for_a_report_of_what_is_piped(work: Workplace, run: Run) -> None:
    assert run("restore", "-", "masks/a.png", "out.png", "--report", "report") == 2


# ---------------------------------------------------------------- tile


def test_one_large_picture_has_a_page_too(work: Workplace, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "PRINTED", 100 * 100)
    monkeypatch.setattr(proofs, "OVERVIEW", 75)
    monkeypatch.setattr(proofs, "PLACE", 40)
    hole = box(300, 200, 120, 60, 220, 160)
    work.pair("map.tif", size=(300, 200), hole=hole)
    line = ("tile", "in/map.tif", "--mask", "masks/map.png", "-o", "map.tif", "--size", "64")
    assert run(*line, "--report", "report") == 0
    overview, *places = entry("map.tif")["sheets"]
    assert (overview["width"], overview["height"]) == (75, 50) and len(places) >= 1
    before, after = (shown(view["file"]) for view in overview["views"])
    hole_seen = hole[2::4, 2::4]
    assert np.abs(before.astype(int) - after)[hole_seen].mean() > 40
    assert close(after, pixels(Path("map.tif"))[2::4, 2::4])
    assert page()["lead"].startswith("The picture is restored.")


@pytest.mark.parametrize(("dtype", "nodata"), [("float32", np.nan), ("float64", -1.7e308), ("int16", -32768)])
def test_a_large_picture_of_any_type_is_shown_in_the_range_of_what_is_known(
    work: Workplace, run: Run, dtype: str, nodata: float
) -> None:
    hole = box(64, 48, 20, 20, 30, 30)
    values = texture(64, 48, 1)[..., 0].astype(dtype) * 10 - 300
    values[hole] = nodata
    kind = {"driver": "GTiff", "width": 64, "height": 48, "count": 1, "dtype": dtype, "nodata": nodata}
    with rasterio.open(work.pictures / "map.tif", "w", transform=Affine(2, 0, 0, 0, -2, 40), **kind) as file:
        file.write(values, 1)
    assert run("tile", "in/map.tif", "-o", "out.tif", "--report", "report") == 0
    before, after = (shown(view["file"]) for view in entry("map.tif")["sheets"][0]["views"])
    assert close(before[:15], after[:15]) and before[:15].std() > 20
    assert (before[22:28, 22:28] < 20).all() and after[22:28, 22:28].mean() > 60


def test_a_large_picture_that_failed_is_reported_as_failed(work: Workplace, run: Run) -> None:
    work.pair("map.tif")
    Path("out.tif").write_bytes(b"in the way")
    assert run("tile", "in/map.tif", "--mask", "masks/map.png", "-o", "out.tif", "--report", "report") == 1
    assert page()["failures"][0]["path"] == "out.tif" and page()["entries"] == []
