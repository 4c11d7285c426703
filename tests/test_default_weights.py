"""The network in the box: what it says of itself, and that the shipped examples come back as when it was new."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pconv_cli import restore_image
from pconv_cli import weights as store
from pconv_cli.cli import app
from pconv_cli.engine import Engine, Tile

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
GOLDEN = Path(__file__).parent / "golden" / "night.png"
LARGEST = 20_000_000
LOSSLESS = {"archive/lighthouse.png": "archive/lighthouse_mask.png", "night.tif": "night.png"}


def read(path: Path, mode: str = "RGB") -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode)).copy()


def entry() -> store.Listed:
    return next(listed for listed in store.listed() if listed.default)


@cache
def engine(weights: str | None, precision: torch.dtype) -> Engine:
    return Engine(store.load_network(weights), torch.device("cpu"), precision, lambda _: None)


def filled(
    weights: str, picture: NDArray[np.uint8], hole: NDArray[np.bool_], precision: torch.dtype = torch.float32
) -> NDArray[np.uint8]:
    height, width = hole.shape
    pixels: NDArray[np.uint8] = engine(weights, precision).fill([Tile(picture, ~hole)], (width, height))[0].pixels
    return pixels


def test_one_entry_is_the_default_and_every_file_is_as_listed() -> None:
    assert sum(listed.default for listed in store.listed()) == 1
    assert [store.verify(listed) for listed in store.listed()] == [None] * len(store.listed())


def test_default_weights_fit_the_box_and_describe_themselves() -> None:
    assert entry().path.stat().st_size <= LARGEST
    header = store.read_header(entry().path)
    assert {"format", "architecture", "name", "licence", "training", "metrics", "summary"} <= header.keys()
    assert header["name"] == entry().name == entry().path.stem
    assert "data" in header["training"] and "by_bucket" in header["metrics"]


def test_golden_picture_through_the_command_line(tmp_path: Path) -> None:
    """Rounding differs between machines: that may cost a pixel two of 255."""
    damaged, mask = EXAMPLES / "damaged" / "night.tif", EXAMPLES / "masks" / "night.png"
    out = tmp_path / "night.png"
    assert app.run(["restore", str(damaged), str(mask), str(out), "--device", "cpu", "--precision", "fp32"]) == 0
    hole = read(mask, "L") > 127
    made, golden = read(out).astype(int), read(GOLDEN).astype(int)
    assert (made[~hole] == read(damaged)[~hole]).all()
    off = np.abs(made - golden)
    worst = off.max()
    assert worst <= 2, f"largest difference {worst}, histogram {np.bincount(off.ravel())[:12].tolist()}"


@pytest.mark.parametrize("name", LOSSLESS)
def test_default_network_comes_closer_to_the_truth_than_the_pyramid(name: str) -> None:
    damaged, truth = read(EXAMPLES / "damaged" / name), read(EXAMPLES / "originals" / name).astype(float)
    hole = read(EXAMPLES / "masks" / LOSSLESS[name], "L") > 127
    network, pyramid = (
        ((filled(weights, damaged, hole)[hole] - truth[hole]) ** 2).mean() for weights in (entry().name, store.NONE)
    )
    assert network < pyramid


HALF = [torch.bfloat16, torch.float16]


def windows() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """A window of each shipped picture, about its damage."""
    masks = EXAMPLES / "masks"
    for path in sorted(path for path in (EXAMPLES / "damaged").rglob("*") if path.is_file()):
        (mask,) = (masks / path.relative_to(EXAMPLES / "damaged")).parent.glob(f"{path.stem}*")
        hole = read(mask, "L") > 127
        rows, columns = np.nonzero(hole)
        top, left = (
            max(0, min(int(np.median(places)) - 80, side - 160))
            for places, side in zip((rows, columns), hole.shape, strict=True)
        )
        part = np.s_[top : top + 160, left : left + 160]
        yield read(path)[part], hole[part]


def test_half_precision_differs_by_less_than_a_level_of_255_in_the_mean_inside_holes() -> None:
    count = 0
    for picture, hole in windows():
        count += int(hole.any())
        exact = filled(entry().name, picture, hole).astype(int)
        for precision in HALF:
            made = filled(entry().name, picture, hole, precision).astype(int)
            assert np.abs(made - exact)[hole].mean() < 1, precision
    assert count > 3


@pytest.mark.parametrize("value", [0, 255, None])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_half_precision_gives_no_nan_and_no_black_whatever_it_is_shown(value: int | None, share: float) -> None:
    """All black, all white, noise; nothing known but one pixel, hardly anything, half of it."""
    rng = np.random.default_rng(0)
    known = rng.random((96, 96)) < share
    known[40, 40] = True
    noise = rng.random((96, 96, 3), np.float32)
    picture = noise if value is None else np.full((96, 96, 3), value / 255, np.float32)
    whole, *halves = (engine(None, dtype).fill([Tile(picture, known)], (96, 96))[0] for dtype in (torch.float32, *HALF))
    for half in halves:
        assert np.isfinite(half.pixels).all() and half.reached.all()
        assert np.abs(half.pixels - whole.pixels)[~known].mean() < 1 / 255


def test_terrain_is_about_as_rough_where_it_was_filled_as_around() -> None:
    rng, side = np.random.default_rng(0), 192
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]).clip(1 / side)
    fractal = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / frequency**2.1)
    slope = np.linspace(0.1, 0.8, side)[None] + 0.01 * fractal / fractal.std()
    picture = slope.astype(np.float32)[..., None].repeat(3, axis=2)
    hole = np.hypot(*(np.mgrid[:side, :side] - side // 2)) < 30
    tile = Tile(picture, ~hole)
    terrain = engine(None, torch.float32).fill([tile], (side, side))[0].pixels[..., 0]
    roughness = np.abs(4 * terrain - sum(np.roll(terrain, by, axis) for by in (1, -1) for axis in (0, 1)))
    assert roughness[hole].mean() < 2 * roughness[20:-20, 20:-20][~hole[20:-20, 20:-20]].mean()


def test_a_lost_corner_of_a_page_is_as_white_as_the_page() -> None:
    picture = np.random.default_rng(0).integers(246, 250, (256, 256, 1), np.uint8).repeat(3, axis=2)
    hole = np.add.outer(np.arange(256), np.arange(256)) > 300
    picture[hole] = 0
    page = restore_image(picture, hole, device="cpu", precision="fp32")
    assert np.abs(page[hole] - 248.0).max() < 8
