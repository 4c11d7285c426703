"""`tile` end to end: only damage changes, all of it does, and nothing of the picture's size is held.

Most tests run the command in this process, with the pyramid; two use the weights that are shipped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import warm
from conftest import Workplace, box, texture
from conftest import pixels as as_pillow_sees
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin
from rasters import POSITIONS, directories, give_tags

from pconv_cli import damage, engine, files, planning
from pconv_cli import tile as use_case
from pconv_cli.cli import app
from pconv_cli.errors import CHANGED, UsageError, WeightsError
from pconv_cli.events import Event, ItemDone, ItemFailed, ItemStarted, Notice, RunFinished, RunStarted, TilesDone
from pconv_cli.images import read_mask, read_picture
from pconv_cli.marks import parse
from pconv_cli.orientations import displayed
from pconv_cli.picture import align_mask
from pconv_cli.regions import Window
from pconv_cli.report import ItemReport, Report
from pconv_cli.restore import RestoreSettings, plan, restore
from pconv_cli.settings import AT_REST, BY_NODATA, FAINT, PER_TILE_PIXEL, Settings
from pconv_cli.spaces import is_ranged
from pconv_cli.tile import tile

PATIENCE = 60
"""Seconds after which a process that should have ended is given up."""
WIDTH, HEIGHT = 200, 150
HOLE = box(WIDTH, HEIGHT, 70, 40, 110, 70)
LARGE = box(WIDTH, HEIGHT, 20, 20, 180, 130)
PAINT = 255
"""Value that is painted where a picture is damaged; fills of a texture, at most 215, stay far below it."""


def picture(bands: int = 3, dtype: str = "uint8", hole: NDArray[np.bool_] = HOLE) -> NDArray[Any]:
    """(h, w, bands), damage painted in a colour that cannot come out."""
    colours = texture(hole.shape[1], hole.shape[0], bands).astype(dtype)
    colours[hole] = PAINT
    return colours * 257 if dtype == "uint16" else colours


@contextlib.contextmanager
def gdal() -> Iterator[None]:
    with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_TIFF_INTERNAL_MASK="YES"):
        warnings.simplefilter("ignore")
        yield


def save(path: Path, pixels: NDArray[Any], after: Callable[[Any], None] = lambda _: None, **options: Any) -> Path:
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, count = pixels.shape
    options = {"driver": "GTiff", "photometric": "RGB" if count in (3, 4) else "MINISBLACK"} | options
    if count == 4 and "ALPHA" not in options:
        options["ALPHA"] = "NO"
    size = {"width": width, "height": height, "count": count, "dtype": pixels.dtype.name}
    if options["driver"] != "GTiff":
        options = {name: value for name, value in options.items() if name not in ("photometric", "ALPHA")}
    with gdal(), rasterio.open(path, "w", **size, **options) as raster:
        raster.write(np.moveaxis(pixels, -1, 0))
        after(raster)
    return path


def load(path: Path | str) -> NDArray[Any]:
    with gdal(), rasterio.open(path) as raster:
        return np.moveaxis(raster.read(), 0, -1)


def save_mask(path: Path, hole: NDArray[np.bool_], **options: Any) -> Path:
    """A mask in any format, without loss where the format can."""
    grey = np.where(hole, 255, 0).astype(np.uint8)
    if path.suffix.lower() == ".jp2":
        return save(path, grey, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    kind = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP"}
    extra = {".webp": {"lossless": True}, ".jpg": {"quality": 98}}.get(path.suffix.lower(), {})
    Image.fromarray(grey).save(path, kind[path.suffix.lower()], **extra)  # type: ignore[arg-type]
    return path


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


class Place:
    """A folder with a picture in it, and `pconv tile` run on that."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self._capture = root, capture
        self.big, self.mask, self.output = root / "big.tif", root / "m.png", root / "big_restored.tif"
        self.out = self.err = ""

    def fill_in(self, pixels: NDArray[Any] | None = None, hole: NDArray[np.bool_] = HOLE, **options: Any) -> None:
        """Write the picture and its mask; both are the usual ones unless given."""
        save(self.big, picture(hole=hole) if pixels is None else pixels, **options)
        save_mask(self.mask, hole)

    def __call__(self, *arguments: str | Path, mask: Path | str | None = "", big: Path | None = None) -> int:
        """Run the command with the mask, another one, or (None) without; gives the exit code."""
        chosen = [] if mask is None else ["--mask", str(mask or self.mask)]
        return self.pconv("tile", big or self.big, *chosen, "--weights", "none", "--device", "cpu", *arguments)

    def pconv(self, *arguments: str | Path) -> int:
        self._capture.readouterr()
        try:
            return app.run([str(argument) for argument in arguments])
        finally:
            self.out, self.err = self._capture.readouterr()

    @property
    def kept(self) -> str:
        """Name of what a stopped run keeps."""
        return files.kept(self.output).name

    @property
    def error_lines(self) -> list[str]:
        return self.err.splitlines()

    @property
    def only_line(self) -> str:
        (line,) = self.error_lines
        assert "Traceback" not in line
        return line

    def document(self) -> Any:
        """The one JSON object of a plan."""
        return json.loads(self.out)

    def lines(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The two JSON objects of a run: the picture, the summary."""
        item, summary = map(json.loads, self.out.splitlines())
        assert (item["type"], summary["type"]) == ("item", "summary")
        return item, summary

    def item(self, *arguments: str | Path, **options: Any) -> dict[str, Any]:
        """Run the command, which must do well, and give what is reported of the picture."""
        assert self("--json", "--overwrite", *arguments, **options) == 0, self.err
        return self.lines()[0]

    def restored(self) -> NDArray[Any]:
        return load(self.output)


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("PCONV_DEBUG", raising=False)
    return Place(tmp_path, capsys)


def go(
    place: Place, stop: Callable[[], bool] = lambda: False, *, emit: Callable[[Event], None] = lambda _: None,
    mask: bool = True, **settings: Any,
) -> tuple[Report, list[Event]]:  # fmt: skip
    """Run the use case itself."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        emit(event)

    chosen = Settings(**{"weights": "none", "device": "cpu", "precision": "fp32", **settings})
    return tile(place.big, place.mask if mask else None, place.output, chosen, listen, stop), events


def check(before: NDArray[Any], after: NDArray[Any], hole: NDArray[np.bool_], *, kept: int | None = None) -> None:
    """Outside the hole nothing has changed, inside everything has; a band that is kept has not changed anywhere."""
    assert after.shape == before.shape and after.dtype == before.dtype
    np.testing.assert_array_equal(after[~hole], before[~hole])
    if kept is not None:
        np.testing.assert_array_equal(after[..., kept], before[..., kept])
        before, after = np.delete(before, kept, axis=-1), np.delete(after, kept, axis=-1)
    scale = np.iinfo(before.dtype).max // 255
    assert (before[hole] == PAINT * scale).all(), "the test itself should paint damage"
    assert after[hole].max() <= 235 * scale and after[hole].min() >= 20 * scale


# ---------------------------------------------------------------- which mask


@pytest.mark.parametrize("link", ["_", "."])
@pytest.mark.parametrize(
    "suffix", [".png", ".PNG", ".Png", ".tif", ".TIF", ".tiff", ".jpg", ".JPG", ".bmp", ".webp", ".jp2"]
)
def test_a_mask_beside_the_picture_is_found_whatever_its_format(place: Place, link: str, suffix: str) -> None:
    place.fill_in()
    hole = box(WIDTH, HEIGHT, 72, 40, 112, 72)  # whole blocks of JPEG
    save(place.big, picture(hole=hole))
    beside = save_mask(place.root / f"big{link}mask{suffix}", hole)
    item = place.item(mask=None)
    assert item["mask"] == str(beside) and item["hole_share"] == round(hole.mean(), 6)
    check(load(place.big), place.restored(), hole)


def test_several_masks_beside_the_picture_are_a_choice_for_the_user(place: Place) -> None:
    place.fill_in()
    for name in ("big_mask.png", "big.mask.TIF"):
        save_mask(place.root / name, HOLE)
    before = names(place.root)
    assert place(mask=None) == 2
    assert "big_mask.png" in place.only_line and "big.mask.TIF" in place.only_line and "--mask" in place.only_line
    assert names(place.root) == before
    assert place(mask=place.root / "big_mask.png") == 0


def test_names_that_only_look_like_a_mask_are_none(place: Place) -> None:
    place.fill_in()
    for name in ("big_mask.txt", "big_mask_2.png", "xbig_mask.png", "big_maske.png", "big_mask"):
        (place.root / name).write_bytes(b"")
    (place.root / "big_mask.png").mkdir()
    assert place(mask=None) == 2


def test_2_without_any_mask_with_one_line_that_lists_the_four_ways(place: Place) -> None:
    place.fill_in()
    before = names(place.root)
    for arguments in ([], ["--plan"], ["--json"]):
        assert place(*arguments, mask=None) == 2
        line = place.only_line
        assert all(way in line for way in ("--mask", "big_mask.*", "big.mask.*", "alpha", "mask band", "nodata"))
        assert place.out == "" and names(place.root) == before


def test_a_given_mask_comes_before_one_beside_and_that_before_what_the_picture_says_itself(place: Place) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:5, :5] = 0
    place.fill_in(np.dstack([picture(), alpha]), ALPHA="YES")
    beside = save_mask(place.root / "big_mask.png", box(WIDTH, HEIGHT, 0, 0, 20, 10))
    assert place.item()["mask"] == str(place.mask)
    assert place.item(mask=None)["mask"] == str(beside)
    beside.unlink()
    item = place.item(mask=None)
    assert item["mask"] == f"alpha of {place.big}" and item["hole_share"] == round(25 / HOLE.size, 6)


def test_a_mask_of_another_size_is_one_line_and_never_stretched(place: Place) -> None:
    place.fill_in()
    save_mask(place.mask, HOLE[:, :-1])
    before = names(place.root)
    assert place("--progress", "none") == 1
    line = place.only_line
    assert str(place.mask) in line and "199 x 150" in line and "200 x 150" in line and "never stretched" in line
    assert place("--plan") == 1 and "never stretched" in place.only_line and place.out == ""
    assert names(place.root) == before


def turned(path: Path, pixels: NDArray[Any], orientation: int) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels.squeeze()).save(path, exif=exif)
    return path


@pytest.mark.parametrize("drawn", ["as displayed", "as stored", "with a turn of its own"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".webp"])
def test_a_mask_of_a_turned_picture_is_laid_as_restore_lays_it(
    place: Place, suffix: str, orientation: int, drawn: str
) -> None:
    hole = box(WIDTH, HEIGHT, 20, 30, 50, 40)
    grey = np.where(hole, 255, 0).astype(np.uint8)
    big = turned(place.root / f"other{suffix}", picture(), orientation)
    own = orientation if drawn == "with a turn of its own" else 1
    shown = np.ascontiguousarray(displayed(grey, orientation)) if drawn == "as displayed" else grey
    mask = turned(place.root / f"mask{suffix}", shown, own)
    planned = use_case.plan(big, mask, Settings(weights="none")).plan
    laid = planned.damage.window(Window(0, 0, WIDTH, HEIGHT))
    np.testing.assert_array_equal(laid, align_mask(read_mask(mask), read_picture(big), "auto"))
    if drawn != "as stored" or orientation not in (2, 3, 4):
        np.testing.assert_array_equal(laid, hole)


def test_a_mask_that_could_lie_in_two_ways_is_told_how_it_lies(place: Place) -> None:
    place.big = turned(place.big, picture(), 3)
    mask = turned(place.root / "mask.png", np.where(HOLE, 255, 0).astype(np.uint8), 1)
    assert place("--progress", "plain", mask=mask) == 0
    assert "note: " in place.err and "as that is displayed, turned by EXIF" in place.err and "--mask-on" in place.err
    for orientation, options in ((3, ()), (1, ("--mask-on", "stored"))):
        turned(mask, np.where(HOLE, 255, 0).astype(np.uint8), orientation)
        assert place("--progress", "plain", "--overwrite", *options, mask=mask) == 0
        assert "turned by EXIF" not in place.err
        assert (place.restored()[HOLE] != PAINT).any(axis=1).all()


def test_a_turn_that_a_png_tells_behind_its_pixels_is_obeyed(place: Place) -> None:
    place.big = turned(place.root / "big.tif", picture(), 6)
    mask = turned(place.mask, np.where(HOLE, 255, 0).astype(np.uint8), 6)
    data = mask.read_bytes()
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    mask.write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
    place.item(mask=mask)
    assert (place.restored()[HOLE] != PAINT).any(axis=1).all()


HERE = (0.5, 0, 500000, 0, -0.5, 5400000)


def placed_mask(place: Place, transform: Sequence[float] | None, crs: Any, hole: NDArray[np.bool_] = HOLE) -> Path:
    where = {} if transform is None else {"transform": rasterio.Affine(*transform)}
    return save(place.root / "m.tif", np.where(hole, 255, 0).astype(np.uint8), crs=crs, **where)


