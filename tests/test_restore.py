"""`restore` end to end with the pyramid: only holes change, all of them do, and no picture depends on its company."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pytest
import rasterio
from conftest import DAMAGE, Workplace, box, pixels, texture
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from rasterio.transform import Affine

from pconv_cli import _carry, bench, images, writing
from pconv_cli.encoders import encoded
from pconv_cli.errors import ItemError, NothingToDo, OutputError, UsageError, WeightsError
from pconv_cli.events import Event, ItemDone, ItemFailed, ItemStarted, Notice, RunFinished, RunStarted, TilesDone
from pconv_cli.journal import NAME
from pconv_cli.layers import View
from pconv_cli.manifest import Row
from pconv_cli.manifest import read as read_manifest
from pconv_cli.marks import parse
from pconv_cli.picture import Picture
from pconv_cli.regions import Window
from pconv_cli.report import ItemReport, Report
from pconv_cli.restore import WITHOUT_ROOM, RestoreSettings, plan, plan_listed, restore
from pconv_cli.tiff import Source

LOSSLESS = [
    ("a.png", "RGB"), ("a.png", "L"), ("a.png", "P"), ("a.png", "RGBA"), ("a.png", "LA"),
    ("a.tif", "RGB"), ("a.tiff", "L"), ("a.tif", "RGBA"), ("a.bmp", "RGB"), ("a.bmp", "L"), ("a.bmp", "P"),
    ("a.webp", "RGB"), ("a.webp", "RGBA"),
]  # fmt: skip


def go(
    work: Workplace, stop: Callable[[], bool] = lambda: False, *, emit: Callable[[Event], None] | None = None,
    out: Path | None = None, **settings: Any,
) -> tuple[Report, list[Event]]:  # fmt: skip
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if emit is not None:
            emit(event)

    chosen = RestoreSettings(**{"weights": "none", "device": "cpu", "precision": "fp32", **settings})
    return restore(plan(work.pictures, work.masks, str(out or work.out), chosen), chosen, listen, stop), events


def statuses(report: Report) -> dict[str, str]:
    return {item.name: item.status for item in report.items}


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden files too; not the journal."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def seen(before: Path, after: Path) -> NDArray[np.bool_]:
    """Where two files differ, as displayed."""
    with Image.open(before) as first, Image.open(after) as second:
        one, two = (np.asarray(ImageOps.exif_transpose(image)) for image in (first, second))
    return (one != two).any(axis=-1)


# ---------------------------------------------------------------- only holes change, and all of them do


@pytest.mark.parametrize(("name", "mode"), LOSSLESS)
def test_outside_the_mask_every_sample_stays_and_inside_none_of_the_damage_is_left(
    work: Workplace, name: str, mode: str
) -> None:
    source, hole = work.pair(name, mode)
    report, _ = go(work)
    assert statuses(report) == {name: "restored"}
    with Image.open(source) as before, Image.open(work.out / name) as after:
        assert after.mode == before.mode == mode and after.format == before.format
    before, after = (pixels(path).reshape(40, 48, -1).astype(int) for path in (source, work.out / name))
    np.testing.assert_array_equal(after[~hole], before[~hole])
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(after[..., -1], before[..., -1])
        before, after = before[..., :-1], after[..., :-1]
    damage = np.array(DAMAGE if after.shape[2] == 3 else (255,))
    assert np.abs(before[hole] - damage).max() < 20, "the test itself should paint damage"
    assert np.abs(after[hole] - damage).max(axis=1).min() > 20


def test_the_indices_of_a_palette_stay_outside_the_mask_even_where_two_of_them_are_one_colour(work: Workplace) -> None:
    indices = np.random.default_rng(0).integers(0, 4, (40, 48), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([90, 90, 90, 90, 90, 90, 200, 60, 60, 200, 60, 60])
    image.save(work.pictures / "a.png")
    hole = box(48, 40, 10, 10, 20, 20)
    work.mask("a.png", hole)
    go(work)
    with Image.open(work.out / "a.png") as after:
        assert after.mode == "P"
        np.testing.assert_array_equal(np.asarray(after)[~hole], indices[~hole])


def test_a_fill_continues_what_is_around_it(work: Workplace) -> None:
    source, hole = work.pair()
    go(work)
    whole = texture(48, 40).astype(int)
    error = np.abs(pixels(work.out / "a.png").astype(int) - whole)[hole].mean()
    assert error < np.abs(pixels(source).astype(int) - whole)[hole].mean() / 3


def test_a_jpeg_comes_out_close_to_what_it_was_outside_the_mask(work: Workplace) -> None:
    hole = box(48, 40, 16, 16, 32, 24)  # whole blocks, so that none is shared
    source, _ = work.pair("a.jpg", hole=hole, quality=95, subsampling=0)
    go(work)
    before, after = (pixels(path).astype(int) for path in (source, work.out / "a.jpg"))
    assert np.abs(before - after)[~hole].max() <= 4
    assert np.abs(before - after)[hole].mean() > 20


def test_a_picture_larger_than_the_tile_size_is_tiled_and_filled_in_every_tile(work: Workplace) -> None:
    hole = np.zeros((80, 96), np.bool_)
    hole[8::16, 8::16] = hole[9::16, 8::16] = True
    source, _ = work.pair(size=(96, 80), hole=hole)
    report, events = go(work, tile_size=32)
    item = report.items[0]
    assert item.tiles >= 4 and item.pixels_computed <= 96 * 80
    assert sum(event.tiles for event in events if isinstance(event, TilesDone)) == item.tiles
    assert sum(event.pixels for event in events if isinstance(event, TilesDone)) == item.pixels_computed
    assert (item.crossings, item.seam_ratio, item.unfilled) == (0, None, 0), "specks are never cut"
    after = pixels(work.out / "a.png")
    np.testing.assert_array_equal(after[~hole], pixels(source)[~hole])
    assert not (after[hole] == DAMAGE).all(axis=1).any()


def test_tiles_without_damage_are_not_computed(work: Workplace) -> None:
    work.pair(size=(96, 96), hole=box(96, 96, 4, 4, 12, 12))
    report, _ = go(work, tile_size=32)
    assert report.items[0].tiles == 1


def test_a_hole_that_covers_whole_tiles_is_filled_coarse_to_fine_from_the_rest_of_the_picture(work: Workplace) -> None:
    hole = box(96, 96, 16, 16, 80, 80)
    source, _ = work.pair(size=(96, 96), hole=hole)
    report, _ = go(work, tile_size=32)
    item = report.items[0]
    assert (item.by_pyramid, item.unfilled) == (0, 0), "a guide reaches every tile"
    assert item.crossings > 0 and item.seam_ratio is not None
    after = pixels(work.out / "a.png")
    np.testing.assert_array_equal(after[~hole], pixels(source)[~hole])
    assert not (after == DAMAGE).all(axis=2).any()
    wide, core = after.astype(int), slice(32, 64)
    steps = [wide[31, core] - wide[32, core], wide[64, core] - wide[63, core]]
    steps += [wide[core, 31] - wide[core, 32], wide[core, 64] - wide[core, 63]]
    assert np.abs(steps).mean() < 8


def test_a_picture_whose_every_touched_tile_is_a_whole_hole_is_still_filled(work: Workplace) -> None:
    hole = box(64, 32, 0, 0, 32, 32)
    work.pair(size=(64, 32), hole=hole)
    report, _ = go(work, tile_size=32)
    assert report.items[0].unfilled == 0
    assert not (pixels(work.out / "a.png") == DAMAGE).all(axis=2).any()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"])
def test_a_mask_without_damage_gives_a_byte_identical_copy(work: Workplace, name: str) -> None:
    source, _ = work.pair(name, hole=np.zeros((40, 48), np.bool_))
    report, _ = go(work)
    assert statuses(report) == {name: "copied"}
    assert (work.out / name).read_bytes() == source.read_bytes()


def test_a_copy_of_several_pictures_in_one_file_is_told_to_lose_none(work: Workplace) -> None:
    frames = [Image.fromarray(texture(48, 40, seed=seed)) for seed in (0, 1)]
    frames[0].save(work.pictures / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    work.mask("a.png", np.zeros((40, 48), np.bool_))
    (item,) = go(work)[0].items
    assert (item.status, item.notices) == ("copied", ())
    work.mask("a.png", box(48, 40, 9, 9, 20, 20))
    assert any("1 further picture" in notice for notice in go(work, overwrite=True)[0].items[0].notices)


# ---------------------------------------------------------------- masks


def test_a_mask_of_the_whole_picture_is_one_failed_item_that_names_the_polarity(work: Workplace) -> None:
    work.pair("all.png", hole=np.ones((40, 48), np.bool_))
    work.pair("good.png")
    report, _ = go(work)
    assert statuses(report) == {"all.png": "failed", "good.png": "restored"}
    failed = report.items[0]
    assert failed.path == str(work.masks / "all.png")
    assert "white = damaged" in str(failed.reason) and "use --invert-mask" in str(failed.reason)


def test_an_inverted_mask_of_the_whole_picture_names_the_other_polarity(work: Workplace) -> None:
    work.pair(hole=np.zeros((40, 48), np.bool_))
    (failed,) = go(work, invert_mask=True)[0].items
    assert failed.status == "failed"
    assert "black = damaged" in str(failed.reason) and "leave out --invert-mask" in str(failed.reason)


def test_an_inverted_mask_gives_what_its_opposite_gives(work: Workplace) -> None:
    _, hole = work.pair()
    go(work)
    work.mask("a.png", ~hole)
    go(work, invert_mask=True, out=work.root / "inverted")
    assert files(work.root / "inverted") == files(work.out)


def test_dilation_grows_the_hole_by_a_square_and_never_inwards_from_the_border(work: Workplace) -> None:
    hole = box(48, 40, 20, 20, 21, 21)
    hole[0, 0] = True
    grown = box(48, 40, 18, 18, 23, 23) | box(48, 40, 0, 0, 3, 3)
    source, _ = work.pair(hole=hole)
    report, _ = go(work, dilate=2)
    assert report.items[0].hole_share == round((25 + 9) / (48 * 40), 6)
    work.mask("a.png", grown)
    assert go(work, out=work.root / "drawn")[0].items[0].hole_share == report.items[0].hole_share
    assert files(work.root / "drawn") == files(work.out)
    assert not seen(source, work.out / "a.png")[~grown].any()


def turned(work: Workplace, size: tuple[int, int]) -> Path:
    """A PNG whose EXIF orientation 6 has it turned a quarter to the right where it is displayed."""
    exif = Image.Exif()
    exif[274] = 6
    return work.picture("a.png", size=size, exif=exif)


@pytest.mark.parametrize("mask_on", ["auto", "displayed"])
@pytest.mark.parametrize("size", [(48, 40), (40, 40)])
def test_a_mask_drawn_on_the_displayed_picture_lies_where_it_was_drawn(
    work: Workplace, mask_on: Literal["auto", "displayed"], size: tuple[int, int]
) -> None:
    source = turned(work, size)
    hole = box(size[1], size[0], 2, 4, 12, 9)
    work.mask("a.png", hole)
    report, _ = go(work, mask_on=mask_on)
    assert statuses(report) == {"a.png": "restored"}
    (item,) = report.items
    told = "lies on the picture as that is displayed, turned by EXIF" in " ".join(item.notices)
    assert told == (mask_on == "auto" and size == (40, 40))  # where size alone could not tell
    changed = seen(source, work.out / "a.png")
    assert not changed[~hole].any() and changed[hole].mean() > 0.9
    with Image.open(work.out / "a.png") as after:
        assert after.getexif()[274] == 6 and after.size == size


@pytest.mark.parametrize("size", [(48, 40), (40, 40)])
def test_a_mask_drawn_on_the_stored_picture_lies_on_the_stored_pixels(work: Workplace, size: tuple[int, int]) -> None:
    source = turned(work, size)
    hole = box(*size, 2, 4, 12, 9)
    work.mask("a.png", hole)
    report, _ = go(work, mask_on="stored")
    assert statuses(report) == {"a.png": "restored"}
    changed = (pixels(source) != pixels(work.out / "a.png")).any(axis=2)
    assert not changed[~hole].any() and changed[hole].mean() > 0.9


def test_a_mask_of_the_size_that_it_was_not_drawn_on_is_refused_and_never_stretched(work: Workplace) -> None:
    turned(work, (48, 40))
    work.mask("a.png", box(48, 40, 2, 4, 12, 9))
    (failed,) = go(work, mask_on="displayed")[0].items
    assert failed.status == "failed" and failed.path == str(work.masks / "a.png")
    assert "48 x 40" in str(failed.reason) and "40 x 48" in str(failed.reason)


@pytest.mark.parametrize("count", [1, 4])
def test_masks_of_more_than_60_percent_give_one_notice_of_the_polarity_however_many_they_are(
    work: Workplace, count: int
) -> None:
    for n in range(count):
        work.pair(f"{n}.png", hole=box(48, 40, 0, 0, 48, 28))
    report, events = go(work, jobs=4)
    assert report.count("restored") == count
    assert all("use --invert-mask" in item.notices[0] for item in report.items)
    assert not any(event.notices for event in events if isinstance(event, ItemDone))
    notices = [event.text for event in events if isinstance(event, Notice)]
    named = [text for text in notices if "white = damaged" in text]
    assert len(named) == 1 and "70%" in named[0] and "--invert-mask" in named[0] and str(work.masks) in named[0]
    assert len(notices) == (1 if count == 1 else 2)
    if count > 1:
        said, _, few = notices[-1].partition(": ")
        names = few.removesuffix(", ...").split(", ")
        assert "4 masks" in said and few.endswith(", ...") and len(set(names)) == 3
        assert set(names) <= {str(work.masks / f"{n}.png") for n in range(count)}


@pytest.mark.parametrize("kind", ["ones", "deep", "red", "grey", "black with alpha"])
def test_a_mask_that_is_drawn_on_but_marks_nothing_is_refused(work: Workplace, kind: str) -> None:
    work.picture("a.png")
    drawn = box(48, 40, 10, 10, 20, 20)
    mask = {
        "ones": drawn.astype(np.uint8),
        "deep": np.where(drawn, 255, 0).astype(np.uint16),
        "red": np.where(drawn[..., None], (255, 0, 0), 0).astype(np.uint8),
        "grey": np.where(drawn, 100, 0).astype(np.uint8),
        "black with alpha": np.dstack([np.zeros((40, 48, 3), np.uint8), np.where(drawn, 255, 0).astype(np.uint8)]),
    }[kind]
    Image.fromarray(mask).save(work.masks / "a.png")
    report, _ = go(work)
    (item,) = report.items
    assert item.status == "failed" and item.path == str(work.masks / "a.png")
    assert not (work.out / "a.png").exists()
    assert str(item.reason).startswith("marks nothing, yet something is drawn on it: only what is lighter than 50 %")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_photograph_for_a_mask_is_told_of(work: Workplace, suffix: str) -> None:
    work.picture("a.png", size=(160, 120))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(20, 236, (120, 160, 3), np.uint8)).save(work.masks / f"a{suffix}")
    report, _ = go(work)
    (item,) = report.items
    assert item.status == "restored"
    said = "is grey like a photograph, and a mask is black and white: is it the right file?"
    assert item.notices[:1] == (f"{work.masks / f'a{suffix}'} {said}",)


@pytest.mark.parametrize("kind", ["fine black and white noise", "a blurred blob", "smooth grey"])
def test_what_is_no_photograph_is_not_told_of(work: Workplace, kind: str) -> None:
    work.picture("a.png", size=(160, 120))
    rng = np.random.default_rng(0)
    across = np.linspace(0, 255, 160)[None].repeat(120, 0)
    mask = {
        "fine black and white noise": np.where(rng.random((120, 160)) < 0.4, 255, 0),
        "a blurred blob": np.clip(4 * across - 500, 0, 255),
        "smooth grey": across,
    }[kind]
    Image.fromarray(mask.astype(np.uint8)).save(work.masks / "a.png")
    report, _ = go(work)
    assert not [notice for notice in report.items[0].notices if "photograph" in notice]


@pytest.mark.parametrize("kind", ["noise of a scanner", "noise in colour", "a hidden layer", "deep noise"])
def test_a_mask_that_is_black_but_for_noise_or_not_to_be_seen_is_empty(work: Workplace, kind: str) -> None:
    work.picture("a.png")
    rng = np.random.default_rng(0)
    mask = {
        "noise of a scanner": rng.integers(0, 17, (40, 48)).astype(np.uint8),
        "noise in colour": rng.integers(0, 9, (40, 48, 3)).astype(np.uint8),
        "a hidden layer": np.dstack([rng.integers(0, 256, (40, 48, 3)), np.zeros((40, 48))]).astype(np.uint8),
        "deep noise": rng.integers(0, 4000, (40, 48)).astype(np.uint16),
    }[kind]
    Image.fromarray(mask).save(work.masks / "a.png")
    for inverted in (False, True):
        if inverted and mask.dtype == np.uint8 and mask.shape[2:] != (4,):
            Image.fromarray(255 - mask).save(work.masks / "a.png")
        elif inverted:
            continue
        report, _ = go(work, invert_mask=inverted, overwrite=True)
        assert [(item.status, item.notices) for item in report.items] == [("copied", ())]


def test_a_black_mask_is_nothing_to_talk_about(work: Workplace) -> None:
    work.pair("a.png", hole=np.zeros((40, 48), np.bool_))
    report, _ = go(work)
    assert report.items[0].notices == ()


def test_files_that_are_no_pictures_are_said_once(work: Workplace) -> None:
    work.pair("a.png")
    for name in ("b.gif", "c.GIF", "notes", "d.tif.aux.xml", "d.tfw"):
        (work.pictures / name).touch()
    _, events = go(work)
    (notice,) = [event.text for event in events if isinstance(event, Notice)]
    assert notice == "left out, for they are in no format that can be read: 1 without a suffix, 2 .gif"


def test_masks_of_60_percent_are_nothing_to_talk_about(work: Workplace) -> None:
    work.pair(hole=box(48, 40, 0, 0, 48, 24))
    assert not [event for event in go(work)[1] if isinstance(event, Notice)]


def test_a_mask_that_no_picture_uses_is_said(work: Workplace) -> None:
    work.pair()
    work.mask("b.png", box(48, 40, 0, 0, 4, 4))
    (notice,) = [event.text for event in go(work)[1] if isinstance(event, Notice)]
    assert str(work.masks / "b.png") in notice


# ---------------------------------------------------------------- transparency


def test_what_is_fully_transparent_is_no_context_for_a_fill_and_keeps_its_hidden_colours(work: Workplace) -> None:
    colours = texture(48, 40)
    hole = box(48, 40, 16, 10, 32, 30)
    alpha = np.full((40, 48), 255, np.uint8)
    alpha[:, 30:] = 0  # touches the hole and lies under a part of it
    fills = []
    for name, hidden in (("dark.png", 0), ("light.png", 255)):
        colours[:, 32:] = hidden
        path = work.pictures / name
        Image.fromarray(np.dstack([colours, alpha])).save(path)
        work.mask(name, hole)
        go(work, overwrite=True)
        after = pixels(work.out / name)
        np.testing.assert_array_equal(after[~hole], pixels(path)[~hole])
        np.testing.assert_array_equal(after[..., 3], alpha)
        fills.append(after[hole])
    np.testing.assert_array_equal(*fills)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tif", "palette.png", "key.png"])
def test_damage_that_stays_transparent_is_told_of_with_the_way_to_have_it_shown(work: Workplace, name: str) -> None:
    hole = box(48, 40, 10, 10, 20, 22)
    colours = np.where(hole[..., None], np.uint8(DAMAGE), texture(48, 40))
    rgba = np.dstack([colours, np.where(hole, 0, 255).astype(np.uint8)])
    path = work.pictures / name
    if name == "palette.png":
        image = Image.fromarray(colours).quantize(64, dither=Image.Dither.NONE)
        image.save(path, transparency=image.getpixel((10, 10)))
    elif name == "key.png":
        Image.fromarray(colours).save(path, transparency=DAMAGE)
    elif name == "a.bmp":
        path.write_bytes(_carry.bmp_header(48, 40, None) + rgba[::-1, :, [2, 1, 0, 3]].tobytes())
    else:
        Image.fromarray(rgba).save(path, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    work.mask(f"{path.stem}.png", hole)
    notices = go(work)[0].items[0].notices
    told = f"to be seen, for its alpha stays as it is: {hole.sum()} pixels"
    assert len(notices) == 1 and told in notices[0] and "use --mask-from alpha" in notices[0]
    assert from_mark(work, "alpha", overwrite=True).items[0].notices == ()
    with Image.open(work.out / name) as after:
        assert np.asarray(after.convert("RGBA"))[..., 3].min() == 255


def test_a_fully_transparent_picture_with_an_empty_mask_is_copied(work: Workplace) -> None:
    Image.new("RGBA", (48, 40), (9, 9, 9, 0)).save(work.pictures / "a.png")
    work.mask("a.png", np.zeros((40, 48), np.bool_))
    assert statuses(go(work)[0]) == {"a.png": "copied"}


# ---------------------------------------------------------------- company


def folder_of_many(work: Workplace) -> list[str]:
    for n, size in enumerate([(48, 40), (33, 70), (64, 64), (7, 5), (96, 31)]):
        width, height = size
        hole = box(width, height, width // 4, height // 4, width // 2, height - 2)
        work.pair(f"{n}.png", ("RGB", "L", "RGBA", "RGB", "P")[n], size, hole=hole, seed=n)
    return [f"{n}.png" for n in range(5)]


def test_no_result_depends_on_batch_size_or_threads(work: Workplace) -> None:
    names = folder_of_many(work)
    go(work, jobs=1, batch_size=1, tile_size=32)
    go(work, jobs=8, batch_size=7, tile_size=32, out=work.root / "wide")
    assert sorted(files(work.out)) == names
    assert files(work.root / "wide") == files(work.out)


def test_no_result_depends_on_which_other_pictures_there_are(work: Workplace) -> None:
    names = folder_of_many(work)
    go(work, batch_size=7, tile_size=32)
    together = files(work.out)
    for name in names:
        out = work.root / "alone" / name
        settings = RestoreSettings(weights="none", device="cpu", batch_size=7, tile_size=32)
        restore(plan(work.pictures / name, work.masks / name, str(out), settings), settings, lambda _: None)
        assert out.read_bytes() == together[name]


# ---------------------------------------------------------------- what is told


def test_events_begin_with_the_run_and_end_with_its_counts(work: Workplace) -> None:
    work.pair("a.png")
    work.pair("b.png", hole=np.zeros((40, 48), np.bool_))
    work.picture("c.png")
    report, events = go(work)
    assert events[0] == RunStarted(
        items=3, weights="none", device="cpu", precision="fp32", precision_reason="as asked for"
    )
    last = events[-1]
    assert isinstance(last, RunFinished)
    tiles = report.items[0].tiles
    assert (last.restored, last.copied, last.failed, last.not_done, last.tiles) == (1, 1, 1, 0, tiles)
    done = {event.name: event for event in events if isinstance(event, ItemDone)}
    assert done["a.png"] == ItemDone(
        "a.png",
        str(work.out / "a.png"),
        "restored",
        report.items[0].hole_share or 0,
        tiles,
        (),
        report.items[0].seconds,
    )
    assert done["b.png"].status == "copied"
    (failed,) = [event for event in events if isinstance(event, ItemFailed)]
    assert failed.name == "c.png" and failed.path == str(work.pictures / "c.png") and "no mask" in failed.reason


def test_the_report_has_every_picture_in_the_order_of_the_input_with_all_fields(work: Workplace) -> None:
    for n in (10, 2, 1):
        work.pair(f"p{n}.png", size=(20, 20 + n))
    work.pair("sub/p1.png")
    work.picture("p3.png")
    report, _ = go(work, jobs=8)
    items = [json.loads(item.line()) for item in report.items]
    assert [item["name"] for item in items] == ["p1.png", "p2.png", "p3.png", "p10.png", "sub/p1.png"]
    assert all(set(item) == {"type", *(field.name for field in fields(ItemReport))} for item in items)
    first, unmasked = items[0], items[2]
    vary = {"hole_share": 0, "seconds": 0, "megapixels_per_second": 0, "peak_memory_bytes": 0}
    assert first | vary == {
        "type": "item", "name": "p1.png", "image": str(work.pictures / "p1.png"), "mask": str(work.masks / "p1.png"),
        "output": str(work.out / "p1.png"), "status": "restored", "path": None, "reason": None,
        "width": 20, "height": 21,
        "windows": 1, "tiles": 1, "pixels_computed": 20 * 21, "crossings": 0, "seam_ratio": None,
        "by_pyramid": 0, "unfilled": 0, "outside_mask_changed": 0, "space": "as it is", "notices": [], **vary,
    }  # fmt: skip
    assert all(first[figure] > 0 for figure in vary)
    assert first["hole_share"] == round(7 * 7 / (20 * 21), 6)
    assert (unmasked["status"], unmasked["mask"], unmasked["path"]) == ("failed", None, unmasked["image"])
    summary = json.loads(report.summary())
    vary = {"pconv": "", "seconds": 0, "settings": {}, "notices": []}
    assert summary | vary == {
        "type": "summary", "restored": 4, "copied": 0, "done_before": 0, "failed": 1, "not_done": 0, "items": 5,
        "tiles": sum(item["tiles"] for item in items), "interrupted": False, **vary,
    }  # fmt: skip
    assert summary["seconds"] >= 0 and summary["settings"]["weights"] == "none" and summary["pconv"]


def test_the_report_names_the_settings_that_decide_a_result(work: Workplace) -> None:
    work.pair()
    report, _ = go(work, tile_size=64, dilate=1, invert_mask=True)
    assert report.settings == {
        "weights": "none", "weights_sha256": "", "device": "cpu", "precision": "fp32",
        "precision_reason": "as asked for", "compiled": "no: on a CPU it never pays", "tile_size": 64,
        "padding": "as trained", "overlap": 0,
        "mask_polarity": "black = damaged", "dilate": 1, "mask_from": "", "linear": False,
    }  # fmt: skip


def test_what_an_output_cannot_hold_is_noted_on_its_item(work: Workplace) -> None:
    icc = b"\0\0\0\x84" + b"test" * 32
    work.pair("a.png", icc_profile=icc)
    report, events = go(work, format="bmp")
    assert report.items[0].status == "restored" and "ICC" in " ".join(report.items[0].notices)
    assert [event.notices for event in events if isinstance(event, ItemDone)] == [report.items[0].notices]


# ---------------------------------------------------------------- outputs


@pytest.mark.parametrize("format", ["png", "tiff", "webp", "bmp"])
def test_a_format_is_that_of_all_outputs_and_changes_no_pixel_outside_the_mask(work: Workplace, format: str) -> None:
    source, hole = work.pair("a.jpg")
    report, _ = go(work, format=format)
    assert [Path(item.output).name for item in report.items] == [f"a.{format}"]
    with Image.open(work.out / f"a.{format}") as after:
        assert after.format == format.upper()
    np.testing.assert_array_equal(pixels(work.out / f"a.{format}")[~hole], pixels(source)[~hole])


def test_a_picture_without_damage_is_converted_where_another_format_is_asked_for(work: Workplace) -> None:
    source, _ = work.pair("a.bmp", hole=np.zeros((40, 48), np.bool_))
    report, _ = go(work, format="png")
    assert statuses(report) == {"a.bmp": "copied"}
    with Image.open(work.out / "a.png") as after:
        assert after.format == "PNG"
    np.testing.assert_array_equal(pixels(work.out / "a.png"), pixels(source))


def test_outputs_mirror_the_folders_and_nothing_else_is_left_behind(work: Workplace) -> None:
    for name in ("a.png", "b/c.tif", "b/d/e.webp"):
        work.pair(name)
    go(work)
    assert sorted(files(work.out)) == ["a.png", "b/c.tif", "b/d/e.webp"]


def test_an_existing_output_is_not_touched_without_overwrite(work: Workplace) -> None:
    work.pair("a.png")
    work.pair("b.png")
    work.out.mkdir()
    (work.out / "a.png").write_bytes(b"mine")
    before = (work.out / "a.png").stat()
    report, events = go(work)
    assert statuses(report) == {"a.png": "failed", "b.png": "restored"}
    assert report.items[0].path == str(work.out / "a.png") and "--overwrite" in str(report.items[0].reason)
    after = (work.out / "a.png").stat()
    assert (work.out / "a.png").read_bytes() == b"mine"
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [event.name for event in events if isinstance(event, ItemStarted)] == ["b.png"], "nothing is done in vain"


@pytest.mark.parametrize("damaged", [True, False])
def test_an_existing_output_is_replaced_with_overwrite(work: Workplace, damaged: bool) -> None:
    source, hole = work.pair("a.png", hole=None if damaged else np.zeros((40, 48), np.bool_))
    work.out.mkdir()
    (work.out / "a.png").write_bytes(b"mine")
    report, _ = go(work, overwrite=True)
    assert statuses(report) == {"a.png": "restored" if damaged else "copied"}
    np.testing.assert_array_equal(pixels(work.out / "a.png")[~hole], pixels(source)[~hole])


def test_a_folder_that_cannot_be_made_ends_the_run_before_any_work(work: Workplace) -> None:
    work.pair()
    (work.root / "file").write_bytes(b"")
    events: list[Event] = []
    with pytest.raises(OutputError, match="choose another OUT"):
        go(work, out=work.root / "file" / "out", emit=events.append)
    assert not events


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"format": "exe"}, UsageError),
        ({"tile_size": 8}, UsageError),
        ({"weights": "no-such-name"}, WeightsError),
    ],
)
def test_a_run_that_cannot_work_ends_before_it_begins_and_makes_no_folder(
    work: Workplace, settings: dict[str, Any], error: type[Exception]
) -> None:
    work.pair()
    with pytest.raises(error):
        go(work, **settings)
    assert not work.out.exists()


def test_a_folder_without_pictures_is_nothing_to_do(work: Workplace) -> None:
    with pytest.raises(NothingToDo):
        go(work)


# ---------------------------------------------------------------- pictures that show their damage themselves


def marked(work: Workplace, value: tuple[int, ...], mode: str = "RGBA") -> NDArray[np.bool_]:
    """A picture whose hole has a value."""
    hole = box(48, 40, 10, 10, 20, 22)
    picture = np.dstack([texture(48, 40), np.full((40, 48), 255, np.uint8)])[..., : len(mode)]
    picture[hole] = value
    Image.fromarray(picture, mode).save(work.pictures / "a.png")
    return hole


def from_mark(work: Workplace, text: str, **settings: Any) -> Report:
    chosen = RestoreSettings(weights="none", device="cpu", precision="fp32", mask_from=parse(text), **settings)
    return restore(plan(work.pictures, None, str(work.out), chosen), chosen, lambda event: None)


def test_what_is_transparent_is_filled_and_opaque_with_mask_from_alpha(work: Workplace) -> None:
    hole = marked(work, (*DAMAGE, 0))
    assert from_mark(work, "alpha").items[0].status == "restored"
    before, after = (pixels(path).astype(int) for path in (work.pictures / "a.png", work.out / "a.png"))
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole, 3] == 255).all()
    assert np.abs(after[hole, :3] - DAMAGE).max(axis=1).min() > 20


@pytest.mark.parametrize("text", ["color=#ff00ff", "color=#fa00ff~5"])
def test_what_has_a_colour_is_filled_with_mask_from_color(work: Workplace, text: str) -> None:
    hole = marked(work, DAMAGE, "RGB")
    assert from_mark(work, text).items[0].hole_share == round(float(hole.mean()), 6)
    before, after = (pixels(path).astype(int) for path in (work.pictures / "a.png", work.out / "a.png"))
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert np.abs(after[hole] - DAMAGE).max(axis=1).min() > 20


def test_a_band_that_holds_the_mask_is_no_part_of_the_picture_and_stays(work: Workplace) -> None:
    hole = marked(work, (*DAMAGE, 255))
    picture = pixels(work.pictures / "a.png").copy()
    picture[..., 3] = np.where(hole, 255, 0)
    Image.fromarray(picture).save(work.pictures / "a.png")
    assert from_mark(work, "band=4").items[0].hole_share == round(float(hole.mean()), 6)
    after = pixels(work.out / "a.png").astype(int)
    np.testing.assert_array_equal(after[~hole], picture[~hole])
    np.testing.assert_array_equal(after[..., 3], picture[..., 3])
    assert np.abs(after[hole, :3] - DAMAGE).max(axis=1).min() > 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alpha", "no transparency"),
        ("nodata", "nodata=0"),
        ("band=7", "no band 7: count from 1"),
        ("band=1", "has its picture in band 1"),
    ],
)
def test_a_mark_that_a_picture_does_not_have_is_one_failed_item(work: Workplace, text: str, words: str) -> None:
    work.picture("a.png")
    (item,) = from_mark(work, text).items
    assert item.status == "failed" and words in str(item.reason)


# ---------------------------------------------------------------- lists, samples, ends


def test_a_list_says_which_picture_with_which_mask_goes_where_and_one_picture_may_stand_in_it_twice(
    work: Workplace,
) -> None:
    image, _ = work.pair("a.png")
    other = work.mask("b.png", box(48, 40, 30, 5, 40, 12))
    chosen = RestoreSettings(weights="none", device="cpu")
    rows = [
        Row(str(image), str(work.masks / "a.png"), str(work.root / "x" / "one.png"), 2),
        Row(str(image), str(other), None, 3),
        Row(str(work.root / "gone.png"), str(other), None, 4),
    ]
    report = restore(plan_listed(rows, str(work.out), chosen), chosen, lambda event: None)
    assert [item.status for item in report.items] == ["restored", "restored", "failed"]
    assert set(files(work.root)) >= {"x/one.png", "out/a.png"}
    assert (work.out / NAME).exists() and not (work.root / NAME).exists()
    assert (pixels(work.root / "x" / "one.png") != pixels(work.out / "a.png")).any()


def test_a_list_of_failures_that_cannot_be_written_ends_the_run_before_it_begins(work: Workplace) -> None:
    work.pair()
    with pytest.raises(UsageError, match="cannot be written there"):
        go(work, failed_list=work.root / "gone" / "failed.csv")
    assert not work.out.exists()


def test_a_list_of_failures_follows_a_run_that_is_resumed(work: Workplace) -> None:
    work.pair("a.png")
    work.picture("b.png")
    for resume in (False, True):
        go(work, failed_list=work.root / "failed.csv", resume=resume)
    assert len(read_manifest(work.root / "failed.csv")) == 1


def test_failed_pictures_are_listed_so_that_the_list_restores_them_once_they_are_mended(work: Workplace) -> None:
    work.pair("a.png")
    work.pair("b.png")
    good = (work.pictures / "b.png").read_bytes()
    (work.pictures / "b.png").write_bytes(good[:100])
    listed = work.root / "failed.csv"
    go(work, failed_list=listed)
    (row,) = read_manifest(listed)
    assert (row.image, row.mask, row.out) == tuple(
        map(str, (work.pictures / "b.png", work.masks / "b.png", work.out / "b.png"))
    )
    (work.pictures / "b.png").write_bytes(good)
    chosen = RestoreSettings(weights="none", device="cpu")
    report = restore(plan_listed([row], None, chosen), chosen, lambda event: None)
    assert [item.status for item in report.items] == ["restored"]


@pytest.mark.parametrize("broken", [["sub/b.png"], ["sub/b.png", "other/c.png"]])
def test_a_run_that_goes_on_knows_what_its_list_of_failures_has_made(work: Workplace, broken: list[str]) -> None:
    good = {name: work.pair(name)[0].read_bytes() for name in ("a.png", "sub/b.png", "other/c.png")}
    for name in broken:
        (work.pictures / name).write_bytes(good[name][:100])
    listed = work.root / "failed.csv"
    assert go(work, failed_list=listed)[0].count("failed") == len(broken)
    for name in broken:
        (work.pictures / name).write_bytes(good[name])
    chosen = RestoreSettings(weights="none", device="cpu", precision="fp32")
    restore(plan_listed(read_manifest(listed), None, chosen), chosen, lambda event: None)
    assert set(statuses(go(work, resume=True)[0]).values()) == {"done_before"}


def test_a_list_of_failures_is_written_even_when_there_are_none(work: Workplace) -> None:
    work.pair()
    go(work, failed_list=work.root / "failed.jsonl")
    assert (work.root / "failed.jsonl").exists()
    with pytest.raises(NothingToDo):
        read_manifest(work.root / "failed.jsonl")


def test_a_list_of_failures_that_is_in_the_way_ends_the_run_before_it_begins(work: Workplace) -> None:
    work.pair()
    (work.root / "failed.csv").write_text("of last night")
    with pytest.raises(UsageError, match="is there already: pass --overwrite"):
        go(work, failed_list=work.root / "failed.csv")
    go(work, failed_list=work.root / "failed.csv", overwrite=True)
    assert (work.root / "failed.csv").read_text() == "image,mask,out,reason\n"


@pytest.mark.parametrize("limit", [1, 2])
def test_no_picture_is_begun_after_so_many_have_failed_and_that_is_no_interruption(work: Workplace, limit: int) -> None:
    work.pair("99.png")
    for number in range(30):
        work.picture(f"{number:02}.png")
    report, _ = go(work, max_failures=limit, jobs=1)
    assert limit <= report.count("failed") < 30
    assert report.count("not_done") == 31 - report.count("failed") and not report.interrupted
    assert any("which is the limit" in notice for notice in report.notices)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_no_picture_is_begun_when_several_in_a_row_have_found_the_disk_full(
    work: Workplace, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    for number in range(30):
        work.pair(f"{number:02}{suffix}")
    if suffix == ".png":
        monkeypatch.setattr(Image.Image, "save", half_written)
    else:
        monkeypatch.setattr("pconv_cli.canvas._copy", full)
    report, _ = go(work, jobs=1)
    assert WITHOUT_ROOM <= report.count("failed") < 30
    assert report.count("not_done") == 30 - report.count("failed") and not report.interrupted
    assert [notice for notice in report.notices if "the disk is full" in notice and "--resume" in notice]
    monkeypatch.undo()
    report, _ = go(work, resume=True)
    assert report.count("restored") == 30


def test_what_is_larger_than_the_limit_is_refused_before_it_is_decoded_and_the_flag_is_named(work: Workplace) -> None:
    work.pair("a.png", size=(96, 80))
    work.pair("b.png", size=(20, 20))
    report, _ = go(work, max_megapixels=0.005)
    assert statuses(report) == {"a.png": "failed", "b.png": "restored"}
    assert "96 x 80 = 0.00768 megapixels, more than 0.005" in str(report.items[0].reason)
    assert "--max-megapixels 0" in str(report.items[0].reason)
    report, _ = go(work, max_megapixels=0, overwrite=True)
    assert statuses(report) == {"a.png": "restored", "b.png": "restored"}


def banded(work: Workplace, bands: int, kind: str) -> None:
    """A TIFF of any number of bands, and its mask."""
    work.mask("a.png", box(48, 40, 5, 5, 20, 20))
    form = {"width": 48, "height": 40, "count": bands, "dtype": kind, "photometric": "RGB"}
    values = np.random.default_rng(0).uniform(0, 1 if kind == "float32" else 200, (bands, 40, 48))
    with rasterio.open(work.pictures / "a.tif", "w", "GTiff", transform=Affine(2, 0, 0, 0, -2, 40), **form) as file:
        file.write(values.astype(kind))


@pytest.mark.parametrize(
    ("bands", "kind", "each"), [(3, "uint8", 64), (3, "uint16", 64), (120, "uint8", 960), (120, "float32", 3840)]
)
def test_what_a_picture_takes_of_memory_goes_by_its_bands(work: Workplace, bands: int, kind: str, each: int) -> None:
    banded(work, bands, kind)
    settings = RestoreSettings(weights="none")
    (job,) = plan(work.pictures, work.masks, str(work.out), settings).jobs
    assert bench.Reader(settings, View()).cost(job) == 48 * 40 * each


def test_what_a_plain_picture_takes_of_memory(work: Workplace) -> None:
    for name in ("a.png", "b.jpg"):
        work.pair(name)
    settings = RestoreSettings(weights="none")
    jobs = plan(work.pictures, work.masks, str(work.out), settings).jobs
    assert {bench.Reader(settings, View()).cost(job) for job in jobs} == {48 * 40 * 24}


def test_a_picture_of_many_bands_that_does_not_fit_into_memory_is_refused(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    banded(work, 120, "float32")
    monkeypatch.setattr(bench, "memory_available", lambda: 48 * 40 * 1000)
    (item,) = go(work)[0].items
    assert item.status == "failed" and "use `pconv tile`" in str(item.reason)


def test_a_mask_that_lies_elsewhere_on_the_map_is_refused(work: Workplace) -> None:
    hole = box(48, 40, 10, 10, 20, 22)
    for name, east in (("here.tif", 0), ("there.tif", 1000)):
        for folder, pixels_of, at in ((work.pictures, texture(48, 40), 0), (work.masks, hole[..., None] * 255, east)):
            kind = {"driver": "GTiff", "width": 48, "height": 40, "count": pixels_of.shape[2], "dtype": "uint8"}
            place = {"crs": "EPSG:32632", "transform": Affine(2, 0, 5e5 + at, 0, -2, 54e5)}
            with rasterio.open(folder / name, "w", **kind, **place) as file:
                file.write(pixels_of.astype(np.uint8).transpose(2, 0, 1))
    report, _ = go(work)
    assert statuses(report) == {"here.tif": "restored", "there.tif": "failed"}
    (reason,) = (item.reason for item in report.items if item.status == "failed")
    assert "lies elsewhere on the map" in str(reason) and "gdalwarp" in str(reason)


def test_what_lies_beside_a_tiff_counts_as_a_part_of_it_when_a_run_goes_on(work: Workplace) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        work.pair(name)
        (work.pictures / name).with_suffix(".tfw").write_text("1\n0\n0\n-1\n5\n5\n")
    assert go(work)[0].count("restored") == 3
    (work.pictures / "b.tfw").write_text("1\n0\n0\n-1\n7\n7\n")
    (work.out / "c.tfw").unlink()
    assert statuses(go(work, resume=True)[0]) == {"a.tif": "done_before", "b.tif": "failed", "c.tif": "failed"}
    again = go(work, resume=True, overwrite=True)[0]
    assert statuses(again) == {"a.tif": "done_before", "b.tif": "restored", "c.tif": "restored"}
    assert (work.out / "b.tfw").read_text() == (work.pictures / "b.tfw").read_text() and (work.out / "c.tfw").exists()


def test_resume_with_overwrite_does_again_exactly_the_pictures_whose_masks_were_corrected(work: Workplace) -> None:
    for name in ("a.png", "b.png", "c.png"):
        work.pair(name)
    go(work)
    work.mask("b.png", box(48, 40, 4, 4, 9, 9))
    again = go(work, resume=True, overwrite=True)[0]
    assert statuses(again) == {"a.png": "done_before", "b.png": "restored", "c.png": "done_before"}
    assert go(work, resume=True, overwrite=True)[0].count("done_before") == 3


def test_two_tiffs_may_share_what_lies_beside_them(work: Workplace) -> None:
    for number in range(20):
        for suffix in ("tif", "tiff"):
            work.picture(f"{number:02}.{suffix}")
            work.mask(f"{number:02}.{suffix}.png", box(48, 40, 4, 4, 9, 9))
        (work.pictures / f"{number:02}.tfw").write_text("1\n0\n0\n-1\n5\n5\n")
    report, _ = go(work, jobs=8)
    assert report.count("restored") == 40, [item.reason for item in report.items if item.reason]


@pytest.mark.parametrize("dilate", [0, 1])
def test_a_gap_in_one_band_leaves_what_the_others_measured(work: Workplace, dilate: int) -> None:
    whole = texture(48, 40).astype(np.float32) / 255
    gap = box(48, 40, 10, 10, 20, 22)
    damaged = whole.copy()
    damaged[gap, 0] = np.nan
    kind = {"driver": "GTiff", "width": 48, "height": 40, "count": 3, "dtype": "float32"}
    with rasterio.open(work.pictures / "a.tif", "w", transform=Affine(2, 0, 0, 0, -2, 40), **kind) as file:
        file.write(damaged.transpose(2, 0, 1))
    report, _ = go(work, mask_from=parse("nodata"), dilate=dilate)
    assert report.count("restored") == 1, report.items
    with rasterio.open(work.out / "a.tif") as file:
        made = file.read().transpose(1, 2, 0)
    assert np.isfinite(made).all()
    kept = (made[..., 1:] == whole[..., 1:]).all() and (made[~gap, 0] == whole[~gap, 0]).all()
    assert kept == (dilate == 0)  # to grow damage is to replace what was measured


def test_pictures_of_all_depths_and_colours_share_one_run_and_none_takes_another_s(work: Workplace) -> None:
    """Tiles of bytes and of floats are never in one batch."""
    hole = box(48, 40, 10, 10, 20, 22)
    whole = texture(48, 40)
    whole[hole] = DAMAGE
    for name in ("byte", "deep", "float"):
        work.mask(f"{name}.png", hole)
    Image.fromarray(whole).save(work.pictures / "byte.png")
    for name, pixels_of in (("deep", whole.astype(np.uint16) * 257), ("float", whole.astype(np.float32) / 255)):
        (work.pictures / f"{name}.tif").write_bytes(encoded(pixels_of, "RGB"))
    report, _ = go(work)
    assert statuses(report) == {"byte.png": "restored", "deep.tif": "restored", "float.tif": "restored"}
    with Source(work.out / "deep.tif") as deep, Source(work.out / "float.tif") as floating:
        window = Window(0, 0, 48, 40)
        shown = pixels(work.out / "byte.png").astype(float)
        assert np.abs(deep.read(window) / 257 - shown).max() < 2
        assert np.abs(floating.read(window) * 255 - shown).max() < 2
        assert np.array_equal(deep.read(window)[~hole], (whole.astype(np.uint16) * 257)[~hole])


# ---------------------------------------------------------------- nothing is lost


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_strict_refuses_what_would_lose_something_before_anything_is_computed(work: Workplace, name: str) -> None:
    source, _ = work.pair(name)
    if name == "a.bmp":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        Image.open(source).save(work.pictures / "a.png", icc_profile=profile)
        source.unlink()
    report, events = go(work, strict=True, format="bmp" if name == "a.bmp" else None)
    (item,) = report.items
    assert item.status == "failed" and str(item.reason).startswith("--strict refuses what would be lost: ")
    assert not [event for event in events if isinstance(event, TilesDone)] and files(work.out) == {}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_what_a_format_cannot_hold_is_refused_before_anything_is_computed(work: Workplace, suffix: str) -> None:
    source, _ = work.pair("a.png")
    if suffix == "jpg":
        Image.open(source).convert("RGBA").save(source)
    else:
        (work.pictures / "a.tif").write_bytes(encoded(pixels(source).astype(np.float32), "RGB"))
        source.unlink()
    report, events = go(work, format=suffix)
    (item,) = report.items
    wanted = "JPEG has no transparency" if suffix == "jpg" else "PNG cannot hold 32-bit floating-point values"
    assert item.status == "failed" and str(item.reason).startswith(wanted)
    assert not [event for event in events if isinstance(event, TilesDone)] and files(work.out) == {}


def test_strict_lets_through_what_loses_nothing(work: Workplace) -> None:
    for name in ("a.png", "b.tif", "c.webp", "d.bmp"):
        work.pair(name)
    report, _ = go(work, strict=True)
    assert set(statuses(report).values()) == {"restored"}
    assert [item.outside_mask_changed for item in report.items] == [0, 0, 0, 0]


def test_pixels_changed_outside_the_mask_are_counted_in_what_was_written(work: Workplace) -> None:
    source, hole = work.pair("a.jpg", quality=60, subsampling=2)
    report, _ = go(work)
    changed = (pixels(source) != pixels(work.out / "a.jpg")).any(axis=-1) & ~hole
    assert report.items[0].outside_mask_changed == changed.sum() > 0


# ---------------------------------------------------------------- going on


def made(work: Workplace) -> dict[str, tuple[int, bytes]]:
    """Every output with what tells it from one that was written again."""
    return {name: ((work.out / name).stat().st_ino, data) for name, data in files(work.out).items()}


def test_resume_leaves_out_what_is_done_and_does_the_rest(work: Workplace) -> None:
    for number in range(4):
        work.pair(f"{number}.png")
    go(work)
    whole = made(work)
    (work.out / "2.png").unlink()
    report, _ = go(work, resume=True)
    assert statuses(report) == {
        "0.png": "done_before",
        "1.png": "done_before",
        "2.png": "restored",
        "3.png": "done_before",
    }
    again = made(work)
    assert {name: data for name, (_, data) in again.items()} == {name: data for name, (_, data) in whole.items()}
    assert all(again[name] == whole[name] for name in ("0.png", "1.png", "3.png"))


WHY = {
    "picture": "was made of another picture; add --overwrite to replace it",
    "mask": "was made of another mask; add --overwrite to replace it",
    "picture mask": "was made of another picture and another mask; add --overwrite to replace it",
    "settings": "was made with other settings, weights or version; add --overwrite to replace it",
    "mask settings": "was made of another mask and with other settings, weights or version; "
    "add --overwrite to replace it",
    "output": "the output exists already; use --overwrite to replace it",
}


@pytest.mark.parametrize("changed", WHY)
def test_done_means_same_content_settings_and_output_and_what_is_not_is_never_overwritten_unasked(
    work: Workplace, changed: str
) -> None:
    work.pair("a.png")
    work.pair("b.png")
    go(work)
    settings: dict[str, Any] = {"resume": True}
    if "picture" in changed:
        Image.fromarray(texture(48, 40, seed=9)).save(work.pictures / "a.png")
    if "mask" in changed:
        work.mask("a.png", box(48, 40, 30, 5, 40, 12))
    if "settings" in changed:
        settings["dilate"] = 2
    if changed == "output":
        (work.out / "a.png").write_bytes(b"somebody else's")
    before = made(work)
    report, _ = go(work, **settings)
    others = "failed" if "settings" in changed else "done_before"
    assert statuses(report) == {"a.png": "failed", "b.png": others}
    assert report.items[0].reason == WHY[changed]
    assert made(work) == before
    report, _ = go(work, overwrite=True, **settings)
    others = "restored" if "settings" in changed else "done_before"
    assert statuses(report) == {"a.png": "restored", "b.png": others}


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("which", ["picture", "mask"])
@pytest.mark.parametrize("how", ["replaced", "gone"])
def test_what_changes_while_it_is_restored_fails_and_is_done_by_the_next_run(
    work: Workplace, which: str, how: str, several: bool
) -> None:
    image, _ = work.pair("a.png")
    path = image if which == "picture" else work.masks / "a.png"
    other = work.root / "new.png"
    Image.fromarray(texture(48, 40, seed=9) if which == "picture" else box(48, 40, 30, 5, 40, 12)).save(other)
    chosen = RestoreSettings(weights="none", device="cpu", precision="fp32")

    def change(event: Event) -> None:
        if isinstance(event, ItemStarted):
            path.unlink() if how == "gone" else path.write_bytes(other.read_bytes())

    todo = plan(
        work.pictures if several else image, work.masks, str(work.out if several else work.out / "a.png"), chosen
    )
    (item,) = restore(todo, chosen, change).items
    assert (item.status, item.path) == ("failed", str(path))
    assert item.reason == "was changed while it was being restored: run it again"
    assert not files(work.out)
    other.replace(path)
    assert statuses(go(work, resume=True)[0]) == {"a.png": "restored"}
    assert statuses(go(work, resume=True)[0]) == {"a.png": "done_before"}


def test_a_change_on_the_way_does_not_make_an_older_result_that_of_what_came(work: Workplace) -> None:
    image, _ = work.pair("a.png")
    go(work)
    before = files(work.out)

    def change(event: Event) -> None:
        if isinstance(event, ItemStarted):
            Image.fromarray(texture(48, 40, seed=9)).save(image)

    assert statuses(go(work, emit=change, overwrite=True)[0]) == {"a.png": "failed"} and files(work.out) == before
    report, _ = go(work, resume=True)
    assert statuses(report) == {"a.png": "failed"} and "made of another picture" in str(report.items[0].reason)


def test_a_killed_run_leaves_nothing_half_written_that_resume_does_not_clear_away(work: Workplace) -> None:
    work.pair("a.png")
    work.pair("b.png")
    work.out.mkdir()
    for name in (".a.png.0a1b2c3d.part", ".else.png.0a1b2c3d.part"):
        (work.out / name).write_bytes(b"half")
    go(work, resume=True)
    assert set(files(work.out)) == {"a.png", "b.png", ".else.png.0a1b2c3d.part"}


def test_what_another_run_makes_meanwhile_is_done_and_no_failure(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    work.pair("b.png")
    go(work, out=work.root / "other")

    def late(picture: Picture, target: Path, **options: Any) -> writing.Written:
        if target.name == "a.png" and not target.exists():  # the other run is faster by a moment
            target.write_bytes((work.root / "other" / "a.png").read_bytes())
        return writing.write_picture(picture, target, **options)

    (work.out).mkdir()
    text = (work.root / "other" / NAME).read_text()
    (work.out / NAME).write_text(text)
    monkeypatch.setattr(bench, "write_picture", late)
    report, _ = go(work)
    assert statuses(report) == {"a.png": "done_before", "b.png": "restored"}


def test_part_of_what_is_done_is_resumed_by_itself_and_then_again_as_a_whole(work: Workplace) -> None:
    for name in ("box1/a.png", "box2/a.png"):
        work.pair(name)
    go(work)
    part, settings = work.out / "box1", RestoreSettings(weights="none", device="cpu", precision="fp32", resume=True)
    before = {path: path.read_bytes() for path in work.out.rglob("*") if path.is_file()}
    todo = plan(work.pictures / "box1", work.masks / "box1", str(part), settings)
    assert statuses(restore(todo, settings, lambda event: None)) == {"a.png": "done_before"}
    assert {path: path.read_bytes() for path in before} == before
    (part / "a.png").unlink()
    assert statuses(restore(todo, settings, lambda event: None)) == {"a.png": "restored"}
    assert set(statuses(go(work, resume=True)[0]).values()) == {"done_before"}


def test_a_single_picture_leaves_no_journal_unless_it_is_to_be_resumed(work: Workplace) -> None:
    image, _ = work.pair("a.png")
    settings = RestoreSettings(weights="none", device="cpu")
    todo = plan(image, work.masks, str(work.out / "a.png"), settings)
    restore(todo, settings, lambda event: None)
    assert [path.name for path in work.out.iterdir()] == ["a.png"]


def test_a_folder_that_holds_one_picture_is_resumed_like_any_other(work: Workplace) -> None:
    work.pair("a.png")
    assert statuses(go(work)[0]) == {"a.png": "restored"}
    work.pair("b.png")
    assert statuses(go(work, resume=True)[0]) == {"a.png": "done_before", "b.png": "restored"}


def test_several_pictures_of_which_none_has_a_mask_end_the_run_in_one_line(work: Workplace) -> None:
    for name in ("a.png", "sub/b.png"):
        work.picture(name)
    with pytest.raises(UsageError, match=r"none of 2 pictures has a mask: for a.png it is called a\.\* or a_mask\.\*"):
        go(work)
    assert go(work, mask_from=parse("color=#123456"))[0].count("copied") == 2
    work.pair("c.png")
    assert statuses(go(work, overwrite=True)[0]) == {"a.png": "failed", "c.png": "restored", "sub/b.png": "failed"}


def test_a_list_of_failures_is_made_anew_by_a_run_that_goes_on_and_nothing_else_is_replaced(work: Workplace) -> None:
    work.pair("a.png")
    work.picture("b.png")
    for name in ("failed.csv", "failed.jsonl"):
        listed = work.root / name
        listed.write_text("my,own\n", "utf-8")
        with pytest.raises(UsageError, match="is there already"):
            go(work, failed_list=listed, resume=True)
        assert listed.read_text("utf-8") == "my,own\n"
        listed.unlink()
        go(work, failed_list=listed, resume=True)
        first = listed.read_text("utf-8")
        assert str(work.masks / "b.png") in first.replace("\\\\", "\\")  # where a mask would have been found
        go(work, failed_list=listed, resume=True)
        assert listed.read_text("utf-8") == first
    work.pair("b.png")
    go(work, failed_list=listed, resume=True)
    assert listed.read_text("utf-8") == ""
    go(work, failed_list=listed, resume=True)


# ---------------------------------------------------------------- faults


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(image: Image.Image, out: BinaryIO, *_: object, **__: object) -> None:
    out.write(b"half a picture")
    full()


@pytest.mark.parametrize("where", ["while pixels are written", "when they are flushed to the disk"])
def test_a_full_disk_fails_one_item_and_leaves_nothing_half_written(
    work: Workplace, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        work.pair(name)
    go(work, out=work.root / "whole")

    calls = 0

    def nth_time(turn: int, original: Callable[..., object], fault: Callable[..., None]) -> Callable[..., object]:
        def wrapped(*args: Any, **kwargs: Any) -> object:
            nonlocal calls
            calls += 1
            return fault(*args, **kwargs) if calls == turn else original(*args, **kwargs)

        return wrapped

    if where.startswith("while"):
        monkeypatch.setattr(Image.Image, "save", nth_time(2, Image.Image.save, half_written))
    else:
        # A picture's journal entry is flushed before the picture is.
        monkeypatch.setattr(os, "fsync", nth_time(4, os.fsync, full))
    report, _ = go(work, jobs=1)
    assert statuses(report) == {"a.png": "restored", "b.png": "failed", "c.png": "restored"}
    assert report.items[1].path == str(work.out / "b.png")
    assert "No space left" in str(report.items[1].reason) and "free some room" in str(report.items[1].reason)
    whole = files(work.root / "whole")
    assert files(work.out) == {name: whole[name] for name in ("a.png", "c.png")}


def test_a_full_disk_keeps_the_output_that_was_to_be_replaced(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    work.pair()
    go(work)
    before = files(work.out)
    work.mask("a.png", box(48, 40, 0, 0, 30, 30))
    monkeypatch.setattr(Image.Image, "save", half_written)
    report, _ = go(work, overwrite=True)
    assert statuses(report) == {"a.png": "failed"} and files(work.out) == before


def test_after_a_stop_finished_outputs_are_whole_and_the_rest_is_not_done(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n}.png" for n in range(9)]
    for name in names:
        work.pair(name)
    go(work, out=work.root / "whole")
    computed: list[Event] = []
    asked = threading.Event()

    def note(event: Event) -> None:
        if isinstance(event, TilesDone):
            computed.append(event)

    def stop() -> bool:
        if computed:
            asked.set()
        return bool(computed)

    def read(path: Path, **options: Any) -> Picture:
        assert path.name < "2.png" or asked.wait(60)
        return images.read_picture(path, **options)

    monkeypatch.setattr(bench, "read_picture", read)
    report, events = go(work, stop, emit=note, jobs=1)
    assert report.interrupted and json.loads(report.summary())["interrupted"]
    # Two may have been read before the first was computed; the one that is being read is dropped.
    done = {name for name, status in statuses(report).items() if status == "restored"}
    assert {"0.png"} <= done <= {"0.png", "1.png"}
    assert all(status == "not_done" for name, status in statuses(report).items() if name not in done)
    whole = files(work.root / "whole")
    assert files(work.out) == {name: whole[name] for name in sorted(done)}
    assert [item.name for item in report.items] == names
    last = events[-1]
    assert isinstance(last, RunFinished) and last.not_done == 9 - len(done)


def test_a_stop_with_nothing_left_to_do_leaves_a_complete_run(work: Workplace) -> None:
    work.pair()
    computed: list[Event] = []

    def note(event: Event) -> None:
        if isinstance(event, TilesDone):
            computed.append(event)

    report, _ = go(work, lambda: bool(computed), emit=note)
    assert computed and statuses(report) == {"a.png": "restored"} and not report.interrupted


def test_an_interrupt_in_the_middle_leaves_only_whole_outputs_and_no_thread(work: Workplace) -> None:
    for n in range(18):
        work.pair(f"{n}.png")
    go(work, out=work.root / "whole")
    before = set(threading.enumerate())
    tiles = 0

    def twice(event: Event) -> None:
        nonlocal tiles
        tiles += isinstance(event, TilesDone)
        if tiles == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(work, emit=twice, jobs=2)
    whole = files(work.root / "whole")
    left = files(work.out)
    assert len(left) < 18 and left == {name: whole[name] for name in left}
    for thread in set(threading.enumerate()) - before:
        thread.join(60)  # nobody waits for what is being computed, but it does end
        assert not thread.is_alive(), thread


def test_a_broken_picture_fails_alone(work: Workplace) -> None:
    for name in ("a.png", "b.png", "c.png"):
        work.pair(name)
    data = (work.pictures / "b.png").read_bytes()
    (work.pictures / "b.png").write_bytes(data[: len(data) // 2])
    report, _ = go(work)
    assert statuses(report) == {"a.png": "restored", "b.png": "failed", "c.png": "restored"}
    assert sorted(files(work.out)) == ["a.png", "c.png"]


def test_an_item_error_names_its_file_first() -> None:
    error = ItemError(Path("x/a.png"), "is gone: fetch it again")
    assert str(error) == "x/a.png: is gone: fetch it again" and error.path == "x/a.png"
