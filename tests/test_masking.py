"""`pconv mask` and `pconv restore --detect`: from files to files, as a user meets them."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from conftest import Workplace, box, pixels, texture
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import Affine
from test_detection import line, overlap, painted, scan, scene, specks

from pconv_cli import files as filing
from pconv_cli import masking
from pconv_cli.cli import app
from pconv_cli.images import read_mask, read_picture
from pconv_cli.orientations import displayed
from pconv_cli.picture import align_mask

Hole = NDArray[np.bool_]


class Pconv:
    """Runs the command line in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        self._capture.readouterr()
        try:
            return app.run([str(argument) for argument in arguments])
        finally:
            self.out, self.err = self._capture.readouterr()

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.out.splitlines()]


@pytest.fixture
def pconv(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Pconv:
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    return Pconv(capsys)


def damaged(path: Path, seed: int = 0, **save: Any) -> Path:
    """A picture with six specks and a scratch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = painted(painted(scene(seed=seed), specks(), 250), line(), 245)
    Image.fromarray(picture).save(path, **save)
    return path


def white(path: Path) -> Hole:
    mask = pixels(path)
    assert mask.ndim == 2 and set(np.unique(mask)) <= {0, 255}
    return mask > 127


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- detection


def test_a_folder_becomes_a_folder_of_masks_that_restore_takes(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    damaged(work.pictures / "box 1" / "ä.jpg", seed=1, quality=95)
    (work.pictures / "notes.txt").write_text("no picture")
    masks = work.root / "found"
    assert pconv("mask", work.pictures, masks, "--sensitivity", "0.5") == 0
    assert files(masks) == ["a.png", "box 1/ä.png"]
    assert "2 masks made" in pconv.err and "1 .txt" in pconv.err and pconv.out == ""
    for name in files(masks):
        precision, recall = overlap(white(masks / name), specks() | line())
        assert precision > 0.9 and recall > 0.9
    assert pconv("restore", work.pictures, masks, work.out, "--weights", "none", "--device", "cpu") == 0
    mended, before, hole = pixels(work.out / "a.png"), pixels(work.pictures / "a.png"), white(masks / "a.png")
    assert np.array_equal(mended[~hole], before[~hole])
    true = specks()
    assert np.abs(mended[true].astype(int) - scene()[true]).mean() < 12 < np.abs(before[true].astype(int) - 130).mean()


def test_json_tells_share_and_places_and_what_is_above_the_share(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    Image.fromarray(scene()).save(work.pictures / "b.png")
    assert pconv("mask", work.pictures, work.out, "--warn-above", "0.005", "--json", "--detect", "dust") == 0
    first, second, summary = pconv.documents
    hole = white(work.out / "a.png")
    assert first["share"] == pytest.approx(hole.mean(), abs=1e-6) and first["components"] == 6
    assert (
        first["status"] == "made"
        and "look at it" in first["notices"][0]
        and (first["width"], first["height"]) == (320, 240)
    )
    assert second["share"] == 0 == second["components"] and not second["notices"]
    assert (summary["made"], summary["failed"], summary["above"]) == (2, 0, 1)
    assert summary["settings"]["detect"] == ["dust"]
    assert "look at it before you restore" in pconv.err


def test_what_is_there_is_not_replaced_without_overwrite(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    work.out.mkdir()
    (work.out / "a.png").write_bytes(b"mine")
    assert pconv("mask", work.pictures, work.out) == 1
    assert (work.out / "a.png").read_bytes() == b"mine" and "--overwrite" in pconv.err
    assert pconv("mask", work.pictures, work.out, "--overwrite") == 0
    assert white(work.out / "a.png").any() and files(work.out) == ["a.png"]


def test_memory_that_runs_out_fails_one_picture_and_the_others_go_on(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(work.pictures / "a.png")
    damaged(work.pictures / "b.png", seed=1)
    found = masking._found

    def once(*given: Any) -> None:
        monkeypatch.setattr(masking, "_found", found)
        raise MemoryError

    monkeypatch.setattr(masking, "_found", once)
    assert pconv("mask", work.pictures, work.out, "--jobs", "1", "--json") == 1
    first, second, _ = pconv.documents
    assert first["status"] == "failed" and "too big for the memory" in first["reason"] and second["status"] == "made"
    assert files(work.out) == ["b.png"]


def test_a_bug_fails_the_picture_that_met_it_and_the_others_go_on(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(work.pictures / "a.png")
    damaged(work.pictures / "b.png", seed=1)
    found = masking._found

    def once(*given: Any) -> None:
        monkeypatch.setattr(masking, "_found", found)
        raise ZeroDivisionError("too small")

    monkeypatch.setattr(masking, "_found", once)
    assert pconv("mask", work.pictures, work.out, "--jobs", "1", "--json") == 1
    first, second, _ = pconv.documents
    assert first["status"] == "failed" and first["reason"].startswith("this is a bug in pconv: ZeroDivisionError: too")
    assert second["status"] == "made" and files(work.out) == ["b.png"]
    monkeypatch.setenv("PCONV_DEBUG", "1")
    monkeypatch.setattr(masking, "_found", once)
    with pytest.raises(ZeroDivisionError):
        pconv("mask", work.pictures, work.out, "--overwrite", "--jobs", "1")


def test_a_picture_that_fails_is_one_line_and_the_others_go_on(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    (work.pictures / "bad.png").write_bytes(b"no picture")
    assert pconv("mask", work.pictures, work.out, "-q") == 1
    (told,) = pconv.err.splitlines()
    assert told.startswith("failed bad.png") and files(work.out) == ["a.png"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--detect", "rust"), "--detect rust"),
        (("--from", "smell"), "--from smell"),
        (("--from", "alpha", "--detect", "dust"), "choose one of the two"),
        (("--sensitivity", "2"), "--sensitivity"),
        (("--min-area", "9", "--max-area", "3"), "--max-area 3"),
    ],
)
def test_2_for_what_makes_no_sense(work: Workplace, pconv: Pconv, options: tuple[str, ...], says: str) -> None:
    damaged(work.pictures / "a.png")
    assert pconv("mask", work.pictures, work.out, *options) == 2
    (told,) = pconv.err.splitlines()
    assert says in told and not work.out.exists()


def test_2_for_names_that_do_not_go_together(work: Workplace, pconv: Pconv) -> None:
    one = damaged(work.pictures / "a.png")
    assert pconv("mask", one, work.root / "mask.jpg") == 2 and "mask.jpg" in pconv.err
    assert pconv("mask", work.pictures, work.pictures) == 2 and "choose another OUT" in pconv.err
    assert pconv("mask", work.root / "nothing", work.out) == 2
    assert pconv("mask", work.masks, work.out) == 3


def test_pictures_of_one_name_have_a_mask_each_and_those_are_found_again(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        damaged(work.pictures / name)
    seen = work.root / "seen"
    assert pconv("mask", work.pictures, work.out, "--overlay", seen) == 0
    assert files(work.out) == files(seen) == ["a.jpg.png", "a.png.png", "b.png"]
    (work.out / "b.png").unlink()
    (seen / "b.png").unlink()
    assert pconv("mask", work.pictures, work.out, "--overlay", seen, "--resume") == 0
    assert files(work.out) == files(seen) == ["a.jpg.png", "a.png.png", "b.png"]
    restored = work.root / "restored"
    assert pconv("restore", work.pictures, work.out, restored, "--weights", "none", "--device", "cpu") == 0
    assert sorted(path.name for path in restored.glob("[!.]*")) == ["a.jpg", "a.png", "b.png"]


def test_a_drawing_that_is_there_is_not_replaced_by_a_run_that_goes_on(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "b.png"):
        damaged(work.pictures / name)
    seen = work.root / "seen"
    seen.mkdir()
    (seen / "a.png").write_bytes(b"somebody else's")
    line = ("mask", work.pictures, work.out, "--overlay", seen, "--resume")
    assert pconv(*line) == 1 and "seen/a.png" in pconv.err and "--overwrite" in pconv.err
    assert (seen / "a.png").read_bytes() == b"somebody else's" and files(work.out) == ["b.png"]
    assert pconv(*line, "--overwrite") == 0
    assert files(work.out) == files(seen) == ["a.png", "b.png"] and pixels(seen / "a.png").shape[2] == 3


def test_a_tiff_of_many_bands_is_taken_in_strips_where_memory_would_not_do(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = pixels(damaged(work.root / "a.png"))
    height, width, _ = colours.shape
    bands = np.moveaxis(np.concatenate([colours, np.zeros((height, width, 117), np.uint8)], axis=2), 2, 0)
    form = {"width": width, "height": height, "count": 120, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(work.pictures / "a.tif", "w", "GTiff", transform=Affine(2, 0, 0, 0, -2, 40), **form) as file:
        file.write(bands)
    assert pconv("mask", work.pictures, work.out, "--detect", "dust") == 0
    strips: list[Path] = []
    real = masking._InStrips.made

    def made(self: Any, report: Any) -> Any:
        strips.append(self._job.image)
        return real(self, report)

    monkeypatch.setattr(masking._InStrips, "made", made)
    monkeypatch.setattr(masking, "memory_available", lambda: width * height * 100)
    again = work.root / "again"
    assert pconv("mask", work.pictures, again, "--detect", "dust") == 0, pconv.err
    assert strips == [work.pictures / "a.tif"] and np.array_equal(white(again / "a.png"), white(work.out / "a.png"))


def test_masks_that_are_there_are_left_alone_by_a_run_that_goes_on(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "b.png"):
        damaged(work.pictures / name)
    work.out.mkdir(exist_ok=True)
    (work.out / "a.png").write_bytes(b"corrected by hand")
    assert pconv("mask", work.pictures, work.out, "--resume", "--json") == 0
    assert (work.out / "a.png").read_bytes() == b"corrected by hand" and files(work.out) == ["a.png", "b.png"]
    *items, summary = pconv.documents
    assert {item["name"]: item["status"] for item in items} == {"a.png": "done_before", "b.png": "made"}
    assert (summary["made"], summary["done_before"], summary["failed"]) == (1, 1, 0)


def test_where_nothing_is_found_it_is_said_what_sees_more(work: Workplace, pconv: Pconv) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 50), (90, 120, 60)).save(work.pictures / name)
    assert pconv("mask", work.pictures, work.out) == 0
    assert "nothing was found in 2 of 2 pictures at --sensitivity 0.3: if there is damage" in pconv.err
    assert pconv("mask", work.pictures, work.root / "read", "--from", "color=#123456") == 0
    assert "nothing was found" not in pconv.err


def test_a_small_share_to_warn_of_is_not_rounded_away(work: Workplace, pconv: Pconv) -> None:
    Image.new("RGB", (60, 50), (90, 120, 60)).save(work.pictures / "a.png")
    assert pconv("mask", work.pictures, work.out, "--from", "color=#5a783c", "--warn-above", "0.001") == 0
    assert "is marked, more than 0.1%" in pconv.err


def test_the_pictures_folder_is_no_place_for_masks(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.jpg", quality=95)
    assert pconv("mask", work.pictures, f"{work.pictures}/.") == 2
    assert "is IN itself" in pconv.err and files(work.pictures) == ["a.jpg"]


def test_without_opencv_what_needs_it_is_named_and_no_option(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(work.pictures / "a.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert pconv("mask", work.pictures, work.out) == 2
    assert "finding damage needs OpenCV" in pconv.err and "--detect" not in pconv.err


def test_auto_is_more_careful_than_what_is_asked_for_by_name_unless_it_is_told(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    found = []
    for number, options in enumerate([(), ("--detect", "dust"), ("--sensitivity", "0.7"), ("--from", "color=#123456")]):
        assert pconv("mask", work.pictures, work.root / str(number), "--json", *options) == 0
        found.append(pconv.documents[-1]["settings"].get("sensitivity"))
    assert found == [0.3, 0.5, 0.7, 0.5]


def test_areas_are_limits(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    counts = []
    for number, options in enumerate([(), ("--min-area", "40"), ("--max-area", "40")]):
        assert pconv("mask", work.pictures, work.root / str(number), "--detect", "dust", "--json", *options) == 0
        counts.append(pconv.documents[0]["components"])
    assert counts[0] == counts[1] + counts[2] == 6 and counts[1] and counts[2]


def test_dilate_grows_and_protect_keeps_clear(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    damaged(work.pictures / "b.png")
    eye = box(320, 240, 250, 80, 270, 100)  # round the speck at (260, 90)
    work.mask("a.png", eye)
    assert pconv("mask", work.pictures, work.root / "plain", "--detect", "dust") == 0
    assert pconv("mask", work.pictures, work.out, "--detect", "dust", "--dilate", "3", "--protect", work.masks) == 0
    plain, grown, other = (white(work.root / name) for name in ("plain/a.png", "out/a.png", "out/b.png"))
    square = np.ones((7, 7), np.uint8)
    expected = cv2.dilate(plain.astype(np.uint8), square) > 0
    assert (plain & eye).any() and np.array_equal(grown, expected & ~eye)
    assert np.array_equal(other, expected), "a picture without a mask of its own is not protected"


def test_what_protects_nothing_is_told(work: Workplace, pconv: Pconv) -> None:
    one = damaged(work.pictures / "a.png")
    damaged(work.pictures / "b.png")
    line_ = ("mask", work.pictures, work.out, "--detect", "dust", "--overwrite", "--protect", work.masks)
    for name in ("a.png", "c.png", "d.png"):
        work.mask(name, box(320, 240, 0, 0, 9, 9))
    assert pconv(*line_) == 0
    assert f"{work.masks / 'c.png'} and 1 more: no picture pairs with it, so not used" in pconv.err
    assert "nothing is protected in 1 of 2 pictures" in pconv.err
    (work.masks / "a.png").unlink()
    assert pconv(*line_) == 0 and "nothing is protected in 2 of 2 pictures" in pconv.err
    assert pconv("mask", one, work.root / "m.png", "--protect", work.masks) == 0
    assert "nothing is protected in the picture" in pconv.err
    work.mask("b.png", box(320, 240, 0, 0, 9, 9))
    work.mask("a.png", box(320, 240, 0, 0, 9, 9))
    assert pconv(*line_) == 0 and "nothing is protected" not in pconv.err
    empty = work.root / "empty"
    empty.mkdir()
    (empty / "read me.txt").write_text("no mask")
    for source, target in ((work.pictures, work.root / "no"), (one, work.root / "no.png")):
        assert pconv("mask", source, target, "--protect", empty) == 2
        assert f"--protect {empty}" in pconv.err and not target.exists()


def test_out_inside_in_holds_masks_and_no_pictures_of_it(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    damaged(work.pictures / "2019" / "b.png")
    damaged(work.pictures / "2019" / "c.png")
    taken = work.pictures / "2019"
    assert pconv("mask", work.pictures, taken) == 2
    assert f"{taken / 'b.png'} and 1 more" in pconv.err and "choose another OUT" in pconv.err
    assert files(work.pictures) == ["2019/b.png", "2019/c.png", "a.png"]
    masks = work.pictures / "found"
    assert pconv("mask", work.pictures, masks) == 0
    assert pconv("mask", work.pictures, masks, "--resume") == 0 and "left out" not in pconv.err
    (taken / "c.png").unlink()
    assert pconv("mask", work.pictures, masks, "--resume") == 0
    assert "they lie in OUT and are no masks of the pictures: 1" in pconv.err


def test_overlays_show_the_damage_in_a_colour_of_its_own(work: Workplace, pconv: Pconv) -> None:
    one = damaged(work.pictures / "sub" / "a.jpg", quality=95)
    assert pconv("mask", work.pictures, work.out, "--overlay", work.root / "seen") == 0
    drawn, hole, before = pixels(work.root / "seen" / "sub" / "a.png"), white(work.out / "sub" / "a.png"), pixels(one)
    assert np.array_equal(drawn[~hole], before[~hole])
    (colour,) = np.unique(drawn[hole], axis=0)
    assert np.abs(before[hole].astype(int) - colour).max(axis=1).min() > 60
    assert pconv("mask", work.pictures, work.out, "--overwrite", "--overlay", work.out) == 2
    assert "folder of its own" in pconv.err


def test_a_turned_picture_has_a_mask_that_is_turned_alike(work: Workplace, pconv: Pconv) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = damaged(work.pictures / "a.jpg", exif=exif, quality=95)
    for name in ("mask.png", "mask.tif"):
        assert pconv("mask", path, work.root / name, "--detect", "dust") == 0
        mask = read_mask(work.root / name)
        assert mask.orientation == 6
        for drawn_on in ("auto", "displayed", "stored"):
            hole = align_mask(mask, read_picture(path), drawn_on)
            assert overlap(hole, specks())[0] > 0.95
    assert white(work.root / "mask.png").any()


def test_nothing_is_found_where_a_picture_shows_nothing(work: Workplace, pconv: Pconv) -> None:
    picture = np.dstack([painted(scene(), specks(), 250), np.full((240, 320), 255, np.uint8)])
    picture[:120, :, 3] = 0
    Image.fromarray(picture).save(work.pictures / "a.png")
    assert pconv("mask", work.pictures, work.out, "--detect", "dust") == 0
    hole = white(work.out / "a.png")
    assert hole[120:].any() and not hole[:120].any()


@pytest.mark.parametrize("depth", ["L", "I;16", "16-bit RGB", "float", "int16", "int32", "double"])
def test_grey_deep_and_float_pictures_are_looked_at(work: Workplace, pconv: Pconv, depth: str) -> None:
    picture = painted(scene(), specks(), 250)
    grey = picture[..., 1]
    path = work.pictures / "a.tif"
    if depth in ("L", "I;16"):
        Image.fromarray(grey if depth == "L" else grey.astype(np.uint16) * 257).save(path)
    else:
        values = {
            "16-bit RGB": picture.astype(np.uint16) * 257, "float": picture.astype(np.float32) / 50 - 1,
            "int16": picture.astype(np.int16) * 12 - 1000, "int32": picture.astype(np.int32) * 2**23 - 2**30,
            "double": picture / 50 - 1,
        }[depth]  # fmt: skip
        write_tiff(path, values)
    assert pconv("mask", work.pictures, work.out, "--detect", "dust") == 0
    precision, recall = overlap(white(work.out / "a.png"), specks())
    assert precision > 0.95 and recall > 0.85


# ---------------------------------------------------------------- read off


def write_tiff(path: Path, values: NDArray[Any], *, alpha: bool = False, **profile: Any) -> Path:
    height, width, bands = values.shape
    profile = {"photometric": "RGB", "ALPHA": "YES" if alpha else "NO", **profile} if bands > 2 else profile
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": values.dtype, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is no map
        with rasterio.open(path, "w", **profile) as target:
            target.write(np.moveaxis(values, -1, 0))
    return path


def test_alpha_nodata_colour_and_band_are_read_off_exactly(work: Workplace, pconv: Pconv) -> None:
    hole = box(48, 40, 10, 5, 20, 30)
    colours = texture(48, 40)
    seen = np.dstack([colours, np.where(hole, 0, 255).astype(np.uint8)])
    Image.fromarray(seen).save(work.pictures / "alpha.png")
    pink = np.where(hole[..., None], np.uint8([250, 3, 251]), colours)
    Image.fromarray(pink).save(work.pictures / "color.png")
    write_tiff(work.pictures / "nodata.tif", np.where(hole[..., None], 0, colours), nodata=0)
    write_tiff(work.pictures / "band.tif", np.dstack([colours, np.where(hole, 255, 0).astype(np.uint8)]))
    for name, mark in (
        ("alpha.png", "alpha"), ("color.png", "color=#ff00ff~8"), ("nodata.tif", "nodata"), ("nodata.tif", "nodata=0"),
        ("band.tif", "band=4"),
    ):  # fmt: skip
        assert pconv("mask", work.pictures / name, work.root / "mask.png", "--overwrite", "--from", mark) == 0
        assert np.array_equal(white(work.root / "mask.png"), hole), mark


def test_a_picture_without_the_mark_fails_with_the_way_out(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    for mark, says in (("alpha", "no transparency"), ("nodata", "--from nodata=0"), ("band=1", "no mask")):
        assert pconv("mask", work.pictures, work.out, "--from", mark) == 1
        assert says in pconv.err and "--mask-from" not in pconv.err
    assert pconv("mask", work.pictures, work.out, "--from", "infrared") == 1
    assert "scan it as RGBI" in pconv.err


@pytest.mark.parametrize("limit", [10**9, 0])
def test_floats_without_nan_that_name_no_nodata_value_are_told(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(masking, "IN_STRIPS", limit)
    values = np.full((40, 48, 1), -9999, np.float32)
    values[:9] = 7
    for number, (origin, nodata) in enumerate([("nodata", None), ("nodata", 3), ("nodata=3", None)]):
        path = write_tiff(work.pictures / f"{number}.tif", values, nodata=nodata)
        assert pconv("mask", path, work.out / f"{number}.png", "--from", origin, "--json") == 0
        told = any("names no nodata value" in notice for notice in pconv.documents[0]["notices"])
        assert told == (number == 0) and not white(work.out / f"{number}.png").any()
    values[0, 0] = np.nan
    assert pconv("mask", write_tiff(work.pictures / "a.tif", values), work.out / "a.png", "--from", "nodata") == 0
    assert "names no nodata" not in pconv.err


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("kind", ["uint16", "uint8"])
def test_infrared_is_the_fourth_channel_whatever_the_file_calls_it(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, alpha: bool, kind: str
) -> None:
    colours, channel, hole = scan((2, -1))
    rgbi = np.dstack([colours.astype(np.uint16) * 257, channel])
    values = rgbi if kind == "uint16" else (rgbi >> 8).astype(np.uint8)
    write_tiff(work.pictures / "scan.tif", values, alpha=alpha)
    for option in ("infrared", "infrared=4"):
        assert pconv("mask", work.pictures, work.out, "--overwrite", "--from", option, "--json") == 0
        precision, recall = overlap(white(work.out / "scan.png"), hole)
        assert precision == 1 and recall == 1
        notices = pconv.documents[0]["notices"]
        assert "+2, -1" in notices[0] and len(notices) == 1 + alpha
        assert not alpha or "channel 4 is tagged as alpha" in notices[1]
        monkeypatch.setattr(masking, "IN_STRIPS", 0)
        assert pconv("mask", work.pictures, work.out, "--overwrite", "--from", option, "--json") == 0
        assert pconv.documents[0]["notices"] == notices
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_alpha_of_what_is_no_tiff_is_not_taken_for_infrared(work: Workplace, pconv: Pconv, name: str) -> None:
    work.picture(name, "RGBA")
    for option in ("infrared", "infrared=4"):
        assert pconv("mask", work.pictures, work.out, "--from", option) == 1
        assert "infrared is a channel of a TIFF" in pconv.err and files(work.out) == []


# ---------------------------------------------------------------- strips


@pytest.mark.parametrize("kind", ["grey", "alpha", "infrared"])
def test_strips_of_12_bits_kept_in_16_give_what_memory_gives(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    colours, channel, _ = scan((3, 1))
    deep = painted(colours, specks()[::-1], 250).astype(np.uint16) * 16
    if kind == "grey":
        deep = deep[..., 1:2]
    elif kind == "alpha":  # what is transparent is none of what is seen
        opaque = np.full((240, 320, 1), 65535, np.uint16)
        deep[:20], opaque[:20] = 65535, 0
        deep = np.dstack([deep, opaque])
    else:
        deep = np.dstack([deep, channel])
    path = write_tiff(work.pictures / "a.tif", deep, alpha=kind == "alpha")
    options = ("--from", "infrared") if kind == "infrared" else ("--detect", "dust")
    seen = []
    for limit in (10**9, 0):
        monkeypatch.setattr(masking, "IN_STRIPS", limit)
        monkeypatch.setattr(masking, "_ROWS", 37)
        place = work.root / str(limit)
        assert pconv("mask", path, place / "mask.png", "--overlay", place / "seen", "--json", *options) == 0
        item = pconv.documents[0]
        assert item["components"] and ("moved" in str(item["notices"])) == (kind == "infrared")
        seen.append((item["components"], white(place / "mask.png"), pixels(place / "seen/a.png")))
    (one, mask, drawn), (other, other_mask, other_drawn) = seen
    assert one == other and np.array_equal(mask, other_mask) and np.array_equal(drawn, other_drawn)
    assert drawn[30:].mean() > 60


@pytest.mark.parametrize("target", ["mask.png", "mask.tif"])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("--detect", "auto", "--dilate", "2"), "rgb"),
        (("--detect", "dust,scratches,tears", "--sensitivity", "0.9"), "rgb"),
        (("--from", "infrared", "--min-area", "12"), "rgbi"),
        (
            (
                "--from",
                "color=#fafafa~6",
            ),
            "rgb",
        ),
        (("--from", "alpha"), "alpha"),
        (("--from", "nodata=0"), "rgb"),
    ],
)
def test_strips_of_a_file_give_what_memory_gives(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, target: str, options: tuple[str, ...], kind: str
) -> None:
    colours, channel, _ = scan((3, 1))
    deep = painted(painted(colours, line(), 250), specks()[::-1], 250).astype(np.uint16) * 257
    deep[200:, 300:] = 0
    fourth = {"rgbi": channel, "alpha": np.where(specks(), 0, 65535).astype(np.uint16)}.get(kind)
    values = deep if fourth is None else np.dstack([deep, fourth])
    path = write_tiff(work.pictures / "a.tif", values, alpha=kind == "alpha", tiled=True, blockxsize=64, blockysize=64)
    work.mask("a.png", box(320, 240, 0, 0, 60, 240))
    answers = []
    for limit in (10**9, 0):
        monkeypatch.setattr(masking, "IN_STRIPS", limit)
        monkeypatch.setattr(masking, "_ROWS", 37)
        monkeypatch.setattr("pconv_cli.detection._STRIP", 320 * 64)
        place = work.root / str(limit)
        line_ = ("mask", path, place / target, "--protect", work.masks, "--overlay", place / "seen", "--json", *options)
        assert pconv(*line_) == 0
        item = pconv.documents[0]
        answers.append((item["share"], item["components"]))
        assert files(place) == [target, "seen/a.png"]
    one, other = (white(work.root / str(limit) / target) for limit in (10**9, 0))
    assert answers[0] == answers[1] and one.any() and not one[:, :60].any()
    assert np.array_equal(one, other)
    drawn = [pixels(work.root / str(limit) / "seen" / "a.png") for limit in (10**9, 0)]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("target", ["mask.png", "mask.tif"])
def test_a_mask_in_strips_of_a_turned_picture_lies_as_that_is_displayed(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, target: str, orientation: int
) -> None:
    path = work.pictures / "a.tif"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(painted(scene(), specks(), 250)).save(path, exif=exif)
    spared = np.ascontiguousarray(displayed(box(320, 240, 0, 0, 60, 240), orientation))
    Image.fromarray(spared).save(work.masks / "a.png")
    holes, drawn = [], []
    for limit in (10**9, 0):
        monkeypatch.setattr(masking, "IN_STRIPS", limit)
        monkeypatch.setattr(masking, "_ROWS", 37)
        place = work.root / str(limit)
        line_ = ("mask", path, place / target, "--detect", "dust", "--protect", work.masks, "--overlay", place / "seen")
        assert pconv(*line_) == 0
        holes.append(align_mask(read_mask(place / target), read_picture(path), "auto"))
        drawn.append(pixels(place / "seen" / "a.png"))
    assert holes[0].any() and not holes[0][:, :60].any() and np.array_equal(*holes)
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("limit", [10**9, 0])
def test_a_tiff_as_mask_of_a_map_lies_where_that_does(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    place = {"crs": "EPSG:25832", "transform": rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5600000)}
    values = np.where(box(48, 40, 10, 5, 20, 30), np.float32(-9), 1).astype(np.float32)[..., None]
    path = write_tiff(work.pictures / "a.tif", values, nodata=-9, **place)
    monkeypatch.setattr(masking, "IN_STRIPS", limit)
    for name in ("mask.tif", "mask.png"):
        assert pconv("mask", path, work.out / name, "--from", "nodata") == 0
        assert np.array_equal(white(work.out / name), box(48, 40, 10, 5, 20, 30))
    with rasterio.open(work.out / "mask.tif") as made:
        assert made.crs == place["crs"] and made.transform == place["transform"]
    assert files(work.out) == ["mask.png", "mask.tif"]


def test_a_mask_in_strips_is_never_half_there(work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiff(work.pictures / "a.tif", scene().astype(np.uint16) * 257)
    monkeypatch.setattr(masking, "IN_STRIPS", 0)
    work.mask("a.png", box(20, 20, 1, 1, 5, 5))  # of another size: noticed while the mask is being written
    assert pconv("mask", path, work.out / "mask.png", "--protect", work.masks) == 1
    assert "never stretched" in pconv.err and files(work.out) == []


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float32", "float64"])
def test_in_strips_what_has_no_range_of_its_own_is_marked_by_values_alone(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(masking, "IN_STRIPS", 0)
    values = scene()[..., :1].astype(dtype) * np.dtype(dtype).type(20)
    values[specks()] = nothing = 32767
    path = write_tiff(work.pictures / "a.tif", values, nodata=nothing)
    assert pconv("mask", path, work.out / "mask.png", "--detect", "dust") == 1
    assert f"{dtype} values beyond memory" in pconv.err and "16 bits unsigned" in pconv.err
    assert pconv("mask", path, work.out / "mask.png", "--from", "nodata", "--overlay", work.root / "seen") == 0
    np.testing.assert_array_equal(white(work.out / "mask.png"), specks())
    (overlay,) = (work.root / "seen").iterdir()
    assert pixels(overlay)[~specks()].std() > 20, "the range is that of what is there"


# ---------------------------------------------------------------- restore --detect


def test_restore_detects_restores_and_keeps_the_masks(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    damaged(work.pictures / "sub" / "b.jpg", quality=95)
    Image.fromarray(scene()).save(work.pictures / "fine.png")
    kept = work.root / "kept"
    plain = ("--weights", "none", "--device", "cpu", "--json")
    assert pconv("restore", work.pictures, work.out, "--detect", "auto", "--save-masks", kept, *plain) == 0
    *items, summary = pconv.documents
    status = {item["name"]: item["status"] for item in items}
    assert status == {"a.png": "restored", "fine.png": "copied", "sub/b.jpg": "restored"}
    assert summary["settings"]["detect"] == "auto at sensitivity 0.3"
    assert files(kept) == ["a.png", "fine.png", "sub/b.png"]
    assert (work.out / "fine.png").read_bytes() == (work.pictures / "fine.png").read_bytes()
    hole = white(kept / "a.png")
    before, after = pixels(work.pictures / "a.png"), pixels(work.out / "a.png")
    assert np.array_equal(before[~hole], after[~hole]) and not np.array_equal(before[hole], after[hole])
    # The same in two commands.
    assert pconv("mask", work.pictures, work.root / "masks2") == 0
    assert all((work.root / "masks2" / name).read_bytes() == (kept / name).read_bytes() for name in files(kept))
    assert pconv("restore", work.pictures, work.root / "masks2", work.root / "out2", *plain[:-1]) == 0
    assert np.array_equal(pixels(work.root / "out2" / "a.png"), after)


def test_restore_goes_on_where_it_was_unless_it_is_to_look_differently(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    damaged(work.pictures / "b.png")
    plain = ("--weights", "none", "--device", "cpu", "--json", "--save-masks", work.root / "kept")
    assert pconv("restore", work.pictures, work.out, "--detect", "dust", *plain) == 0
    assert pconv("restore", work.pictures, work.out, "--detect", "dust", "--resume", *plain) == 0
    assert {item["status"] for item in pconv.documents[:-1]} == {"done_before"}
    again = ("--sensitivity", "0.7", "--resume")
    assert pconv("restore", work.pictures, work.out, "--detect", "dust", *again, *plain) == 1
    assert "other settings" in pconv.err


def test_masks_that_are_kept_are_of_their_results_and_replace_nothing_else(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(work.pictures / "a.png")
    kept = work.root / "kept"
    plain = ("--detect", "dust", "--weights", "none", "--device", "cpu", "--json", "--resume", "--save-masks")
    kept.mkdir()
    (kept / "a.png").write_bytes(b"somebody else's")
    assert pconv("restore", work.pictures, work.out, *plain, kept) == 1
    assert "is there already" in pconv.err and (kept / "a.png").read_bytes() == b"somebody else's"
    (kept / "a.png").unlink()
    with monkeypatch.context() as patch:  # killed when the mask is there, and its result is not yet
        patch.setattr(filing, "place", killed_at(work.out / "a.png"))
        assert pconv("restore", work.pictures, work.out, *plain, kept) == 130
    assert files(kept) == ["a.png"] and not (work.out / "a.png").exists()
    for status in ("restored", "done_before"):
        assert pconv("restore", work.pictures, work.out, *plain, kept) == 0, pconv.err
        assert pconv.documents[0]["status"] == status
    assert pconv("restore", work.pictures, work.out, *plain, work.root / "kept2") == 1
    assert "is not there, and its picture done: add --overwrite" in pconv.err
    assert pconv("restore", work.pictures, work.out, *plain, work.root / "kept2", "--overwrite") == 0
    assert (work.root / "kept2" / "a.png").read_bytes() == (kept / "a.png").read_bytes()
    (kept / "a.png").write_bytes(b"corrected by hand")
    assert pconv("restore", work.pictures, work.out, *plain, kept) == 1
    assert "is not what was saved with its picture" in pconv.err
    assert "of a mask that was corrected, restore with its folder as MASKS instead" in pconv.err
    assert (kept / "a.png").read_bytes() == b"corrected by hand"


def test_of_much_that_is_detected_the_way_out_is_another_sensitivity(
    work: Workplace, pconv: Pconv, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(work.pictures / "a.png")
    monkeypatch.setattr(masking, "detected", lambda picture, detect: box(320, 240, 0, 0, 320, 200))
    plain = ("--detect", "dust", "--weights", "none", "--device", "cpu")
    says = "of the picture as damaged, detected as dust at sensitivity 0.5; if that is wrong, use a lower --sensitivity"
    assert pconv("restore", work.pictures, work.out, *plain) == 0
    assert says in pconv.err and "--invert-mask" not in pconv.err
    pconv("check", work.pictures, work.root / "other", "--detect", "dust", "--weights", "none", "--json")
    assert "detected as dust at sensitivity 0.5: use a lower --sensitivity" in pconv.out
    fifth = box(320, 240, 0, 0, 320, 48)  # little for a mask, and much for dust
    monkeypatch.setattr(masking, "detected", lambda picture, detect: fifth)
    assert pconv("restore", work.pictures, work.root / "fifth", *plain) == 0 and says in pconv.err
    work.mask("a.png", fifth)
    assert pconv("restore", work.pictures, work.masks, work.root / "drawn", *plain[2:]) == 0
    assert "of the picture as damaged" not in pconv.err


def killed_at(target: Path) -> Any:
    real = filing.place

    def place(part: Path, to: Path, *, overwrite: bool) -> None:
        if to == target:
            raise KeyboardInterrupt
        real(part, to, overwrite=overwrite)

    return place


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--detect", "auto", "--mask-from", "alpha"), "choose one of the two"),
        (("--detect", "auto", "--invert-mask"), "choose one of the two"),
        (("--detect", "soot"), "--detect soot"),
        (("--mask-from", "alpha", "--save-masks", "kept"), "belongs to --detect"),
        (("--detect", "dust", "--save-masks", "OUT"), "folder of its own"),
    ],
)
def test_restore_refuses_what_makes_no_sense(
    work: Workplace, pconv: Pconv, options: tuple[str, ...], says: str
) -> None:
    damaged(work.pictures / "a.png")
    chosen = [str(work.out) if option == "OUT" else option for option in options]
    assert pconv("restore", work.pictures, work.out, *chosen, "--weights", "none") == 2
    assert says in pconv.err and not work.out.exists()


def test_restore_detect_needs_no_masks(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    assert pconv("restore", work.pictures, work.masks, work.out, "--detect", "auto") == 2
    assert "takes the place of MASKS" in pconv.err


def test_what_was_detected_stands_in_the_provenance_and_on_the_page(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    kept, page = work.root / "kept", work.root / "page"
    options = ("--detect", "dust", "--save-masks", kept, "--save-filled", work.root / "filled", "--provenance")
    plain = ("--weights", "none", "--device", "cpu", "--json", "--report", page)
    assert pconv("restore", work.pictures, work.out, *options, *plain) == 0, pconv.err
    assert b"detection (dust at sensitivity 0.5) of the picture" in (work.out / "a.png").read_bytes()
    assert np.array_equal(white(work.root / "filled" / "a.png"), white(kept / "a.png"))
    (shown,) = json.loads((page / "report.json").read_text("utf-8"))["pictures"]
    assert shown["thumbnails"] and shown["sheets"] and shown["mask"] is None
    assert "dust at sensitivity 0.5" in (page / "index.html").read_text("utf-8")


def test_masks_that_are_kept_among_the_pictures_are_not_taken_for_pictures(work: Workplace, pconv: Pconv) -> None:
    damaged(work.pictures / "a.png")
    options = ("--detect", "dust", "--save-masks", work.pictures / "masks", "--weights", "none", "--resume", "--json")
    for status in ("restored", "done_before"):
        assert pconv("restore", work.pictures, work.out, *options) == 0, pconv.err
        assert [(item["name"], item["status"]) for item in pconv.documents[:-1]] == [("a.png", status)]
    assert [name for name in files(work.out) if not name.startswith(".")] == ["a.png"]