@pytest.mark.parametrize("how", ["file", "beside"])
@pytest.mark.parametrize(
    ("transform", "crs", "away"),
    [
        (HERE, "EPSG:32632", 0),
        ((0.5, 0, 500000.2, 0, -0.5, 5400000), "EPSG:32632", 0),
        (HERE, "EPSG:25832", 0),  # another name for the same place
        (HERE, None, 0),
        (None, None, 0),
        ((1, 0, 0, 0, -1, 0), None, 0),  # as some write it who know of no place
        ((0.5, 0, 501000, 0, -0.5, 5400000), "EPSG:32632", 2000),
        ((0.5, 0, 501000, 0, -0.5, 5400000), None, 2000),
        ((0.5, 0, 500000.5, 0, -0.5, 5400000), "EPSG:32632", 1),
        ((0.6, 0, 500000, 0, -0.5, 5400000), "EPSG:32632", 40),
        (HERE, "EPSG:32633", 1e5),
        (HERE, 'LOCAL_CS["x",UNIT["m",1]]', None),
    ],
)
def test_a_mask_that_lies_elsewhere_on_the_map_is_refused(
    place: Place, how: str, transform: Sequence[float] | None, crs: Any, away: float | None
) -> None:
    place.fill_in(**({"crs": "EPSG:32632", "transform": rasterio.Affine(*HERE)} if how == "file" else {}))
    if how == "beside":
        left, width, turned, top, other, height = rasterio.Affine(*HERE).to_gdal()
        (place.root / "big.tif.aux.xml").write_text(
            f"<PAMDataset><SRS>{rasterio.CRS.from_epsg(32632).to_wkt()}</SRS>"
            f"<GeoTransform>{left},{width},{turned},{top},{other},{height}</GeoTransform></PAMDataset>"
        )
    mask = placed_mask(place, transform, crs)
    if away == 0:
        assert place("--plan", mask=mask) == 0
        return
    before = names(place.root)
    assert place("--progress", "none", mask=mask) == 1
    line = place.only_line
    assert str(mask) in line and "gdal_edit.py -unsetgt m.tif" in line and names(place.root) == before
    assert place("--plan", mask=mask) == 1
    if away is None:
        assert "cannot be compared" in line and "gdalwarp" not in line
        return
    far = float(line.partition("map, ")[2].split()[0])
    assert far == pytest.approx(away, abs=0.01) or far > 1e5 == away
    assert "-te 500000 5399925 500100 5400000 -ts 200 150 m.tif" in line
    assert ("-t_srs EPSG:32632" in line) == (crs == "EPSG:32633")


def test_a_mask_of_another_size_that_has_a_place_on_the_map_is_told_how_to_get_there(place: Place) -> None:
    place.fill_in(crs="EPSG:32632", transform=rasterio.Affine(*HERE))
    mask = placed_mask(place, (1, 0, 500000, 0, -1, 5400000), "EPSG:32632", HOLE[::2, ::2])
    assert place("--progress", "none", mask=mask) == 1
    line = place.only_line
    assert "never stretched; bring it there (gdalwarp -te 500000 5399925 500100 5400000 -ts 200 150" in line
    assert "gdal_edit" not in line


@pytest.mark.parametrize("gone", ["big", "mask"])
def test_a_file_that_is_missing_is_one_line_that_names_it(place: Place, gone: str) -> None:
    place.fill_in()
    path: Path = getattr(place, gone)
    path.unlink()
    assert place("--progress", "none", "-o", place.root / "new" / "x.tif") == 1
    assert path.name in place.only_line and "there is no such file" in place.only_line
    assert place("--plan") == 1
    assert str(path) in place.only_line
    assert names(place.root) == [{"big": "m.png", "mask": "big.tif"}[gone]], "no folder either"


def test_names_are_taken_as_they_are_and_shown_harmlessly(place: Place) -> None:
    place.fill_in()
    place.big = place.big.rename(place.root / "a[1]*.b c.tif")
    beside = save_mask(place.root / "a[1]*.b c_mask.png", HOLE)
    save_mask(place.root / "a1x.b c_mask.png", HOLE)
    assert place("--json", mask=None) == 0
    item, _ = place.lines()
    assert item["mask"] == str(beside) and Path(item["output"]).name == "a[1]*.b c_restored.tif"
    for arguments in ((), ("--plan",)):
        assert place("--progress", "none", *arguments, big=place.root / "line\nbreak\x1b[31mred.tif") == 1
        assert "line\\nbreak\\x1b[31mred.tif" in place.only_line


@pytest.mark.parametrize("big", [".", "..", "/"])
def test_a_folder_is_no_picture(place: Place, big: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fill_in()
    monkeypatch.chdir(place.root)
    assert place("--progress", "none", big=Path(big)) == 1
    assert "is a folder" in place.only_line


# ---------------------------------------------------------------- the output's place


def test_the_output_is_big_restored_tif_beside_the_picture_unless_another_is_named(place: Place) -> None:
    place.fill_in()
    assert place() == 0
    assert names(place.root) == ["big.tif", "big_restored.tif", "m.png"]
    assert place("-o", place.root / "a" / "b" / "x.TIFF") == 0
    assert (place.root / "a" / "b" / "x.TIFF").read_bytes() == place.output.read_bytes()


@pytest.mark.parametrize("name", ["x.png", "x", "x.tif.jpg", "folder", "folder.tif"])
def test_2_for_an_output_that_is_no_tiff(place: Place, name: str) -> None:
    place.fill_in()
    (place.root / "folder").mkdir()
    (place.root / "folder.tif").mkdir()
    before = names(place.root)
    assert place("-o", place.root / name) == 2
    assert ("is a folder" if name.startswith("folder") else "TIFF") in place.only_line
    assert names(place.root) == before


def test_an_existing_output_is_not_touched_without_overwrite(place: Place) -> None:
    place.fill_in()
    place.output.write_bytes(b"mine")
    before = place.output.stat()
    assert place("--progress", "none") == 1
    assert "--overwrite" in place.only_line and str(place.output) in place.only_line
    after = place.output.stat()
    assert place.output.read_bytes() == b"mine"
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert names(place.root) == ["big.tif", "big_restored.tif", "m.png"]
    assert place("--overwrite") == 0
    check(load(place.big), place.restored(), HOLE)


@pytest.mark.parametrize("what", ["big", "mask", "link"])
def test_neither_the_picture_nor_its_mask_is_ever_the_output(place: Place, what: str) -> None:
    place.fill_in()
    place.mask = save_mask(place.root / "m.tif", HOLE)
    (place.root / "link.tif").symlink_to(place.big)
    output = {"big": place.big, "mask": place.mask, "link": place.root / "link.tif"}[what]
    before = {path: path.read_bytes() for path in (place.big, place.mask)}
    for options in ((), ("--overwrite",)):
        assert place("--progress", "none", "-o", output, *options) in (1, 2)
        assert "would replace" in place.only_line
    assert {path: path.read_bytes() for path in before} == before and (place.root / "link.tif").is_symlink()


def test_5_where_the_output_folder_cannot_be_made(place: Place) -> None:
    place.fill_in()
    (place.root / "file").write_bytes(b"in the way")
    assert place("-o", place.root / "file" / "x.tif") == 5
    assert "choose another OUT" in place.only_line


@pytest.mark.parametrize("arguments", [["--weights", "no-such-name"], ["--device", "nonsense"], ["--overlap", "300"]])
def test_a_run_that_cannot_begin_makes_no_folder(place: Place, arguments: list[str]) -> None:
    place.fill_in()
    assert place("-o", place.root / "new" / "x.tif", *arguments) in (2, 4, 6)
    assert len(place.error_lines) == 1 and names(place.root) == ["big.tif", "m.png"]


# ---------------------------------------------------------------- the plan


def inside(window: list[int], width: int, height: int, size: int) -> bool:
    x, y, w, h = window
    return min(x, y) >= 0 and x + w <= width and y + h <= height and 0 < w <= size and 0 < h <= size


def test_the_plan_is_one_json_object_and_nothing_is_written_or_needed(place: Place) -> None:
    place.fill_in(hole=LARGE)
    before = {name: (place.root / name).read_bytes() for name in names(place.root)}
    assert place("--plan", "--size", "64", "--device", "no-such-device") == 0
    assert place.err == "" and place.out.count("\n") == 1
    document = place.document()
    assert {name: (place.root / name).read_bytes() for name in names(place.root)} == before
    assert (document["width"], document["height"], document["size"]) == (WIDTH, HEIGHT, 64)
    assert document["damaged_pixels"] == LARGE.sum() and document["memory_bytes"] > 0
    assert document["image"] == str(place.big) and document["mask"] == str(place.mask)
    windows = [*document["windows"], *document["heal_windows"]]
    assert document["windows"] and document["heal_windows"]
    assert all(inside(window, WIDTH, HEIGHT, 64) for window in windows)
    assert document["pixels_to_compute"] == sum(w * h for _, _, w, h in windows)
    assert document["crossings"] == len(document["cuts"]) > 0


def test_the_plan_s_memory_is_less_where_no_network_runs_and_more_for_a_larger_picture(place: Place) -> None:
    place.fill_in()
    planned = use_case.plan(place.big, place.mask, Settings()).plan
    alone, cores = planning.memory(planned, Settings(weights="none")), os.cpu_count() or 1
    assert AT_REST < alone < AT_REST + (32 << 20)
    assert planning.memory(planned, Settings()) == alone + PER_TILE_PIXEL * cores * WIDTH * HEIGHT
    wide = replace(planned, damage=replace(planned.damage, width=100 * WIDTH, plane=None))
    assert planning.memory(wide, Settings(weights="none")) > alone


@pytest.mark.parametrize("shape", ["box", "blobs"])
def test_the_cuts_of_a_plan_are_all_borders_between_two_writers_inside_a_hole_and_nothing_else(
    place: Place, shape: str
) -> None:
    hole = LARGE
    if shape == "blobs":
        blocks = np.random.default_rng(1).random((15, 20)) < 0.6
        hole = np.kron(blocks, np.ones((10, 10), np.bool_)).astype(np.bool_)
    place.fill_in(hole=hole)
    assert place("--plan", "--size", "64") == 0
    planned = use_case.plan(place.big, place.mask, Settings(tile_size=64)).plan
    writer = np.full((HEIGHT, WIDTH), -1)
    for i, window in enumerate(planned.windows):
        writer[window.slices][planned.owned(i)] = i
    np.testing.assert_array_equal(writer >= 0, hole)
    vertical, horizontal = np.zeros((HEIGHT, WIDTH + 1), int), np.zeros((HEIGHT + 1, WIDTH), int)
    for x0, y0, x1, y1 in place.document()["cuts"]:
        assert (x0 == x1 and y0 < y1) or (y0 == y1 and x0 < x1)
        if x0 == x1:
            vertical[y0:y1, x0] += 1
        else:
            horizontal[y0, x0:x1] += 1
    both = hole[:, 1:] & hole[:, :-1] & (writer[:, 1:] != writer[:, :-1])
    np.testing.assert_array_equal(vertical[:, 1:-1], both)
    both = hole[1:] & hole[:-1] & (writer[1:] != writer[:-1])
    np.testing.assert_array_equal(horizontal[1:-1], both)
    assert not vertical[:, [0, -1]].any() and not horizontal[[0, -1]].any()


def test_a_plan_tells_what_a_run_computes(place: Place) -> None:
    hole = np.zeros((HEIGHT, WIDTH), np.bool_)
    hole[70:74, 10:190] = hole[20:140, 100:103] = True  # scratches: no guide
    place.fill_in(hole=hole)
    assert place("--plan", "--size", "64") == 0
    plan = place.document()
    item = place.item("--size", "64")
    assert item["tiles"] == len(plan["windows"]) + len(plan["heal_windows"])
    assert item["pixels_computed"] == plan["pixels_to_compute"] and item["crossings"] == plan["crossings"]


def test_a_plan_of_no_damage_has_no_windows(place: Place) -> None:
    place.fill_in(hole=np.zeros_like(HOLE))
    assert place("--plan", "--plan-image", place.root / "p.png") == 0
    plan = place.document()
    assert (plan["windows"], plan["cuts"], plan["crossings"], plan["pixels_to_compute"]) == ([], [], 0, 0)


def test_a_plan_reads_the_mask_and_not_the_picture(place: Place) -> None:
    place.fill_in(compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    with Image.open(place.big) as image:
        at, length = image.tag_v2[324][5], image.tag_v2[325][5]  # type: ignore[attr-defined]
    data = bytearray(place.big.read_bytes())
    data[at : at + length] = b"\xaa" * length
    place.big.write_bytes(data)
    assert place("--plan") == 0 and len(place.document()["windows"]) == 1
    assert place("--plan-image", place.root / "p.png") == 1
    assert "damaged" in place.only_line and names(place.root) == ["big.tif", "m.png"]


def test_a_drawn_plan_shows_picture_damage_windows_cuts_and_crossings(place: Place) -> None:
    from pconv_cli import sketch

    place.fill_in(hole=LARGE)
    drawing = place.root / "plan.png"
    assert place("--plan-image", drawing, "--size", "64") == 0
    assert place.out == "" and place.only_line == f"note: the plan is drawn in {drawing}; nothing is restored"
    assert names(place.root) == ["big.tif", "m.png", "plan.png"]
    shown = as_pillow_sees(drawing)
    assert shown.shape == (HEIGHT, WIDTH, 3)
    for colour in (sketch.DAMAGE, sketch.WINDOW, sketch.HEALED, sketch.CUT, sketch.CROSSING):
        assert (shown == colour).all(axis=2).any()
    np.testing.assert_array_equal(shown[:5, :5], load(place.big)[:5, :5] // 2 + 40)


def test_a_drawn_plan_shows_12_bits_kept_in_16_as_bright_as_they_are(place: Place) -> None:
    grey = texture(WIDTH, HEIGHT, 1)
    place.fill_in(grey.astype(np.uint16) * 16)
    assert place("--plan-image", place.root / "plan.png") == 0
    seen = as_pillow_sees(place.root / "plan.png")[:5, :5, 0].astype(int) - 40
    assert np.abs(2 * seen - grey[:5, :5, 0]).max() <= 3


def test_a_drawn_plan_of_a_large_picture_is_small(place: Place) -> None:
    hole = np.zeros((1500, 2400), np.bool_)
    hole[700:720, 100:130] = True
    place.fill_in(np.full((1500, 2400, 1), 90, np.uint8), hole)
    assert place("--plan-image", place.root / "plan.png") == 0
    assert as_pillow_sees(place.root / "plan.png").shape == (640, 1024, 3)


def test_plan_and_drawing_may_be_asked_for_together(place: Place) -> None:
    place.fill_in()
    assert place("--plan", "--plan-image", place.root / "plan.png") == 0
    assert place.document()["crossings"] == 0 and place.err == ""
    assert names(place.root) == ["big.tif", "m.png", "plan.png"]


def test_a_drawing_replaces_nothing_unasked_and_never_what_it_is_made_from(place: Place) -> None:
    place.fill_in()
    drawing = place.root / "plan.png"
    drawing.write_bytes(b"mine")
    assert place("--plan-image", drawing) == 1
    assert "--overwrite" in place.only_line and drawing.read_bytes() == b"mine" and place.out == ""
    assert place("--plan-image", drawing, "--overwrite") == 0 and drawing.read_bytes() != b"mine"
    beside = save_mask(place.root / "big_mask.png", HOLE)
    before = {path: path.read_bytes() for path in (place.big, place.mask, beside)}
    for target, mask in ((place.big, place.mask), (place.mask, place.mask), (beside, None)):
        assert place("--plan-image", target, "--overwrite", mask=mask) == 2
        assert "would replace" in place.only_line
    assert {path: path.read_bytes() for path in before} == before


# ---------------------------------------------------------------- only damage changes, and all of it does


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("compress", ["none", "lzw", "deflate", "zstd", "packbits"])
def test_outside_the_mask_every_sample_stays_and_inside_none_of_the_damage_is_left(
    place: Place, dtype: str, bands: int, compress: str
) -> None:
    layouts = [{"tiled": True, "blockxsize": 64, "blockysize": 64}, {"blockysize": 16}, {}]
    number = ["none", "lzw", "deflate", "zstd", "packbits"].index(compress)
    layout: dict[str, Any] = layouts[(number + bands) % 3]
    interleave = ["pixel", "band"][(number + (dtype == "uint8")) % 2] if bands > 1 else "pixel"
    big = ["NO", "YES"][(number + bands // 2) % 2]
    place.fill_in(picture(bands, dtype), compress=compress, interleave=interleave, BIGTIFF=big, **layout)
    item = place.item("--size", "64")
    assert (item["status"], item["unfilled"], item["notices"]) == ("restored", 0, [])
    assert item["outside_mask_changed"] == 0
    check(load(place.big), place.restored(), HOLE)
    with gdal(), rasterio.open(place.big) as before, rasterio.open(place.output) as after:
        assert after.profile == before.profile and after.colorinterp == before.colorinterp
    head = place.output.read_bytes()[2]
    assert head == place.big.read_bytes()[2] == (43 if big == "YES" else 42)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3])
def test_alpha_is_kept_with_a_mask_of_its_own(place: Place, dtype: str, bands: int) -> None:
    ramp = np.tile(np.linspace(30, 255, WIDTH).astype(dtype), (HEIGHT, 1)) * np.array(
        257 if dtype == "uint16" else 1, dtype
    )
    place.fill_in(np.dstack([picture(bands, dtype), ramp]), ALPHA="YES", compress="deflate")
    place.item("--size", "64")
    check(load(place.big), place.restored(), HOLE, kept=bands)


def test_only_touched_blocks_of_a_jpeg_change(place: Place) -> None:
    hole = box(256, 192, 70, 70, 120, 120)
    whole = picture(hole=hole)
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    place.fill_in(whole, hole, compress="jpeg", JPEG_QUALITY=95, photometric="YCBCR", **tiles)
    item = place.item()
    assert any("JPEG" in notice for notice in item["notices"])
    before, after = load(place.big).astype(int), place.restored().astype(int)
    block = box(256, 192, 64, 64, 128, 128)
    np.testing.assert_array_equal(after[~block], before[~block])
    assert np.abs(after - before)[block & ~hole].mean() < 6
    assert np.abs(after - before)[hole].mean() > 40


def test_other_pages_are_kept_and_that_is_said_once(place: Place) -> None:
    pages = [
        Image.fromarray(picture()),
        Image.fromarray(texture(31, 17, seed=5)),
        Image.fromarray(texture(8, 9, 1)[..., 0]),
    ]
    pages[0].save(place.big, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    save_mask(place.mask, HOLE)
    (notice,) = place.item()["notices"]
    assert "first of 3 pages" in notice
    with Image.open(place.output) as after:
        assert after.n_frames == 3
        for number, page in enumerate(pages[1:], start=1):
            after.seek(number)
            np.testing.assert_array_equal(np.asarray(after), np.asarray(page))
    check(load(place.big), place.restored(), HOLE)


def test_where_on_earth_a_picture_lies_and_its_nodata_stay(place: Place) -> None:
    with gdal():
        earth: dict[str, Any] = {"crs": "EPSG:25832", "transform": from_origin(500000, 5600000, 0.5, 0.5), "nodata": 7}
    place.fill_in(None, HOLE, after=lambda raster: raster.update_tags(scale="1:25000"), compress="deflate", **earth)
    assert place() == 0
    with gdal(), rasterio.open(place.big) as before, rasterio.open(place.output) as after:
        assert after.profile == before.profile and after.tags() == before.tags()
        assert after.nodata == 7 and after.crs is not None


@pytest.mark.parametrize("name", ["big.png", "big.jpg", "deep.png"])
def test_what_is_no_tiff_becomes_one_and_that_is_said(place: Place, name: str) -> None:
    place.fill_in()
    place.big, place.output = place.root / name, place.root / f"{Path(name).stem}_restored.tif"
    if name == "deep.png":
        save(place.big, picture(dtype="uint16"), driver="PNG")
    else:
        Image.fromarray(picture()).save(place.big, quality=100, subsampling=0)
    item = place.item()
    assert any("TIFF" in notice for notice in item["notices"])
    assert len(set(item["notices"])) == len(item["notices"])
    before, after = load(place.big), place.restored()
    assert place.output.read_bytes()[:4] in (b"II*\0", b"II+\0") and after.dtype == before.dtype
    np.testing.assert_array_equal(after[~HOLE], before[~HOLE])
    assert after[HOLE].max() < 0.93 * np.iinfo(after.dtype).max
    assert place("--overwrite", "--progress", "plain") == 0 and "note: written anew" in place.err


# ---------------------------------------------------------------- what the picture itself marks


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pixels_with_alpha_0_are_filled_and_become_opaque(place: Place, dtype: str) -> None:
    full = np.iinfo(dtype).max
    alpha = np.where(HOLE, 0, full // 2).astype(dtype)
    place.fill_in(np.dstack([picture(3, dtype), alpha]), ALPHA="YES")
    item = place.item(mask=None)
    assert item["mask"] == f"alpha of {place.big}" and item["unfilled"] == 0
    after = place.restored()
    assert (after[HOLE][:, 3] == full).all()
    check(load(place.big)[..., :3], after[..., :3], HOLE)
    np.testing.assert_array_equal(after[~HOLE], load(place.big)[~HOLE])


def test_grey_with_alpha_is_filled_too(place: Place) -> None:
    place.fill_in(np.dstack([picture(1), np.where(HOLE, 0, 255).astype(np.uint8)]), ALPHA="YES")
    place.item(mask=None)
    assert (place.restored()[HOLE][:, 1] == 255).all()
    check(load(place.big)[..., :1], place.restored()[..., :1], HOLE)


@pytest.mark.parametrize("bands", [1, 3])
def test_no_filled_pixel_is_nodata_even_where_the_fill_would_be(place: Place, bands: int) -> None:
    whole = np.full((HEIGHT, WIDTH, bands), 100, np.uint8)
    whole[:, WIDTH // 2 :] = 104
    whole[HOLE] = 102
    place.fill_in(whole, nodata=102)
    assert place.item(mask=None)["mask"] == f"nodata of {place.big}"
    after = place.restored()
    assert not (after == 102).all(axis=-1).any() and after[HOLE].min() >= 99 and after[HOLE].max() <= 105
    np.testing.assert_array_equal(after[~HOLE], whole[~HOLE])


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("float32", -9999), ("float64", -1.7e308), ("int16", -32768), ("uint32", 0)]
)
@pytest.mark.parametrize("how", ["mask", "alpha", "--mask-from"])
def test_a_nodata_value_in_one_band_is_no_measurement_in_any_way_to_restore(
    place: Place, dtype: str, nodata: float, how: str
) -> None:
    """As NaN is: nothing is learnt from such a pixel, and without a mask nothing measured in it is replaced."""
    from pconv_cli.api import restore_image

    whole = (texture(WIDTH, HEIGHT).astype(dtype) + np.array(1).astype(dtype)) * np.array(3).astype(dtype)
    gap = box(WIDTH, HEIGHT, 64, 30, 78, 60)  # beside the hole
    damaged = whole.copy()
    damaged[HOLE] = nodata if how == "--mask-from" else 5
    damaged[gap & ~HOLE, 0] = nodata
    opaque = np.full((HEIGHT, WIDTH, 1), 100, dtype)
    stored = np.dstack([damaged, opaque]) if how == "alpha" else damaged
    place.fill_in(stored, nodata=nodata, **({"ALPHA": "YES"} if how == "alpha" else {}))
    marked = ["--mask-from", "nodata"] if how == "--mask-from" else []
    hole = HOLE | gap if marked else HOLE
    place.item(*marked, mask=None if marked else "")
    after, (low, high) = place.restored()[..., :3], (whole.min(), whole.max())
    assert after[HOLE].min() >= low and after[HOLE].max() <= high
    if marked:
        np.testing.assert_array_equal(after[gap & ~HOLE][:, 1:], whole[gap & ~HOLE][:, 1:])
        assert after[gap].min() >= low
    np.testing.assert_array_equal(after[~hole], damaged[~hole])
    again = place.root / "again.tif"
    options = ["--weights", "none", "--device", "cpu"]
    paths = [place.big, *([] if marked else [place.mask]), again]
    assert place.pconv("restore", *paths, *marked, *options) == 0, place.err
    np.testing.assert_allclose(load(again)[..., :3], after, rtol=1e-6)
    if not marked:
        made = restore_image(stored, HOLE, weights="none", device="cpu", nodata=nodata)
        np.testing.assert_array_equal(made, load(again))


def test_a_value_that_is_given_for_nodata_counts_in_any_band_too_and_what_is_declared_stays_unlearnt(
    place: Place,
) -> None:
    whole = texture(WIDTH, HEIGHT).astype(np.int16)
    damaged, gap = whole.copy(), box(WIDTH, HEIGHT, 64, 30, 78, 60)
    damaged[gap, 1] = -1
    damaged[gap, 2] = damaged[:10, :10, 0] = -32768
    place.fill_in(damaged, nodata=-32768)
    place.item("--mask-from", "nodata=-1", mask=None)
    after = place.restored()
    np.testing.assert_array_equal(after[..., 0], damaged[..., 0])
    np.testing.assert_array_equal(after[~gap], damaged[~gap])
    assert after[gap].min() >= whole.min() and after[gap].max() <= whole.max()


def test_filled_pixels_are_valid_in_the_mask_band(place: Place) -> None:
    place.fill_in(after=lambda raster: raster.write_mask(~HOLE), compress="deflate")
    assert place.item(mask=None)["mask"] == f"mask band of {place.big}"
    check(load(place.big), place.restored(), HOLE)
    with gdal(), rasterio.open(place.output) as after:
        assert (after.dataset_mask() == 255).all()


@pytest.mark.parametrize("how", ["alpha", "nodata", "mask band"])
@pytest.mark.parametrize("size", [64, 512])
def test_damage_is_filled_alike_whether_the_picture_or_a_file_marks_it(place: Place, how: str, size: int) -> None:
    whole = picture(hole=LARGE)
    place.fill_in(whole, LARGE)
    with_file = place.item("--size", str(size))
    expected = place.restored()
    if how == "alpha":
        save(place.big, np.dstack([whole, np.where(LARGE, 0, 255).astype(np.uint8)]), ALPHA="YES")
    elif how == "nodata":
        save(place.big, whole, nodata=PAINT)
    else:
        save(place.big, whole, after=lambda raster: raster.write_mask(~LARGE))
    own = place.item("--size", str(size), mask=None)
    np.testing.assert_array_equal(place.restored()[..., :3], expected)
    for figure in ("tiles", "seam_ratio", "by_pyramid", "crossings"):
        assert own[figure] == with_file[figure]


def test_what_is_transparent_beside_a_mask_is_not_learnt_from_and_stays(place: Place) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, 100:] = 0  # touches the hole and lies under a part of it
    fills = []
    for hidden in (0, 255):
        whole = picture()
        whole[:, 110:] = hidden
        place.fill_in(np.dstack([whole, alpha]), ALPHA="YES")
        place.item("--size", "64")
        after = place.restored()
        np.testing.assert_array_equal(after[~HOLE], load(place.big)[~HOLE])
        np.testing.assert_array_equal(after[..., 3], alpha)
        fills.append(after[HOLE])
    np.testing.assert_array_equal(*fills)


@pytest.mark.parametrize("compress", ["deflate", "lerc"])
@pytest.mark.parametrize("how", ["alpha", "mask band"])
def test_what_is_filled_and_stays_transparent_is_told(place: Place, how: str, compress: str) -> None:
    shown = np.full((HEIGHT, WIDTH), 255, np.uint8)
    shown[:, 100:] = 0
    hidden = int((HOLE & (shown == 0)).sum())
    if how == "alpha":
        place.fill_in(np.dstack([picture(), shown]), ALPHA="YES", compress=compress)
    else:
        place.fill_in(picture(), after=lambda raster: raster.write_mask(shown), compress=compress)
    told = f"filled but not to be seen, for its {how} stays as it is: {hidden} pixels"
    found = [notice for notice in place.item("--strict")["notices"] if "written anew" not in notice]
    assert len(found) == 1 and found[0].startswith(told)
    for arguments in ((), ("--mask-from", "alpha")):  # what the file itself marks is shown
        place.output.unlink()
        assert not any("not to be seen" in notice for notice in place.item(*arguments, mask=None)["notices"])


def test_damage_that_a_file_marks_is_filled_alike_whether_or_not_it_is_nodata_too(place: Place) -> None:
    whole = picture(hole=LARGE)
    place.fill_in(whole, LARGE)
    place.item("--size", "64")
    expected = place.restored()
    save(place.big, whole, nodata=PAINT)
    place.item("--size", "64")
    np.testing.assert_array_equal(place.restored(), expected)


# ---------------------------------------------------------------- any depth, any colour


def raw(path: Path) -> NDArray[Any]:
    """Pixels as stored: without the prefix GDAL would turn inks into red, green and blue."""
    return load(f"GTIFF_RAW:{path}")


def painted(pixels: NDArray[Any], value: Any, hole: NDArray[np.bool_] = HOLE) -> NDArray[Any]:
    pixels = pixels.copy()
    pixels[hole] = value
    return pixels


def grey_palette() -> dict[int, tuple[int, int, int, int]]:
    """Numbers and greys in no common order; the last one is what damage is painted in."""
    order = np.random.default_rng(2).permutation(64)
    return {number: (4 * int(grey),) * 3 + (255,) for number, grey in enumerate(order)} | {64: (255, 0, 255, 255)}


def nearest_in_palette(grey: NDArray[Any]) -> NDArray[np.uint8]:
    table = np.array([colour[0] for colour in grey_palette().values()][:64])
    return np.abs(grey.astype(int)[..., None] - table).argmin(axis=-1).astype(np.uint8)


def as_greys(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.array([colour[:3] for colour in grey_palette().values()])[pixels[..., 0]]


def as_light(pixels: NDArray[Any]) -> NDArray[Any]:
    """Inks as what they leave of white paper, 0..255."""
    ink = pixels.astype(float) / np.iinfo(pixels.dtype).max
    return 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:4])


def as_bytes(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels / (257 if pixels.dtype == np.uint16 else 1)


TILES: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64}
BITS = painted((texture(WIDTH, HEIGHT, 1) > 60).astype(np.uint8), 0)
WIDE = texture(WIDTH, HEIGHT, 4).astype(np.float32)
Shown = Callable[[NDArray[Any]], NDArray[Any]]
KINDS: dict[str, tuple[NDArray[Any], dict[str, Any], Shown]] = {
    "float": (painted(WIDE[..., :1] / 255, 1), {"compress": "deflate", "predictor": 3, **TILES}, lambda p: p * 255),
    "float RGB": (painted(WIDE[..., :3] * 40 - 7000, 4e4), {"compress": "lzw"}, lambda p: (p + 7000) / 40),
    "float planes": (painted(WIDE, -9e9), {"compress": "zstd", "interleave": "band"}, lambda p: p),
    "double": (
        painted(WIDE[..., :1] / np.float64(3e9) + 1e3, 1e4),
        {"compress": "deflate", "predictor": 3, **TILES}, lambda p: (p - 1e3) * 3e9,
    ),
    "int8": (painted((WIDE[..., :1] / 2 - 60).astype(np.int8), 127), {"compress": "lzw"}, lambda p: (p + 60.0) * 2),
    "int16": (
        painted(WIDE[..., :1].astype(np.int16) * 40 - 3000, -32768),
        {"compress": "deflate", "predictor": 2, **TILES}, lambda p: (p + 3000) / 40,
    ),
    "int16 RGB": (painted(WIDE[..., :3].astype(np.int16) - 300, 32767), {"compress": "zstd"}, lambda p: p + 300.0),
    "int32": (
        painted(WIDE[..., :2].astype(np.int32) * 2**23 - 2**30, -(2**31)), {"compress": "lzw", "interleave": "band"},
        lambda p: (p + 2.0**30) / 2**23,
    ),
    "uint32": (painted(WIDE[..., :1].astype(np.uint32) << 24, 0), {"predictor": 2, "compress": "zstd"},
               lambda p: p / 2**24),
    "CMYK LZW": (painted(picture(4), 255), {"photometric": "CMYK", "compress": "lzw", **TILES}, as_light),
    "CMYK 16 bit": (picture(4, "uint16"), {"photometric": "CMYK", "compress": "deflate", "predictor": 2}, as_light),
    "palette": (
        painted(nearest_in_palette(texture(WIDTH, HEIGHT, 1)), 64),
        {"compress": "packbits", "photometric": "PALETTE", "after": lambda r: r.write_colormap(1, grey_palette())},
        as_greys,
    ),
    "1 bit fax": (BITS, {"NBITS": 1, "compress": "CCITTFAX4"}, lambda p: p * 255),
    "1 bit LZW": (BITS, {"NBITS": 1, "compress": "lzw", **TILES}, lambda p: p * 255),
    "1 bit": (BITS, {"NBITS": 1}, lambda p: p * 255),
    "1 bit, white is 0": (1 - BITS, {"NBITS": 1, "photometric": "MINISWHITE"}, lambda p: 255 - p * 255),
    "white is 0": (255 - picture(1), {"photometric": "MINISWHITE", "compress": "lzw"}, lambda p: 255 - p),
    "white is 0, 16 bit": (65535 - picture(1, "uint16"), {"photometric": "MINISWHITE"}, lambda p: 255 - as_bytes(p)),
    "colours multiplied by alpha": (
        np.concatenate([picture(), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], 2),
        {"compress": "lzw", "ALPHA": "PREMULTIPLIED"}, lambda p: p[..., :3],
    ),
    "5 bands": (picture(5), {"compress": "deflate", **TILES}, as_bytes),
    "5 planes": (picture(5, "uint16"), {"compress": "lzw", "interleave": "band"}, as_bytes),
    "RGB and infrared": (picture(4), {"compress": "lzw", "photometric": "RGB", "ALPHA": "NO"}, as_bytes),
    "RGB, infrared and more": (picture(5, "uint16"), {"photometric": "RGB", "ALPHA": "NO"}, as_bytes),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_of_any_depth_and_colour_everything_stays_but_the_damage(place: Place, kind: str) -> None:
    whole, options, shown = KINDS[kind]
    place.fill_in(whole, **options)
    give_tags(place.big, {65000: (7, 9, b"private!!"), 271: (2, 6, b"Leica\0")})
    before = raw(place.big)
    item = place.item("--size", "64")
    after = raw(place.output)
    assert after.dtype == before.dtype and after[~HOLE].tobytes() == before[~HOLE].tobytes()
    assert (item["unfilled"], item["notices"], item["outside_mask_changed"]) == (0, [], 0)
    one, other = directories(place.big)[0], directories(place.output)[0]
    assert {tag: one[tag] for tag in one.keys() - POSITIONS} == {tag: other[tag] for tag in other.keys() - POSITIONS}
    around = box(WIDTH, HEIGHT, 60, 30, 120, 80) & ~HOLE
    wanted = shown(before)[around].mean(axis=0)
    assert (np.abs(shown(before)[HOLE].mean(axis=0) - wanted) > 40).all(), "the test itself should paint damage"
    assert (np.abs(shown(after)[HOLE].mean(axis=0) - wanted) < 40).all()


@pytest.mark.parametrize("command", ["tile", "restore"])
def test_windows_that_see_nothing_go_by_the_white_of_all_that_is_known(place: Place, command: str) -> None:
    hole = box(WIDTH, HEIGHT, 0, 100, WIDTH, HEIGHT)
    place.fill_in(np.full((HEIGHT, WIDTH, 3), 52000, np.uint16), hole)
    if command == "tile":
        assert place("--size", "64") == 0
    else:
        how = ("--weights", "none", "--device", "cpu", "--tile-size", "64")
        assert place.pconv("restore", place.big, place.mask, place.output, *how) == 0
    assert np.abs(load(place.output).astype(int) - 52000).max() <= 1


@pytest.mark.parametrize("command", ["tile", "restore"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("inks", [(150, 100, 100, 50), (0, 0, 0, 128)])
def test_fills_of_inks_have_as_much_black_as_what_is_around(
    place: Place, inks: tuple[int, ...], dtype: str, command: str
) -> None:
    whole = np.full((HEIGHT, WIDTH, 4), inks) * (np.iinfo(dtype).max // 255)
    place.fill_in(np.where(LARGE[..., None], np.iinfo(dtype).max, whole).astype(dtype), LARGE, photometric="CMYK")
    if command == "tile":
        assert place("--size", "64") == 0
    else:
        how = ("--weights", "none", "--device", "cpu", "--tile-size", "64")
        assert place.pconv("restore", place.big, place.mask, place.output, *how) == 0
    assert np.abs(raw(place.output).astype(int) - whole).max() <= (dtype == "uint16")


def test_a_jpeg_of_inks_is_filled_with_inks_that_are_around(place: Place) -> None:
    image = Image.new("CMYK", (WIDTH, HEIGHT), (150, 100, 100, 50))
    image.paste((0, 0, 0, 255), (70, 40, 110, 70))
    image.save(place.root / "a.jpg", quality=95, subsampling=0)
    save_mask(place.mask, HOLE)
    assert place.pconv("restore", place.root / "a.jpg", place.mask, place.root / "b.jpg", "--dilate", "8") == 0
    inks = np.asarray(Image.open(place.root / "b.jpg")).astype(int)
    assert np.abs(inks - [150, 100, 100, 50])[HOLE].max() <= 4


def veiled(dtype: str, bands: int = 4) -> tuple[NDArray[Any], float]:
    """One colour multiplied by an alpha that is less and less downwards, none at last; and what alpha is at most."""
    most = 1.0 if dtype[0] == "f" else float(np.iinfo(dtype).max)
    alpha = np.linspace(1, 0.2, HEIGHT).repeat(WIDTH).reshape(HEIGHT, WIDTH, 1)
    alpha[100:] = 0
    pixels = np.concatenate([alpha * [0.8, 0.6, 0.4][: bands - 1], alpha], 2) * most
    return (pixels if dtype[0] == "f" else pixels.round()).astype(dtype), most


@pytest.mark.parametrize("command", ["tile", "restore"])
@pytest.mark.parametrize("marked", ["by a mask", "by alpha", "by alpha, dilated"])
@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 4), ("uint16", 4), ("float32", 4), ("uint8", 2)])
def test_fills_of_colours_that_are_multiplied_by_alpha_are_too(
    place: Place, dtype: str, bands: int, marked: str, command: str
) -> None:
    whole, most = veiled(dtype, bands)
    by_mask, hole = marked == "by a mask", LARGE.copy()  # in many windows, which meet where alpha is 0 as elsewhere
    damaged = whole.copy()
    if by_mask:
        damaged[hole, :-1] = most  # glowing where alpha is 0
    else:
        hole = np.zeros_like(LARGE)
        hole[98 if "dilated" in marked else 100 :] = True
    place.fill_in(damaged, hole, ALPHA="PREMULTIPLIED")
    how = [] if by_mask else ["--mask-from", "alpha", *(["--dilate", "2"] if "dilated" in marked else [])]
    if command == "tile":
        assert place(*how, "--size", "64", mask="" if by_mask else None) == 0
    else:
        masks = [place.mask] if by_mask else []
        how += ["--weights", "none", "--device", "cpu", "--tile-size", "64"]
        assert place.pconv("restore", place.big, *masks, place.output, *how) == 0
    after, before = load(place.output), load(place.big)
    assert np.array_equal(after[~hole], before[~hole])
    wanted = whole if by_mask else np.array([*[0.8, 0.6, 0.4][: bands - 1], 1]) * np.full_like(whole, most, "float64")
    step = 1e-5 if dtype[0] == "f" else 3 if dtype == "uint8" else 9
    assert np.abs(after.astype(float) - wanted)[hole].max() <= step
    assert (after[..., :-1] <= after[..., -1:] + 1e-6).all()
    assert by_mask == ("filled but not to be seen" in place.err)


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_tiff_gets_the_same_pixels_from_restore(place: Place, kind: str) -> None:
    whole, options, _ = KINDS[kind]
    place.fill_in(whole, **options)
    chosen = RestoreSettings(tile_size=64, weights="none", device="cpu", precision="fp32")
    other = place.root / "other.tif"
    report = restore(plan(place.big, place.mask, str(other), chosen), chosen, lambda _: None)
    big, _ = go(place, tile_size=64)
    assert report.items[0].status == big.items[0].status == "restored", report.items[0].reason
    one, two = raw(other), raw(place.output)
    if is_ranged(one.dtype):  # a window is rounded to the file's own type each time that it is laid
        atol = 1e-6 * float(np.ptp(one[~HOLE].astype(np.float64))) + (one.dtype.kind != "f")
        np.testing.assert_allclose(one, two, rtol=0, atol=atol)
    else:
        np.testing.assert_array_equal(one, two)
    for figure in ("tiles", "pixels_computed", "by_pyramid", "space", "outside_mask_changed"):
        assert getattr(report.items[0], figure) == getattr(big.items[0], figure)


@pytest.mark.parametrize("marked_by", ["NaN", "infinity", "nodata", "a file"])
@pytest.mark.parametrize("bands", [1, 3])
def test_float_fills_lie_among_the_values_that_are_known(place: Place, marked_by: str, bands: int) -> None:
    whole = texture(WIDTH, HEIGHT, bands).astype(np.float32) * 13 - 5000
    value = {"NaN": np.nan, "infinity": -np.inf, "nodata": -9999.0, "a file": 1e30}[marked_by]
    place.fill_in(painted(whole, value), nodata=-9999.0 if marked_by == "nodata" else None)
    item = place.item(mask="" if marked_by == "a file" else None)
    after = place.restored()
    assert item["hole_share"] == round(HOLE.mean(), 6) and "shown as 0 to 1" in item["space"]
    for band in range(bands):
        known, fill = whole[~HOLE, band], after[HOLE][:, band]
        assert known.min() <= fill.min() < fill.max() <= known.max()
    assert after[~HOLE].tobytes() == whole[~HOLE].tobytes()


ELEVATIONS: dict[str, tuple[Any, float]] = {  # of type: steps of a texture, and what is no elevation
    "int8": (0.5, -128), "int16": (10, -32768), "int16 and -9999": (10, -9999), "int32": (2**20, -(2**31)),
    "uint32": (2**24, 2**32 - 1), "float64": (1 / 3, -1.7e308),
}  # fmt: skip


@pytest.mark.parametrize("marked_by", ["nodata", "a value", "a file"])
@pytest.mark.parametrize("kind", ELEVATIONS)
def test_of_any_type_fills_lie_among_the_values_that_are_known_and_all_else_stays(
    place: Place, kind: str, marked_by: str
) -> None:
    step, nodata = ELEVATIONS[kind]
    dtype = np.dtype(kind.split()[0])
    whole = (texture(WIDTH, HEIGHT, 1).astype(np.float64) * step - (0 if dtype.kind == "u" else 100)).astype(dtype)
    corner = box(WIDTH, HEIGHT, 0, 0, 30, 20) & (marked_by == "a file")  # holds nothing, and is not to
    earth = {} if marked_by == "a value" else {"nodata": nodata}
    earth |= {"crs": "EPSG:25832", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5.6e6)}
    place.fill_in(painted(painted(whole, nodata), nodata, corner), compress="deflate", predictor=2, **TILES, **earth)
    how = {"nodata": [], "a value": ["--mask-from", f"nodata={nodata}"], "a file": []}[marked_by]
    item = place.item("--size", "64", *how, mask="" if marked_by == "a file" else None)
    after = place.restored()
    assert (item["hole_share"], item["outside_mask_changed"]) == (round(HOLE.mean(), 6), 0)
    assert item["space"].startswith("float" if dtype.kind == "f" else f"{dtype} ")
    known, fill = whole[~HOLE & ~corner], after[HOLE]
    assert after.dtype == dtype and known.min() <= fill.min() < fill.max() <= known.max()
    assert after[~HOLE].tobytes() == load(place.big)[~HOLE].tobytes() and not (fill == nodata).any()
    with gdal(), rasterio.open(place.output) as made, rasterio.open(place.big) as big:
        assert (made.nodata, made.crs, made.transform) == (big.nodata, big.crs, big.transform)
    other = place.root / "other.tif"
    mask = parse(how[1] if how else "nodata") if marked_by != "a file" else None
    chosen = RestoreSettings(tile_size=64, weights="none", device="cpu", precision="fp32", mask_from=mask)
    report = restore(plan(place.big, None if mask else place.mask, str(other), chosen), chosen, lambda _: None)
    assert report.items[0].status == "restored" and report.items[0].space == item["space"]
    small = load(other)
    atol = 1e-6 * float(np.ptp(known.astype(np.float64))) + (dtype.kind != "f")
    np.testing.assert_allclose(small.astype(np.float64), after, rtol=0, atol=atol)
    assert small[~HOLE].tobytes() == after[~HOLE].tobytes() and not (small[HOLE] == nodata).any()


@pytest.mark.parametrize(("dtype", "value"), [("float32", -9999), ("int16", -32768), ("float64", -1e5)])
def test_what_seems_to_be_nodata_beside_the_damage_and_is_not_named_is_told_in_any_way_to_restore(
    place: Place, dtype: str, value: float
) -> None:
    whole = texture(WIDTH, HEIGHT, 1).astype(dtype)
    whole[:, 150:] = value
    for named in (None, value):
        place.fill_in(painted(whole, 0), nodata=named)
        place.item()
        told = [line for line in place.error_lines if "no nodata value is named" in line]
        chosen = RestoreSettings(weights="none", device="cpu", overwrite=True)
        out = str(place.root / "other.tif")
        report = restore(plan(place.big, place.mask, out, chosen), chosen, lambda _: None)
        also = [notice for notice in report.items[0].notices if "no nodata value is named" in notice]
        expected = named is None and value != -1e5  # which nobody writes for that
        assert len(told) == len(also) == expected
        if expected:
            assert also[0] in told[0] and f"gdal_edit.py -a_nodata {value}" in told[0]


@pytest.mark.parametrize("hole", [HOLE, LARGE], ids=["one window", "cut and healed"])
def test_a_gap_in_one_band_leaves_what_the_others_measured(place: Place, hole: NDArray[np.bool_]) -> None:
    whole = texture(WIDTH, HEIGHT, 3).astype(np.float32) * 13 - 5000
    damaged = whole.copy()
    damaged[hole, 0] = np.nan
    damaged[HOLE, 1] = np.inf
    place.fill_in(damaged)
    place.item("--size", "64", mask=None)
    after = place.restored()
    assert np.isfinite(after).all() and (after[..., 2] == whole[..., 2]).all()
    assert (after[~hole] == whole[~hole]).all() and (after[~HOLE, 1] == whole[~HOLE, 1]).all()
    settings = RestoreSettings(weights="none", device="cpu", tile_size=64, mask_from=parse("nodata"))
    out = place.root / "other.tif"
    restore(plan(place.big, None, str(out), settings), settings, lambda event: None)
    np.testing.assert_allclose(load(out), after, rtol=0, atol=1e-6 * float(np.ptp(whole)))  # what was healed, too


def test_nan_beside_the_mask_stays_to_the_bit_and_is_not_learnt_from(place: Place) -> None:
    whole = texture(WIDTH, HEIGHT, 1).astype(np.float32) + 300
    strange = np.array([0x7FC12345], np.uint32).view(np.float32)[0]
    whole[30:60, 50:80] = strange  # touches the hole, and lies under a part of it
    place.fill_in(painted(whole, -1e9, HOLE & ~np.isnan(whole[..., 0])), compress="deflate", predictor=3)
    before = load(place.big)
    assert np.isnan(before[HOLE]).any() and np.isnan(before[~HOLE]).any()
    item = place.item()
    after = place.restored()
    assert after[~HOLE].tobytes() == before[~HOLE].tobytes() and item["outside_mask_changed"] == 0
    assert after[HOLE].min() >= 340 and after[HOLE].max() <= 515


def test_a_wild_value_in_a_flat_strip_is_out_of_reach_of_fills(place: Place) -> None:
    hole = box(300, 600, 100, 400, 160, 440)
    whole = texture(300, 600, 1).astype(np.float32) + 100
    whole[:256] = 0  # all that is read together first
    whole[10, 10] = 1e30
    place.fill_in(painted(whole, -1, hole), hole=hole)
    item, after = place.item(), place.restored()
    assert after[hole].min() >= 0 and after[hole].max() <= 1000
    settings = RestoreSettings(weights="none", device="cpu")
    out = place.root / "other.tif"
    report = restore(plan(place.big, place.mask, str(out), settings), settings, lambda event: None)
    assert report.items[0].space == item["space"]
    np.testing.assert_allclose(load(out), after, rtol=1e-6)


def test_a_constant_picture_is_filled_with_its_constant(place: Place) -> None:
    for value in (np.float32(1234.5), np.float64(1 / 3 + 1e5), np.int16(-32767), np.int32(2**31 - 1)):
        place.fill_in(painted(np.full((HEIGHT, WIDTH, 1), value), -1))
        place.item()
        assert (place.restored() == value).all()


def test_a_float_picture_that_is_nan_outside_the_mask_has_nothing_to_restore_from(place: Place) -> None:
    place.fill_in(painted(np.full((HEIGHT, WIDTH, 1), np.nan, np.float32), 1))
    assert place("--progress", "none") == 1
    assert "nothing is left to restore from" in place.only_line and names(place.root) == ["big.tif", "m.png"]


def test_linear_light_is_said_to_be_shown_as_srgb_and_changes_fills_alone(place: Place) -> None:
    place.fill_in(picture(3, "uint16"), compress="lzw")
    place.item("--size", "64")
    plain = place.restored()
    assert place.item("--size", "64", "--linear")["space"] == "linear light shown as sRGB"
    np.testing.assert_array_equal(place.restored()[~HOLE], plain[~HOLE])
    assert (place.restored()[HOLE] != plain[HOLE]).any()


@pytest.mark.parametrize("name", ["big.png", "big.webp"])
def test_animations_are_refused_in_the_words_of_restore(place: Place, name: str) -> None:
    place.fill_in()
    frames = [Image.fromarray(texture(WIDTH, HEIGHT, seed=seed)) for seed in range(3)]
    frames[0].save(place.root / name, save_all=True, append_images=frames[1:])
    assert place("--progress", "none", big=place.root / name) == 1
    words = "animated, 3 frames: export the frames as single pictures first"
    assert place.only_line == f"failed {name}: {words}" and not place.output.exists()
    assert place("--plan", big=place.root / name) == 1 and words in place.err


# ---------------------------------------------------------------- what is lost


def test_pixels_that_jpeg_changes_outside_the_mask_are_counted_and_told(place: Place) -> None:
    hole = box(256, 192, 70, 70, 120, 120)
    place.fill_in(picture(hole=hole), hole, compress="jpeg", JPEG_QUALITY=90, photometric="YCBCR", **TILES)
    item = place.item()
    changed = (load(place.big) != place.restored()).any(axis=2) & ~hole
    assert item["outside_mask_changed"] == changed.sum() > 0
    assert any("encoded again" in notice for notice in item["notices"])


def test_strict_refuses_what_jpeg_would_lose_before_anything_is_computed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill_in(compress="jpeg", photometric="YCBCR", **TILES)
    monkeypatch.setattr(engine.Engine, "fill", lambda *_: pytest.fail("computed"))
    assert place("--strict", "--progress", "none") == 1
    assert "--strict refuses" in place.only_line and "JPEG" in place.only_line and "leave it out" in place.only_line
    assert names(place.root) == ["big.tif", "m.png"]
    save_mask(place.mask, HOLE & False)
    assert place("--strict") == 0 and place.output.read_bytes() == place.big.read_bytes()


def test_strict_refuses_files_beside_before_anything_is_computed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fill_in()
    (place.root / "big.tif.aux.xml").write_text("damaged")
    assert any("big.tif.aux.xml" in notice for notice in place.item()["notices"])
    place.output.unlink()
    monkeypatch.setattr(engine.Engine, "fill", lambda *_: pytest.fail("computed"))
    assert place("--strict", "--progress", "none") == 1
    assert "--strict refuses" in place.only_line and "big.tif.aux.xml" in place.only_line
    assert names(place.root) == ["big.tif", "big.tif.aux.xml", "m.png"]


@pytest.mark.parametrize("compress", ["lzw", "lerc"])
def test_a_nodata_value_beside_the_picture_marks_damage_too(place: Place, compress: str) -> None:
    save(place.big, picture(), compress=compress)
    (place.root / "big.tif.aux.xml").write_text(
        "<PAMDataset>"
        + "".join(f"<PAMRasterBand band='{n}'><NoDataValue>{PAINT}</NoDataValue></PAMRasterBand>" for n in (1, 2, 3))
        + "</PAMDataset>"
    )
    place.item("--strict", mask=None)
    check(load(place.big), place.restored(), HOLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(place.output) as raster:
            assert raster.nodatavals == (PAINT,) * 3 and (raster.dataset_mask() == 255).all()


@pytest.mark.parametrize("damage", [True, False])
def test_what_says_from_beside_where_a_picture_lies_is_kept(place: Place, damage: bool) -> None:
    place.fill_in(hole=HOLE & damage)
    world = place.root / "big.tfw"
    world.write_text("1\n0\n0\n-1\n0\n0\n")
    assert place.item("--strict")["notices"] == []
    assert (place.root / "big_restored.tfw").read_bytes() == world.read_bytes()
    place.output.unlink()
    (place.root / "big_restored.tfw").write_text("mine")
    assert place("--progress", "none") == 1 and "big_restored.tfw beside it is there already" in place.only_line
    assert place("--overwrite") == 0 and (place.root / "big_restored.tfw").read_bytes() == world.read_bytes()


def test_strict_takes_what_loses_nothing(place: Place) -> None:
    place.fill_in(compress="lzw")
    assert place.item("--strict")["status"] == "restored"


# ---------------------------------------------------------------- damage that the picture shows


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "how", ["alpha", "nodata", "nodata=255", "color=#ff00ff", "color=#fd02fe~3", "band=4", "band=5"]
)
def test_damage_that_is_marked_in_the_picture_is_filled_as_if_a_file_had_marked_it(
    place: Place, how: str, dtype: str
) -> None:
    scale = 257 if dtype == "uint16" else 1
    paint = (255, 0, 255) if how.startswith("color") else 255
    whole = painted(texture(WIDTH, HEIGHT).astype(dtype), paint, LARGE) * np.array(scale, dtype)
    place.fill_in(whole, LARGE)
    expected = place.item("--size", "64")
    fills = place.restored()
    mask = (np.where(LARGE, 255, 0) * scale).astype(dtype)
    rest = texture(WIDTH, HEIGHT, 1).astype(dtype)
    value = "nodata" if how == "nodata" else None
    if how == "alpha":
        save(place.big, np.dstack([whole, mask.max() - mask]), ALPHA="YES")
    elif how.startswith("band"):
        extra = [mask] if how == "band=4" else [rest, mask]
        save(place.big, np.dstack([whole, *extra]), photometric="RGB", ALPHA="NO")
    else:
        save(place.big, whole, **({"nodata": 255 * scale} if value else {}))
    told = how if how != "nodata=255" else f"nodata={255 * scale}"
    before = load(place.big)
    item = place.item("--size", "64", "--mask-from", told, mask=None)
    after = place.restored()
    assert item["mask"] == f"{told} of {place.big}" and item["hole_share"] == expected["hole_share"]
    np.testing.assert_array_equal(after[..., :3], fills)
    np.testing.assert_array_equal(after[~LARGE], before[~LARGE])
    if how.startswith("band"):
        np.testing.assert_array_equal(after[..., -1], before[..., -1], "the mask stays")
    if how == "band=5":
        assert (after[LARGE][:, 3] != before[LARGE][:, 3]).any(), "other bands are filled"


def test_a_mask_band_may_be_inverted_and_may_be_what_the_file_calls_alpha(place: Place) -> None:
    mask = np.where(HOLE, 0, 255).astype(np.uint8)
    place.fill_in(np.dstack([picture(), mask]), ALPHA="NO")
    place.item("--size", "64", "--mask-from", "band=4", "--invert-mask", mask=None)
    check(load(place.big), place.restored(), HOLE, kept=3)
    expected = place.restored()
    save(place.big, np.dstack([picture(), mask]), ALPHA="YES")
    place.item("--size", "64", "--mask-from", "band=4", "--invert-mask", mask=None)
    np.testing.assert_array_equal(place.restored(), expected)


def test_what_is_transparent_beside_a_marked_colour_is_not_learnt_from(place: Place) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, 110:] = 0
    fills = []
    for hidden in (0, 250):
        whole = painted(texture(WIDTH, HEIGHT), (255, 0, 255))
        whole[:, 110:] = hidden
        place.fill_in(np.dstack([whole, alpha]), ALPHA="YES")
        item = place.item("--size", "64", "--mask-from", "color=#ff00ff", mask=None)
        assert item["hole_share"] == round(HOLE.mean(), 6)
        fills.append(place.restored()[HOLE])
    np.testing.assert_array_equal(*fills)


def test_a_mark_comes_before_a_mask_beside_the_picture(place: Place) -> None:
    place.fill_in(painted(texture(WIDTH, HEIGHT), (255, 0, 255)))
    save_mask(place.root / "big_mask.png", LARGE)
    assert place.item("--mask-from", "color=#ff00ff", mask=None)["hole_share"] == round(HOLE.mean(), 6)


@pytest.mark.parametrize(
    ("mark", "code", "says"),
    [
        ("band=5", 1, "4 bands"), ("band=2", 1, "name another band"), ("alpha", 1, "no transparency"),
        ("nodata", 1, "nodata=0"), ("band=0", 2, "band=N"), ("bands=4", 2, "band=N"), ("color=red", 2, "color=#RRGGBB"),
        ("color=#ff00ff~256", 2, "~TOLERANCE"), ("nodata=none", 2, "no number"), ("alphas", 2, "not a mark"),
    ],
)  # fmt: skip
def test_a_mark_that_cannot_be_is_one_line(place: Place, mark: str, code: int, says: str) -> None:
    place.fill_in(picture(4), ALPHA="NO")
    assert place("--mask-from", mark, "--progress", "none", mask=None) == code
    assert says in place.only_line and names(place.root) == ["big.tif", "m.png"]


def test_the_only_band_of_a_picture_is_no_mask(place: Place) -> None:
    place.fill_in(picture(1))
    assert place("--mask-from", "band=1", "--progress", "none", mask=None) == 1
    assert "name another band" in place.only_line


def test_2_for_a_mask_and_a_mark(place: Place) -> None:
    place.fill_in()
    assert place("--mask-from", "nodata=0") == 2
    assert (
        "--mask " in place.only_line and "--mask-from nodata=0" in place.only_line and "choose one" in place.only_line
    )


def test_a_marked_picture_is_planned_as_it_is_restored(place: Place) -> None:
    place.fill_in(painted(texture(WIDTH, HEIGHT), (255, 0, 255)))
    assert place("--plan", "--mask-from", "color=#ff00ff", mask=None) == 0
    assert place.document()["damaged_pixels"] == HOLE.sum()


# ---------------------------------------------------------------- options


def test_an_inverted_mask_gives_what_its_opposite_gives(place: Place) -> None:
    place.fill_in()
    place.item()
    expected = place.output.read_bytes()
    save_mask(place.mask, ~HOLE)
    assert place("--invert-mask", "--overwrite") == 0
    assert place.output.read_bytes() == expected


@pytest.mark.parametrize("radius", [1, 6, 300])
def test_dilation_equals_a_mask_drawn_bigger(place: Place, radius: int) -> None:
    hole = np.zeros((1200, 90), np.bool_)  # five strips, damage on both sides of where they meet
    hole[254:258, 40:44] = hole[0, 0] = hole[511, 89] = True
    grown = np.zeros_like(hole)
    for y, x in np.argwhere(hole):
        grown[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    place.fill_in(texture(90, 1200), hole)
    first = place.item("--dilate", str(radius), "--size", "128")
    once = place.output.read_bytes()
    save_mask(place.mask, grown)
    second = place.item("--size", "128")
    assert place.output.read_bytes() == once
    assert first["hole_share"] == second["hole_share"] == round(grown.mean(), 6)


def test_a_hole_larger_than_several_tiles_is_filled_to_the_end(place: Place) -> None:
    place.fill_in(hole=LARGE)
    item = place.item("--size", "32")
    assert item["unfilled"] == 0 and item["crossings"] > 4 and item["seam_ratio"] is not None
    check(load(place.big), place.restored(), LARGE)
    steps = np.abs(np.diff(place.restored().astype(int)[30:120, 30:170], axis=1))
    assert steps.max() < 40, "no tile shows"


def test_a_hole_in_one_tile_has_no_seam_to_measure(place: Place) -> None:
    place.fill_in()
    item = place.item()
    assert (item["crossings"], item["seam_ratio"], item["unfilled"]) == (0, None, 0)


def test_overlap_changes_fills_and_nothing_else(place: Place) -> None:
    place.fill_in(hole=LARGE)
    place.item("--size", "64")
    plain = place.restored()
    item = place.item("--size", "64", "--overlap", "16")
    assert item["unfilled"] == 0 and place.lines()[1]["settings"]["overlap"] == 16
    assert (item["crossings"], item["seam_ratio"]) == (0, None), "what is blended has no cuts to be measured at"
    assert place("--size", "64", "--overlap", "16", "--plan") == 0
    plan = place.document()
    assert len(plan["windows"]) == item["windows"] <= item["tiles"] and plan["cuts"] == []
    check(load(place.big), place.restored(), LARGE)
    assert (place.restored() != plain)[LARGE].any()


@pytest.mark.parametrize("arguments", [["--overlap", "22", "--size", "64"], ["--overlap", "171"], ["--overlap", "-1"]])
def test_2_for_an_overlap_of_more_than_a_third_of_a_tile(place: Place, arguments: list[str]) -> None:
    place.fill_in()
    for more in ([], ["--plan"]):
        assert place(*arguments, *more) == 2
        assert "--overlap" in place.err and place.out == "" and names(place.root) == ["big.tif", "m.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "31"], "--size"), (["--dilate", "-1"], "--dilate"), (["--jobs", "0"], "--jobs"),
        (["--batch-size", "0"], "--batch-size"), (["--padding", "none"], "--padding"), (["--nonsense"], "--nonsense"),
        (["--progress", "loud"], "--progress"), (["another.tif"], "another.tif"),
    ],
)  # fmt: skip
def test_2_for_an_option_that_makes_no_sense(place: Place, arguments: list[str], says: str) -> None:
    place.fill_in()
    assert place(*arguments) == 2
    assert says in place.err and "Traceback" not in place.err and names(place.root) == ["big.tif", "m.png"]


def test_settings_that_make_no_sense_are_refused_without_the_command_line_too(place: Place) -> None:
    place.fill_in()
    for settings in ({"tile_size": 16}, {"overlap": 300}, {"overlap": -1}):
        with pytest.raises(UsageError):
            go(place, **settings)


def test_paddings_change_fills_and_nothing_else(place: Place) -> None:
    """With the weights that are shipped: the pyramid has no padding."""
    place.fill_in(hole=LARGE)
    seen: list[NDArray[Any]] = []
    for padding in ("partial", "zero", "reflect", "replicate"):
        arguments = ("--device", "cpu", "--size", "64", "--padding", padding, "--overwrite", "--json")
        assert place.pconv("tile", place.big, "--mask", place.mask, *arguments) == 0, place.err
        assert place.lines()[1]["settings"]["padding"] == padding and place.lines()[1]["settings"]["weights_sha256"]
        after = place.restored()
        np.testing.assert_array_equal(after[~LARGE], load(place.big)[~LARGE])
        assert not (after[LARGE] == PAINT).all(axis=1).any()
        assert all((after != other).any() for other in seen)
        seen.append(after)


def test_every_option_reaches_its_setting(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []

    named: dict[str, Any] = {}

    def stand_in(*arguments: Any, **more: Any) -> Report:
        got.extend(arguments)
        named.update(more)
        return Report({}, (), 0.0)

    monkeypatch.setattr(use_case, "tile", stand_in)
    line = "tile big.tif --mask m.png --size 64 -o out.tif --weights w --device mps --precision bf16 --padding zero"
    line += " --overlap 3 --batch-size 4 --jobs 5 --invert-mask --dilate 2 --overwrite"
    assert place.pconv(*line.split()) == 0
    assert got[:3] == [Path("big.tif"), Path("m.png"), Path("out.tif")]
    assert got[3] == Settings(
        weights="w", device="mps", precision="bf16", tile_size=64, padding="zero", overlap=3, batch_size=4, jobs=5,
        invert_mask=True, dilate=2, overwrite=True,
    )  # fmt: skip
    got.clear()
    assert place.pconv("tile", "big.tif") == 0
    assert got[:4] == [Path("big.tif"), None, None, Settings()] and named["resume"] is False
    assert place.pconv("tile", "big.tif", "--resume") == 0 and named["resume"] is True


def test_help_names_every_way_to_a_mask(place: Place) -> None:
    assert place.pconv("tile", "--help") == 0 and place.err == ""
    words = " ".join(place.out.replace("│", " ").split())
    for word in ("BIG_mask.*", "BIG.mask.*", "alpha", "mask band", "nodata", "BIG_restored.tif", "--plan-image"):
        assert word in words


# ---------------------------------------------------------------- one is a case of many


@pytest.mark.parametrize(
    ("mode", "weights", "size"),
    [
        ("RGB", "none", 64), ("L", "none", 64), ("RGBA", "none", 64), ("RGB", "small", 64), ("L", "small", 512),
        ("L", "small", 64),
    ],
)  # fmt: skip
def test_tile_and_restore_give_the_same_pixels(
    place: Place, work: Workplace, small_weights: Path, mode: str, weights: str, size: int
) -> None:
    weights = str(small_weights) if weights == "small" else weights
    source, hole = work.pair("a.png", mode, (WIDTH, HEIGHT), hole=LARGE)
    settings: dict[str, Any] = {"weights": weights, "device": "cpu", "precision": "bf16"}
    chosen = RestoreSettings(tile_size=size, **settings)
    report = restore(plan(source, work.masks / "a.png", str(work.out), chosen), chosen, lambda _: None)
    colours = as_pillow_sees(source).reshape(HEIGHT, WIDTH, -1)
    save(place.big, colours, **({"ALPHA": "YES"} if mode == "RGBA" else {}))
    place.mask = work.masks / "a.png"
    big, _ = go(place, tile_size=size, **settings)
    np.testing.assert_array_equal(place.restored(), as_pillow_sees(work.out / "a.png").reshape(colours.shape))
    one, other = report.items[0], big.items[0]
    for figure in ("tiles", "pixels_computed", "crossings", "seam_ratio", "by_pyramid", "unfilled", "hole_share"):
        assert getattr(one, figure) == getattr(other, figure)
    assert hole.any()


@pytest.mark.parametrize("overlap", [0, 8, 21])
def test_no_result_depends_on_batch_size_or_threads(place: Place, overlap: int) -> None:
    place.fill_in(hole=LARGE)
    results = set()
    for jobs, batch_size in ((1, 1), (8, 1), (1, 7), (8, 7)):
        report, _ = go(place, tile_size=64, overlap=overlap, jobs=jobs, batch_size=batch_size, overwrite=True)
        assert report.items[0].unfilled == 0
        results.add(place.output.read_bytes())
    assert len(results) == 1


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("size", [64, 512])
def test_16_bit_pixels_are_filled_as_their_8_bit_likes(place: Place, bands: int, size: int) -> None:
    place.fill_in(picture(bands, hole=LARGE), LARGE)
    go(place, tile_size=size)
    coarse = place.restored().astype(int)
    save(place.big, picture(bands, "uint16", LARGE))
    go(place, tile_size=size, overwrite=True)
    fine = place.restored().astype(int)
    assert fine.max() <= 65535 and np.abs(fine - 257 * coarse).max() <= 257 * (1 if size == 512 else 4)
    assert len(np.unique(fine[LARGE] % 257)) > 100, "finer than 8 bits"


# ---------------------------------------------------------------- what is told


def test_stdout_is_two_json_lines_and_everything_else_is_on_stderr(place: Place) -> None:
    place.fill_in(hole=LARGE)
    assert place("--json", "--size", "64", "--progress", "plain", "--precision", "fp32") == 0
    item, summary = place.lines()
    assert set(item) == {"type"} | {field.name for field in fields(ItemReport)}
    assert (item["space"], item["outside_mask_changed"]) == ("as it is", 0)
    assert item["tiles"] > 1 and item["pixels_computed"] > LARGE.sum() and item["crossings"] > 0
    assert item["seam_ratio"] > 0 and item["unfilled"] == 0
    assert item["peak_memory_bytes"] > 2**20 and item["megapixels_per_second"] > 0 and item["seconds"] > 0
    assert (item["width"], item["height"], item["output"]) == (WIDTH, HEIGHT, str(place.output))
    assert summary["tiles"] == item["tiles"] and not summary["interrupted"]
    assert (summary["restored"], summary["items"]) == (1, 1)
    assert summary["settings"] == {
        "weights": "none", "weights_sha256": "", "device": "cpu", "precision": "fp32",
        "precision_reason": "as asked for", "compiled": "no: on a CPU it never pays", "tile_size": 64,
        "padding": "as trained", "overlap": 0, "mask_polarity": "white = damaged", "dilate": 0,
        "mask_from": "", "linear": False,
    }  # fmt: skip
    assert place.error_lines[1].startswith("[1/1] restored big.tif: ")
    assert place("--progress", "plain", "--overwrite") == 0 and place.out == ""


def test_a_failed_picture_is_reported_in_json_too(place: Place) -> None:
    place.fill_in()
    place.output.write_bytes(b"mine")
    assert place("--json", "--progress", "none") == 1
    item, _ = place.lines()
    assert item["status"] == "failed" and item["path"] == str(place.output) and "--overwrite" in item["reason"]


def test_progress_json_is_one_event_a_line_on_stderr(place: Place) -> None:
    place.fill_in(hole=LARGE)
    assert place("--progress", "json", "--size", "64") == 0
    events = [json.loads(line) for line in place.error_lines]
    told = [event["event"] for event in events]
    assert told[:2] == ["run_started", "item_started"] and told[-2:] == ["item_done", "run_finished"]
    assert set(told[2:-2]) == {"tiles_done"}
    assert sum(event["tiles"] for event in events[2:-2]) == events[-1]["tiles"] == events[-2]["tiles"]
    assert place.out == ""


def test_events_are_those_of_a_run(place: Place) -> None:
    place.fill_in()
    report, events = go(place)
    assert [type(event) for event in (events[0], events[1], events[-2], events[-1])] == [
        RunStarted, ItemStarted, ItemDone, RunFinished,
    ]  # fmt: skip
    assert sum(event.pixels for event in events if isinstance(event, TilesDone)) == report.items[0].pixels_computed
    place.output.unlink()
    place.big.unlink()
    report, events = go(place)
    assert [type(event) for event in events] == [ItemFailed, RunFinished] and report.count("failed") == 1


# ---------------------------------------------------------------- nothing and everything


@pytest.mark.parametrize("options", [{}, {"compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_a_mask_without_damage_gives_a_byte_identical_copy(place: Place, options: dict[str, Any]) -> None:
    place.fill_in(None, np.zeros_like(HOLE), **options)
    item = place.item()
    assert (item["status"], item["tiles"], item["unfilled"], item["seam_ratio"]) == ("copied", 0, 0, None)
    assert place.output.read_bytes() == place.big.read_bytes()
    assert place() == 1 and "--overwrite" in place.err
    assert names(place.root) == ["big.tif", "big_restored.tif", "m.png"]


def test_a_copy_is_not_told_to_be_what_a_restored_file_would_be(place: Place) -> None:
    pages = [Image.fromarray(picture())] * 2
    pages[0].save(place.big, save_all=True, append_images=pages[1:])
    save_mask(place.mask, np.zeros_like(HOLE))
    assert place.item()["notices"] == []
    save_mask(place.mask, HOLE)
    assert any("first of 2 pages" in notice for notice in place.item("--overwrite")["notices"])


@pytest.mark.parametrize("value", [1, 127])
def test_a_mask_too_dark_to_mark_anything_is_refused(place: Place, value: int) -> None:
    place.fill_in()
    Image.fromarray(np.where(HOLE, value, 0).astype(np.uint8)).save(place.mask)
    assert place("--progress", "none") == 1
    assert place.only_line.endswith(f"{place.mask}: {FAINT}") or f"({place.mask}): {FAINT}" in place.only_line
    assert names(place.root) == ["big.tif", "m.png"]
    assert place("--invert-mask", "--progress", "none") == 1 and "whole picture" in place.only_line


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_alpha_that_holds_the_mask_does_not_say_how_bright_the_picture_is(place: Place, dtype: str) -> None:
    pixels = (picture(3, "uint16") // 2).astype(dtype)
    most = np.iinfo(dtype).max
    save(place.big, np.dstack([pixels, np.where(HOLE, most, 0).astype(dtype)]), ALPHA="YES")
    place.item("--mask-from", "band=4", mask=None)
    other = place.root / "other.tif"
    options = ["--mask-from", "band=4", "--weights", "none", "--device", "cpu"]
    assert place.pconv("restore", place.big, other, *options) == 0
    np.testing.assert_array_equal(place.restored(), load(other))
    assert place.restored()[HOLE, :3].mean() > pixels[~HOLE].mean() / 2


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("levels", [17, 4000])
def test_a_mask_that_is_black_but_for_a_scanners_noise_is_empty(place: Place, levels: int, invert: bool) -> None:
    place.fill_in()
    noise = np.random.default_rng(0).integers(0, levels, HOLE.shape)
    deep = np.uint16 if levels > 255 else np.uint8
    Image.fromarray((np.iinfo(deep).max - noise if invert else noise).astype(deep)).save(place.mask)
    item = place.item(*["--invert-mask"] * invert)
    assert item["status"] == "copied" and place.output.read_bytes() == place.big.read_bytes()


@pytest.mark.parametrize("invert", [False, True])
def test_what_a_mask_declares_to_be_nothing_is_no_damage(place: Place, invert: bool) -> None:
    """A mask of clouds, say: where nobody has looked for any it says 255, and that this is no value."""
    place.fill_in()
    place.mask = place.root / "m.tif"
    clouds = np.where(HOLE ^ invert, 200, 0).astype(np.uint8)
    clouds[:20, :30] = 255
    save(place.mask, clouds, nodata=255)
    options = ["--invert-mask"] * invert
    assert place.item(*options)["hole_share"] == round(HOLE.mean(), 6)
    check(load(place.big), place.restored(), HOLE)
    again = place.root / "again.tif"
    assert place.pconv("restore", place.big, place.mask, again, "--weights", "none", "--device", "cpu", *options) == 0
    np.testing.assert_array_equal(load(again), place.restored())


@pytest.mark.parametrize("command", ["tile", "restore"])
def test_a_mask_that_marks_by_its_nodata_value_alone_is_told_and_one_of_ones_beside_it_refused(
    place: Place, command: str
) -> None:
    place.fill_in()
    place.mask = place.root / "m.tif"
    clouds = np.zeros_like(HOLE, np.uint8)
    clouds[:20, :30] = 255
    save(place.mask, clouds, nodata=255)
    paths = [place.big, place.mask, place.output] if command == "restore" else [place.big, "--mask", place.mask]
    options = ["--weights", "none", "--device", "cpu", "--progress", "plain"]
    assert place.pconv(command, *paths, *options) == 0
    assert f"{place.mask} {BY_NODATA}" in place.err and place.output.read_bytes() == place.big.read_bytes()
    place.output.unlink()
    save(place.mask, np.where(HOLE, 1, clouds).astype(np.uint8), nodata=255)
    assert place.pconv(command, *paths, *options) == 1
    assert FAINT in place.err and "gdal_translate -scale 0 1 0 254 -ot Byte" in FAINT and not place.output.exists()


@pytest.mark.parametrize("command", ["tile", "restore"])
@pytest.mark.parametrize("hole", [HOLE, np.zeros_like(HOLE)])
def test_what_an_earlier_output_has_left_beside_is_told_and_stays(
    place: Place, command: str, hole: NDArray[np.bool_]
) -> None:
    place.fill_in(None, hole)
    left = [place.root / f"{place.output.name}.{suffix}" for suffix in ("ovr", "msk")]
    paths = [place.big, place.mask, place.output] if command == "restore" else [place.big, "--mask", place.mask]
    options = ["--weights", "none", "--device", "cpu", "--json"]
    assert place.pconv(command, *paths, *options) == 0 and not place.lines()[0]["notices"]
    for path in left:
        path.write_bytes(b"smaller views of something else")
    for overwrite in (True, False):
        if not overwrite:
            place.output.unlink()
        assert place.pconv(command, *paths, *options, *["--overwrite"] * overwrite) == 0
        (told,) = place.lines()[0]["notices"]
        assert " and ".join(path.name for path in left) in told and "delete them" in told
        assert all(path.read_bytes() == b"smaller views of something else" for path in left)


def test_a_tiff_made_of_another_format_tells_what_lies_beside_it_too(place: Place) -> None:
    place.fill_in()
    Image.fromarray(picture()).save(place.root / "a.png")
    (place.root / "out.tif.msk").write_bytes(b"")
    options = ["--weights", "none", "--device", "cpu", "--json"]
    assert place.pconv("restore", place.root / "a.png", place.mask, place.root / "out.tif", *options) == 0
    assert any("out.tif.msk lies beside" in notice for notice in place.lines()[0]["notices"])


@pytest.mark.parametrize("suffix", [".geojson", ".shp", ".GPKG", ".kml", ".json"])
def test_a_vector_layer_for_a_mask_is_called_that(place: Place, suffix: str) -> None:
    place.fill_in()
    place.mask = place.root / f"clouds{suffix}"
    place.mask.write_text('{"type": "FeatureCollection", "features": []}')
    assert place("--progress", "none") == 1
    (listed := place.root / "list.csv").write_text(f"image,mask,out\n{place.big},{place.mask},{place.output}\n")
    errors = [place.only_line]
    assert place.pconv("restore", "--manifest", listed, "--weights", "none", "--progress", "none") == 1
    errors.append(place.only_line)
    assert place.pconv("restore", place.big, place.mask, place.output, "--progress", "none") == 2
    for line in (*errors, place.only_line):
        assert "no picture but a vector layer" in line and "not a " not in line
        assert f"gdal_rasterize -burn 255 -ot Byte -ts WIDTH HEIGHT -te XMIN YMIN XMAX YMAX {place.mask.name}" in line


@pytest.mark.parametrize("arguments", [["-"], ["big.tif", "-o", "-"], ["big.tif", "--mask", "-"], ["-", "--plan"]])
def test_what_is_piped_is_for_restore(place: Place, arguments: list[str]) -> None:
    place.fill_in()
    assert place.pconv("tile", *(place.big if given == "big.tif" else given for given in arguments)) == 2
    assert place.only_line.endswith("tile reads and writes files; `pconv restore` takes -")


def test_check_of_one_big_picture_names_the_plan_of_tile(place: Place) -> None:
    place.fill_in()
    assert place.pconv("check", place.big) == 2
    assert "1 path given, needed are IN MASKS [OUT]" in place.only_line
    assert f"pconv tile {place.big} --plan" in place.only_line
    assert place.pconv("check", place.root) == 2 and place.only_line.endswith("see pconv check --help")


def test_a_picture_without_damage_that_is_no_tiff_becomes_one(place: Place) -> None:
    place.big = place.root / "big.png"
    Image.fromarray(texture(WIDTH, HEIGHT)).save(place.big)
    save_mask(place.mask, np.zeros_like(HOLE))
    assert place.item()["status"] == "copied"
    np.testing.assert_array_equal(place.restored(), texture(WIDTH, HEIGHT))


@pytest.mark.parametrize("invert", [False, True])
def test_a_mask_of_everything_is_one_line_that_names_the_polarity(place: Place, invert: bool) -> None:
    place.fill_in(None, np.full_like(HOLE, not invert))
    assert place("--progress", "none", *(["--invert-mask"] if invert else [])) == 1
    failed = [line for line in place.error_lines if line.startswith("failed")]
    (line,) = failed
    assert str(place.mask) in line and ("black = damaged" if invert else "white = damaged") in line
    assert ("leave out --invert-mask" if invert else "use --invert-mask") in line
    assert names(place.root) == ["big.tif", "m.png"]


def test_a_picture_that_is_transparent_everywhere_names_what_says_so(place: Place) -> None:
    place.fill_in(np.dstack([picture(), np.zeros((HEIGHT, WIDTH), np.uint8)]), ALPHA="YES")
    assert place("--progress", "none", mask=None) == 1
    assert "alpha marks the whole picture" in place.only_line and "--mask" in place.only_line
    assert names(place.root) == ["big.tif", "m.png"]


def test_a_mask_of_more_than_60_percent_is_mentioned(place: Place) -> None:
    hole = box(WIDTH, HEIGHT, 0, 0, WIDTH, 120)
    place.fill_in(hole=hole)
    report, events = go(place)
    (notice,) = [event.text for event in events if isinstance(event, Notice)]
    assert "80%" in notice and "--invert-mask" in notice and report.notices == (notice,) == report.items[0].notices


@pytest.mark.parametrize("how", ["alpha", "nodata", "mask band", "mask"])
@pytest.mark.parametrize("where", ["corners", "narrow", "inside"])
def test_the_collar_of_a_turned_sheet_is_mentioned_and_filled_all_the_same(place: Place, how: str, where: str) -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    hole = {
        "corners": (rows + columns < 60) | (rows + columns > HEIGHT + WIDTH - 60) | HOLE,
        "narrow": (rows < 5) | (columns < 2),
        "inside": LARGE | (rows == 0),
    }[where]
    colours = picture(hole=hole)
    shown = np.where(hole, 0, 255).astype(np.uint8)
    if how == "alpha":
        save(place.big, np.dstack([colours, shown]), ALPHA="YES")
    elif how == "nodata":
        save(place.big, colours, nodata=PAINT)
    else:
        save(place.big, colours, after=lambda raster: raster.write_mask(shown) if how == "mask band" else None)
    save_mask(place.mask, hole)
    assert place(mask="" if how == "mask" else None) == 0
    assert ("touches its border; " in place.err and "--mask" in place.err) == (where == "corners" and how != "mask")
    assert (place.restored()[..., :3][hole] != PAINT).any(axis=1).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 300), (300, 1)])
def test_pictures_of_one_pixel_in_some_direction_are_restored(place: Place, width: int, height: int) -> None:
    hole = np.zeros((height, width), np.bool_)
    hole[: max(height // 2, 0) or None, : max(width // 2, 0) or None] = True
    hole[-1, -1] = False
    place.fill_in(hole=hole)
    item = place.item("--size", "32")
    after = place.restored()
    np.testing.assert_array_equal(after[~hole], load(place.big)[~hole])
    assert item["unfilled"] == 0 and not (after[hole] == PAINT).all(axis=1).any()


# ---------------------------------------------------------------- stopping


def test_after_a_stop_in_the_middle_nothing_is_there_but_what_is_kept(place: Place) -> None:
    place.fill_in(hole=LARGE)
    tiles = 0

    def count(event: Event) -> None:
        nonlocal tiles
        tiles += event.tiles if isinstance(event, TilesDone) else 0

    whole, _ = go(place, tile_size=32, jobs=1)
    place.output.unlink()
    report, events = go(place, lambda: tiles >= 3, emit=count, tile_size=32, jobs=1)
    assert [item.status for item in report.items] == ["not_done"] and report.interrupted
    assert tiles < whole.items[0].tiles
    last = events[-1]
    assert isinstance(last, RunFinished) and (last.restored, last.not_done) == (0, 1)
    assert not [event for event in events if isinstance(event, ItemDone | ItemFailed)]
    assert names(place.root) == [place.kept, "big.tif", "m.png"]


def test_a_stop_keeps_the_output_that_was_to_be_replaced(place: Place) -> None:
    place.fill_in()
    place.output.write_bytes(b"mine")
    report, _ = go(place, lambda: True, overwrite=True)
    assert report.items[0].status == "not_done" and place.output.read_bytes() == b"mine"


def test_a_stop_is_seen_while_the_mask_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fill_in()
    monkeypatch.setattr(damage, "ROWS", 8)
    planned: list[Any] = []
    monkeypatch.setattr(planning, "plan_tiles", lambda *arguments: planned.append(arguments))
    report, events = go(place, lambda: True)
    (item,) = report.items
    assert (item.status, item.width, item.height, item.hole_share) == ("not_done", WIDTH, HEIGHT, None)
    assert report.interrupted and not planned
    assert not [event for event in events if isinstance(event, ItemStarted | ItemFailed)]
    assert names(place.root) == ["big.tif", "m.png"]


def test_what_fails_before_the_plan_is_there_does_not_wait_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask is read meanwhile: it is given up, and the error is the one that comes without it."""
    place.fill_in()
    read = 0
    failed = threading.Event()

    def strips(*_: object) -> Iterator[NDArray[np.bool_]]:
        nonlocal read
        for _ in range(1000):
            read += 1
            assert failed.wait(60)
            time.sleep(0.01)
            yield np.zeros((8, WIDTH), np.bool_)

    def load(*_: object) -> Any:
        failed.set()
        raise WeightsError("no such weights")

    monkeypatch.setattr(damage, "mask_strips", strips)
    monkeypatch.setattr("pconv_cli.weights.load_network", load)
    with pytest.raises(WeightsError, match="no such weights"):
        go(place)
    assert read < 1000
    assert names(place.root) == ["big.tif", "m.png"]


@pytest.mark.parametrize("presses", [1, 2])
def test_130_for_ctrl_c_once_or_twice_and_nothing_is_left_but_what_is_kept(
    place: Place, presses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill, count, threads = engine.Engine.fill, 0, threading.active_count()

    def press(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            signal.raise_signal(signal.SIGINT)
            if presses == 2:
                time.sleep(1)  # a second press comes later than the echo of a first
                signal.raise_signal(signal.SIGINT)
        return fill(*arguments)

    monkeypatch.setattr(engine.Engine, "fill", press)
    place.fill_in(hole=LARGE)
    before = place.big.read_bytes()
    assert place("--size", "32", "--json", "--progress", "json", "--jobs", "1") == 130
    assert names(place.root) == [place.kept, "big.tif", "m.png"] and place.big.read_bytes() == before
    for _ in range(2000):  # nobody waits for what is being computed
        if threading.active_count() == threads:
            break
        time.sleep(0.01)
    assert threading.active_count() == threads
    told = [json.loads(line)["event"] for line in place.error_lines]
    if presses == 1:
        item, summary = place.lines()
        assert summary["interrupted"] and item["status"] == "not_done" and item["outside_mask_changed"] is None
        assert told[-2:] == ["notice", "run_finished"] and told.count("notice") == 2
    else:
        assert place.out == ""


def test_an_interrupt_while_the_output_is_written_leaves_nothing_but_what_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    place.fill_in()
    monkeypatch.setattr(os, "fsync", press)
    assert place("--progress", "none", "--json") == 130
    assert place.out == "" and names(place.root) == [place.kept, "big.tif", "m.png"]


SLOW = """
import sys, time
from pathlib import Path
from pconv_cli import engine

fill, count, here = engine.Engine.fill, 0, Path(sys.argv.pop(1))

def slow(*args):
    global count
    count += 1
    while count == 3:
        here.touch()
        time.sleep(0.01)
    return fill(*args)

engine.Engine.fill = slow
from pconv_cli.cli.app import main
main()
"""
"""`pconv`, except that its third batch never ends."""


def test_130_for_a_process_that_gets_ctrl_c_twice(place: Place) -> None:
    place.fill_in(hole=LARGE)
    here = place.root / "here"
    arguments = ["tile", str(place.big), "--mask", str(place.mask), "--weights", "none", "--size", "32", "--jobs", "1"]
    command = [sys.executable, "-c", SLOW, str(here), *arguments, "--device", "cpu"]
    with warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            while not here.exists():
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
    assert process.returncode == 130 and out == b"" and b"Traceback" not in err
    assert names(place.root) == [place.kept, "big.tif", "here", "m.png"]


# ---------------------------------------------------------------- faults


def test_what_a_killed_run_has_left_is_removed_by_the_next_and_said(place: Place) -> None:
    place.fill_in(picture(hole=LARGE), LARGE)
    code = (
        "import os, signal; from pconv_cli import tile, cli; from pconv_cli.cli.app import run; import sys\n"
        "tile.Canvas.commit = lambda canvas, **_: (canvas._copying.wait(), os.kill(os.getpid(), signal.SIGKILL))\n"
        "run(sys.argv[1:])"
    )
    command = ["tile", place.big, "--mask", place.mask, "--weights", "none", "--device", "cpu"]
    done = warm.run([sys.executable, "-c", code, *command], timeout=PATIENCE, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(names(place.root)) == 5 and place.kept in names(place.root)
    assert place() == 0
    assert "removed 2 unfinished files of killed runs" in place.err
    assert names(place.root) == ["big.tif", "big_restored.tif", "m.png"]


def test_a_damaged_block_in_the_middle_fails_the_picture_and_leaves_nothing(place: Place) -> None:
    place.fill_in(compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    with Image.open(place.big) as image:
        at, length = image.tag_v2[324][5], image.tag_v2[325][5]  # type: ignore[attr-defined]
    data = bytearray(place.big.read_bytes())
    data[at : at + length] = b"\xaa" * length
    place.big.write_bytes(data)
    assert place("--progress", "none", "--json") == 1
    assert str(place.big.name) in place.only_line and "damaged" in place.only_line
    item, _ = place.lines()
    assert (item["status"], item["path"]) == ("failed", str(place.big))
    assert place.big.read_bytes() == data and names(place.root) == ["big.tif", "m.png"]


@pytest.mark.parametrize(
    ("which", "suffix"),
    [(which, suffix) for which in ("big", "mask") for suffix in (".jpg", ".webp", ".tif", ".png")],
)
def test_a_file_that_is_cut_short_fails_the_picture(place: Place, which: str, suffix: str) -> None:
    place.fill_in(hole=LARGE)
    path = place.root / f"cut{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    setattr(place, which, path)
    before = names(place.root)
    assert place("--progress", "none") == 1
    assert path.name in place.only_line and "damaged or cut short" in place.only_line and names(place.root) == before


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("damage", [True, False])
def test_a_full_disk_fails_the_picture_and_leaves_nothing_but_what_is_kept(
    place: Place, damage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill_in(hole=HOLE & damage)
    place.output.write_bytes(b"mine")
    before = place.big.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    assert place("--progress", "none", "--overwrite") == 1
    assert "No space left" in place.error_lines[-1] and "free some room" in place.error_lines[-1]
    assert place.output.read_bytes() == b"mine" and place.big.read_bytes() == before
    assert names(place.root) == [place.kept] * damage + ["big.tif", "big_restored.tif", "m.png"]
    assert len(place.error_lines) == 1 + damage and ("--resume goes on" in place.err) == damage


@pytest.mark.parametrize("damage", [True, False])
def test_a_disk_without_the_room_is_refused_before_anything_is_computed(
    place: Place, damage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill_in(hole=HOLE & damage, tiled=True, blockxsize=256, blockysize=256)
    size = place.big.stat().st_size
    needed = size + 256 * 256 * (3 + 1) * damage  # what is decoded is kept beside the output
    usage = shutil.disk_usage(place.root)

    def free(number: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=number))

    with monkeypatch.context() as patched:
        patched.setattr(engine.Engine, "fill", lambda *_: pytest.fail("computed"))
        free(needed - 1)
        assert place("--progress", "none") == 1
    assert " are free: free some room" in place.only_line and str(place.output) in place.only_line
    assert names(place.root) == ["big.tif", "m.png"]
    free(needed)
    assert place() == 0


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from pconv_cli.cli.app import main
main()
"""
"""`pconv`, no file of which may grow beyond a number of bytes."""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
@pytest.mark.parametrize("limit", [20_000, 300_000], ids=["while windows land", "while the output is written"])
def test_a_disk_that_is_full_in_the_middle_fails_the_picture_and_leaves_nothing(place: Place, limit: int) -> None:
    hole = box(400, 300, 10, 10, 40, 30)
    place.fill_in(picture(hole=hole), hole)
    before = place.big.read_bytes()
    arguments = ["tile", str(place.big), "--mask", str(place.mask), "--weights", "none", "--progress", "none"]
    command = [sys.executable, "-c", LIMITED, str(limit), *arguments, "--device", "cpu"]
    done = warm.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line and str(place.output) in line
    assert names(place.root) == ["big.tif", "m.png"] and place.big.read_bytes() == before


# ---------------------------------------------------------------- memory


def test_memory_does_not_grow_with_the_picture(place: Place) -> None:
    side = 20_000  # 1.2 GB of pixels, 400 MB of mask
    sparse: dict[str, Any] = {"driver": "GTiff", "width": side, "height": side, "dtype": "uint8", "compress": "deflate"}
    sparse |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": "TRUE"}
    specks = [(100, 300), (10_000, 9_990), (19_000, 700), (19_980, 19_985)]
    mask = place.root / "big_mask.tif"
    with gdal():
        with rasterio.open(place.big, "w", count=3, photometric="RGB", **sparse) as raster:
            for x, y in specks:
                near = rasterio.windows.Window(x // 512 * 512, y // 512 * 512, 512, 512)
                near = near.intersection(rasterio.windows.Window(0, 0, side, side))
                raster.write(np.full((3, int(near.height), int(near.width)), 120, np.uint8), window=near)
        with rasterio.open(mask, "w", count=1, **sparse) as raster:
            for x, y in specks:
                raster.write(np.full((1, 9, 12), 255, np.uint8), window=rasterio.windows.Window(x, y, 12, 9))
    command = [sys.executable, "-m", "pconv_cli", "tile", str(place.big), "--weights", "none", "--device", "cpu"]
    done = warm.run([*command, "--json"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    item = json.loads(done.stdout.splitlines()[0])
    assert item["mask"] == str(mask) and item["peak_memory_bytes"] < 700 << 20
    assert (item["tiles"], item["unfilled"], item["crossings"]) == (4, 0, 0)
    assert item["pixels_computed"] < 4 * 80 * 80
    with gdal(), rasterio.open(place.output) as raster:
        for x, y in specks:
            around = raster.read(window=rasterio.windows.Window(x - 5, y - 5, 20, 20))
            assert set(np.unique(around)) <= {120, 0}
            assert (raster.read(window=rasterio.windows.Window(x, y, 12, 9)) == 120).all()


def test_a_file_with_gaps_is_restored_to_one_with_gaps(place: Place) -> None:
    side = 3000
    sparse: dict[str, Any] = {"tiled": True, "blockxsize": 256, "blockysize": 256, "SPARSE_OK": "TRUE"}
    with gdal(), rasterio.open(
        place.big, "w", driver="GTiff", width=side, height=side, count=1, dtype="uint8", **sparse
    ) as raster:  # fmt: skip
        raster.write(np.full((1, 256, 256), 90, np.uint8), window=rasterio.windows.Window(1536, 2560, 256, 256))
    content = place.big.read_bytes()
    with place.big.open("r+b") as file:  # written out whole, as files with gaps are by whoever makes room first
        file.truncate(len(content) + (8 << 20))
    hole = np.zeros((side, side), np.bool_)
    hole[2600:2610, 1600:1620] = True
    save_mask(place.mask, hole)
    before = place.big.stat()
    if before.st_blocks * 512 >= before.st_size:
        pytest.skip("a disk without gaps")
    assert place("-q") == 0
    after = place.output.stat()
    assert after.st_size >= before.st_size and after.st_blocks <= before.st_blocks + 4096
    assert (place.restored() == load(place.big))[..., 0][~hole].all()


def test_the_provenance_names_no_mask_that_has_come_meanwhile(place: Place) -> None:
    place.fill_in()

    def change(event: Event) -> None:
        if isinstance(event, ItemStarted):
            Image.fromarray(LARGE).save(place.mask)

    (item,) = go(place, emit=change, provenance=True)[0].items
    assert (item.status, item.path, item.reason) == ("failed", str(place.mask), CHANGED)
    assert names(place.root) == [place.kept, "big.tif", "m.png"]


@pytest.mark.parametrize("other", ["another", "smaller", "damaged", "gone"])
def test_a_mask_that_changes_while_it_is_read_is_named_as_a_picture_is(
    place: Place, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    place.fill_in()
    read = damage.mask_strips

    def changed(path: Path, *given: Any, **named: Any) -> Any:
        content = {"another": LARGE, "smaller": LARGE[:, :100]}.get(other)
        if content is None:
            path.write_bytes(b"") if other == "damaged" else path.unlink()
        else:
            save_mask(path, content)
        return read(path, *given, **named)

    monkeypatch.setattr(damage, "mask_strips", changed)
    (item,) = go(place)[0].items
    assert (item.status, item.path, item.reason) == ("failed", str(place.mask), CHANGED)
    assert not place.output.exists()
