"""The Python API: the pixels that the command writes, in the order of what was asked for, and nothing left running."""

from __future__ import annotations

import _thread
import copy
import doctest
import itertools
import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from conftest import box, texture
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

import pconv_cli
from pconv_cli import Restorer, api, restore_image, weights
from pconv_cli import restore as use_case
from pconv_cli.encoders import encoded
from pconv_cli.errors import DeviceError, UsageError, WeightsError
from pconv_cli.images import read_mask
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig
from pconv_cli.pipeline import Limits

pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")

SIZE = WIDTH, HEIGHT = 150, 131
DEEP = box(WIDTH, HEIGHT, 30, 20, 120, 110)  # larger than a tile, so cut, healed, and filled coarse to fine
SPECKS = np.zeros((HEIGHT, WIDTH), np.bool_)
SPECKS[5::17, 3::11] = SPECKS[5::17, 4::11] = True
SETTINGS: dict[str, Any] = {"device": "cpu", "precision": "fp32", "tile_size": 64}
SMALL = {"weights": "none", "device": "cpu", "precision": "fp32"}


def bytes_of(channels: int, seed: int = 0) -> NDArray[np.uint8]:
    made = texture(WIDTH, HEIGHT, channels, seed)
    return made[..., 0] if channels == 1 else made


def shorts(channels: int) -> NDArray[np.uint16]:
    return bytes_of(channels).astype(np.uint16) * 257 - 99


def metres(channels: int = 1) -> NDArray[np.float32]:
    """Numbers far outside of 0 to 1."""
    return (bytes_of(channels).astype(np.float32) - 100) * 31.5


def veiled(pixels: NDArray[Any], value: Any = 0) -> NDArray[Any]:
    """A copy with a corner that shows nothing, and that the holes reach into: the last channel, or all of them."""
    made = pixels.copy()
    (made if made.ndim == 2 or value != 0 else made[..., -1])[90:, 100:] = value
    return made


def partly(pixels: NDArray[Any], value: float) -> NDArray[Any]:
    """A copy with a corner in which one band alone holds nothing."""
    made = pixels.copy()
    made[90:, 100:, 0] = value
    return made


def beside(value: int) -> NDArray[np.uint8]:
    """Values on both sides of one that stands for nothing: a fill would pass through it."""
    made = np.full((HEIGHT, WIDTH), value - 1, np.uint8)
    made[:, WIDTH // 2 :] = value + 1
    made[DEEP] = 200
    return made


# name of the file -> pixels, hole, how the file is written, what the function is told of it
KINDS: dict[str, tuple[NDArray[Any], NDArray[np.bool_], dict[str, Any], dict[str, Any]]] = {
    "rgb.png": (bytes_of(3), DEEP, {}, {}),
    "specks.png": (bytes_of(3), SPECKS, {}, {}),
    "undamaged.png": (bytes_of(3), ~DEEP & DEEP, {}, {}),
    "grey.png": (bytes_of(1), DEEP, {}, {}),
    "grey_alpha.png": (veiled(bytes_of(2)), SPECKS | DEEP, {}, {}),
    "rgba.png": (veiled(bytes_of(4)), DEEP, {}, {}),
    "grey16.png": (shorts(1), DEEP, {}, {}),
    "rgb16.png": (shorts(3), DEEP, {}, {}),
    "rgba16.tif": (veiled(shorts(4)), DEEP, {"colours": 3, "alpha": True}, {}),
    "unit.tif": ((bytes_of(1) / np.float32(255)), DEEP, {}, {}),
    "metres.tif": (metres(), DEEP, {}, {}),
    "holed.tif": (veiled(metres(), np.nan), DEEP, {}, {}),
    "colours.tif": (metres(3), SPECKS, {"colours": 3}, {}),
    "veil.tif": (veiled(metres(4)), DEEP, {"colours": 3, "alpha": True}, {}),
    "named.tif": (veiled(metres(), -9999), DEEP, {"nodata": -9999}, {"nodata": -9999}),
    "named16.tif": (veiled(shorts(1), 65535), DEEP, {"nodata": 65535}, {"nodata": 65535}),
    "beside.tif": (beside(7), DEEP, {"nodata": 7}, {"nodata": 7}),
    "bytes8.tif": ((bytes_of(1) // 2).astype(np.int8) - np.int8(99), DEEP, {}, {}),
    "bands.nodata.tif": (
        partly(metres(3).astype(np.int16), -32768),
        DEEP,
        {"colours": 3, "nodata": -32768},
        {"nodata": -32768},
    ),
    "dem.tif": (veiled(metres().astype(np.int16), -32768), DEEP, {"nodata": -32768}, {"nodata": -32768}),
    "colours16.tif": ((metres(3) * 8).astype(np.int16), SPECKS, {"colours": 3}, {}),
    "veil16.tif": (veiled(metres(4).astype(np.int16)), DEEP, {"colours": 3, "alpha": True}, {}),
    "wide.tif": (metres(2).astype(np.int32) * 2**18, DEEP, {}, {"alpha": False}),
    "unsigned.tif": (
        veiled(shorts(1) * np.uint32(65537), 2**32 - 1),
        DEEP,
        {"nodata": 2**32 - 1},
        {"nodata": 2**32 - 1},
    ),
    "doubles.tif": (
        veiled(metres().astype(np.float64) / 3, -1.7e308),
        DEEP,
        {"nodata": -1.7e308},
        {"nodata": -1.7e308},
    ),
    "unit64.tif": (bytes_of(3) / 255, DEEP, {"colours": 3}, {}),
    "infrared.tif": (bytes_of(4), DEEP, {"colours": 3}, {"alpha": False}),
    "pair.tif": (bytes_of(2), SPECKS, {}, {"alpha": False}),
    "bands.tif": (shorts(5), DEEP, {}, {}),
}


def save(
    path: Path, pixels: NDArray[Any], *, colours: int = 1, alpha: bool = False, nodata: float | None = None
) -> None:
    if path.suffix == ".png":
        planes = pixels.reshape(*pixels.shape[:2], -1)
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[planes.shape[2]]
        path.write_bytes(encoded(planes, mode, "PNG"))
        return
    planes = np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), -1, 0)
    with rasterio.open(
        path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=len(planes), dtype=pixels.dtype.name,
        nodata=nodata, photometric="rgb" if colours == 3 else "minisblack",
    ) as file:  # fmt: skip
        kinds = [ColorInterp.red, ColorInterp.green, ColorInterp.blue] if colours == 3 else [ColorInterp.gray]
        kinds += [ColorInterp.undefined] * (len(planes) - len(kinds))
        if alpha:
            kinds[-1] = ColorInterp.alpha
        file.colorinterp = kinds
        file.write(planes)


def load(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.asarray(np.moveaxis(file.read(), 0, -1).reshape(shape))


def save_mask(path: Path, hole: NDArray[np.bool_]) -> None:
    Image.fromarray(np.where(hole, 255, 0).astype(np.uint8)).save(path)


def command(root: Path, **settings: Any) -> Path:
    """Restore `in` as the command does; where the results are."""
    chosen = use_case.RestoreSettings(**settings)
    todo = use_case.plan(root / "in", root / "masks", str(root / "out"), chosen)
    report = use_case.restore(todo, chosen, lambda event: None)
    assert not report.count("failed"), [item.reason for item in report.items]
    return root / "out"


@pytest.fixture(scope="module")
def written(_network: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of a folder with a picture of each kind, in one run."""
    root = tmp_path_factory.mktemp("command")
    (root / "in").mkdir()
    (root / "masks").mkdir()
    for name, (pixels, hole, how, _) in KINDS.items():
        save(root / "in" / name, pixels, **how)
        save_mask(root / "masks" / f"{Path(name).stem}.png", hole)
    return command(root, **SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def _network(small_weights: Path) -> None:
    SETTINGS["weights"] = str(small_weights)


def pyramid(**options: Any) -> Restorer:
    return Restorer(**{**SMALL, **options})


def damaged(number: int, side: int = 40) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    return texture(side, side, 3, seed=number), box(side, side, 10, 10, 14 + number % 7, 30)


# ---------------------------------------------------------------- the command's own pixels


@pytest.mark.parametrize("name", KINDS)
def test_an_array_becomes_what_the_command_writes_of_such_a_file(written: Path, name: str) -> None:
    pixels, hole, _, told = KINDS[name]
    before = pixels.copy()
    made = restore_image(pixels, hole, **SETTINGS, **told)
    assert made.shape == pixels.shape and made.dtype == pixels.dtype and not np.may_share_memory(made, pixels)
    np.testing.assert_array_equal(made, load(written / name, pixels.shape))
    np.testing.assert_array_equal(pixels, before, "the input is the caller's")
    np.testing.assert_array_equal(made[~hole], pixels[~hole])
    assert "nodata" not in told or not (made[hole] == told["nodata"]).any()
    assert not hole.any() or (made[hole] != pixels[hole]).any(axis=-1).mean() > 0.5, "the test should see a fill"


def test_in_one_stream_each_array_comes_out_as_it_does_alone(written: Path) -> None:
    names = [name for name in KINDS if not KINDS[name][3]]
    with Restorer(**SETTINGS) as restorer:
        results = list(restorer.restore_many(KINDS[name][:2] for name in names))
    assert len(results) == len(names) > 10
    for name, made in zip(names, results, strict=True):
        np.testing.assert_array_equal(made, load(written / name, made.shape), name)


@pytest.mark.parametrize("settings", [{"dilate": 3}, {"linear": True}, {"overlap": 16}, {"padding": "zero"}], ids=str)
def test_a_setting_means_what_the_option_means(tmp_path: Path, settings: dict[str, Any]) -> None:
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    pixels = shorts(3)
    save(tmp_path / "in" / "a.png", pixels)
    save_mask(tmp_path / "masks" / "a.png", SPECKS)
    made = restore_image(pixels, SPECKS, **SETTINGS, **settings)
    np.testing.assert_array_equal(made, load(command(tmp_path, **SETTINGS, **settings) / "a.png", pixels.shape))
    assert not np.array_equal(made, restore_image(pixels, SPECKS, **SETTINGS))


def test_nodata_may_be_any_number() -> None:
    pixels = veiled(metres(), 0.5)
    made = [restore_image(pixels, DEEP, weights="none", nodata=nodata) for nodata in (0.5, Fraction(1, 2))]
    assert np.array_equal(*made)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("nodata", [None, -9999.0])
def test_a_network_of_raw_values_fills_numbers_and_leaves_nothing_where_it_does_not_reach(
    tmp_path: Path, channels: int, nodata: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    net = PartialConvUNet(
        UNetConfig(
            encoder=((6, 5), (9, 3)), channels=channels, norm=False, slope=0.01, values="raw", floor=None,
            mean=(0.0,) * channels, std=(1.0,) * channels,
        )
    ).eval()  # fmt: skip
    weights.write(tmp_path / "net.safetensors", net, net.state_dict(), {"name": "net"}, half=False)
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    pixels = veiled(metres(channels), np.nan if nodata is None else nodata)
    save(tmp_path / "in" / "a.tif", pixels, nodata=nodata)
    save_mask(tmp_path / "masks" / "a.png", DEEP)
    told = {**SETTINGS, "weights": tmp_path / "net.safetensors"}
    made = restore_image(pixels, DEEP, **told, nodata=nodata)
    out = command(tmp_path, **{**told, "weights": str(told["weights"])})
    np.testing.assert_array_equal(made, load(out / "a.tif", pixels.shape))
    left = (np.isnan(made) if nodata is None else made == nodata)[DEEP]
    assert 0 < left.sum() < left.size
    with Restorer(**told, nodata=nodata) as restorer:
        detailed = restorer.restore_detailed(pixels, DEEP)
    assert 0 < detailed.unfilled == left.sum() // channels
    assert detailed.by_pyramid == 0 and detailed.filled.any() and not detailed.filled[~DEEP].any()
    assert "beyond the network's reach" in caplog.text


@pytest.mark.parametrize("name", ["rgb.png", "specks.png", "undamaged.png", "rgba.png", "bands.tif", "beside.tif"])
def test_in_detail_it_tells_what_the_maps_and_the_report_of_the_command_tell(tmp_path: Path, name: str) -> None:
    pixels, hole, how, told = KINDS[name]
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "in" / name, pixels, **how)
    save_mask(tmp_path / "masks" / f"{Path(name).stem}.png", hole)
    maps = {"save_filled": tmp_path / "filled", "save_confidence": tmp_path / "steps"}
    settings = use_case.RestoreSettings(**SETTINGS, **maps)
    todo = use_case.plan(tmp_path / "in", tmp_path / "masks", str(tmp_path / "out"), settings)
    (item,) = use_case.restore(todo, settings, lambda event: None).items
    with Restorer(**SETTINGS, **told) as restorer:
        made = restorer.restore_detailed(pixels, hole)
        np.testing.assert_array_equal(made.image, restorer.restore(pixels, hole))
    assert (made.filled.dtype, made.confidence.dtype) == (np.bool_, np.uint8)
    ((filled,), (steps,)) = (list(folder.iterdir()) for folder in maps.values())
    np.testing.assert_array_equal(made.filled, np.asarray(Image.open(filled)) > 127)
    np.testing.assert_array_equal(made.confidence, np.asarray(Image.open(steps)))
    assert (made.unfilled, made.by_pyramid) == (item.unfilled, item.by_pyramid)
    assert made.seam_ratio == (item.seam_ratio and pytest.approx(item.seam_ratio, rel=1e-3))
    assert (made.seam_ratio is not None) == (hole is DEEP)


# ---------------------------------------------------------------- arrays


def test_doubles_keep_their_bits_outside_the_mask_and_are_filled_as_floats_are() -> None:
    pixels = np.random.default_rng(0).normal(100, 9, (HEIGHT, WIDTH, 4))
    pixels[..., 3] = 1 / 3
    made = restore_image(pixels, SPECKS, **SMALL)
    assert made.dtype == np.float64
    np.testing.assert_array_equal(made[~SPECKS], pixels[~SPECKS])
    np.testing.assert_array_equal(made[..., 3], pixels[..., 3], "alpha is as it was, inside too")
    single = restore_image(pixels.astype(np.float32), SPECKS, **SMALL)
    np.testing.assert_allclose(made[SPECKS][:, :3], single[SPECKS][:, :3], rtol=1e-6)


@pytest.mark.parametrize("nodata", [None, -9999])
def test_halves_are_filled_as_floats_and_keep_their_bits_outside_the_mask(nodata: float | None) -> None:
    numbers = np.random.default_rng(0).normal(0, 60000, (HEIGHT, WIDTH))
    pixels = np.clip(numbers, -65504, 65504).astype(np.float16)
    pixels[90:, 100:] = np.inf if nodata is None else nodata
    pixels[0] = np.arange(0x7C00, 0x7C00 + WIDTH, dtype=np.uint16).view(np.float16)  # infinite, and NaN of many kinds
    pixels[1, :5] = [np.nan, np.inf, -np.inf, -0.0, 6e-8]
    made = restore_image(pixels, DEEP, **SMALL, nodata=nodata)
    assert made.dtype == np.float16 and np.isfinite(made[DEEP]).all()
    np.testing.assert_array_equal(made[~DEEP].view(np.uint16), pixels[~DEEP].view(np.uint16))
    single = restore_image(pixels.astype(np.float32), DEEP, **SMALL, nodata=nodata and float(np.float16(nodata)))
    expected = np.clip(single[DEEP], -65504, 65504).astype(np.float16)
    expected[expected == np.float16(nodata or np.nan)] = -9992  # the next to what stands for nothing
    np.testing.assert_array_equal(made[DEEP], expected)


def test_no_fill_in_halves_is_the_value_for_nothing() -> None:
    pixels = np.where(np.arange(WIDTH) < WIDTH // 2, -9992, -10008) * np.ones((HEIGHT, 1))
    made = restore_image(pixels.astype(np.float16), DEEP, **SMALL, nodata=-9999)  # which is -10000 in them
    assert not (made[DEEP] == -10000).any() and (np.abs(made[DEEP] + 10000) <= 8).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int8, np.int32, np.int64, np.uint32, np.float16, np.float64])
def test_a_mask_of_zeros_and_ones_or_of_whole_0_and_255_marks_what_is_not_0(kind: Any) -> None:
    with pyramid() as restorer:
        expected = restorer.restore(PIXELS, HOLE)
        for mask in (HOLE.astype(kind), HOLE[..., None].astype(kind), np.where(HOLE, kind(1), kind(0))):
            np.testing.assert_array_equal(restorer.restore(PIXELS, mask), expected)
        np.testing.assert_array_equal(restorer.restore(PIXELS, np.zeros_like(HOLE, kind)), PIXELS)
        if np.issubdtype(kind, np.integer) and kind is not np.int8:
            np.testing.assert_array_equal(restorer.restore(PIXELS, HOLE * kind(255)), expected)


def test_what_numpy_sees_an_array_in_is_taken_and_an_array_given() -> None:
    with pyramid() as restorer:
        expected = restorer.restore(PIXELS, HOLE)
        tensors, pictures = (torch.from_numpy(PIXELS), torch.from_numpy(HOLE)), map(Image.fromarray, (PIXELS, HOLE))
        for made in restorer.restore_many([tensors, tuple(pictures), (PIXELS, torch.from_numpy(HOLE).float())]):
            assert type(made) is np.ndarray
            np.testing.assert_array_equal(made, expected)
            assert not np.may_share_memory(made, PIXELS)
    sizes = [api._cost((image, HOLE)) for image in (PIXELS, torch.from_numpy(PIXELS), Image.fromarray(PIXELS))]
    assert len(set(sizes)) == 1 and sizes[0] > 1


@pytest.mark.parametrize(
    "turned",
    [
        lambda a: a[..., ::-1].copy()[..., ::-1], np.asfortranarray, lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()),
    ],
    ids=["channels backwards", "columns first", "upside down", "other order of bytes"],
)  # fmt: skip
def test_how_an_array_lies_in_memory_makes_no_difference(turned: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    pixels = shorts(3)
    other = turned(pixels)
    other.flags.writeable = False
    made = restore_image(other, SPECKS, **SMALL)
    assert made.dtype == other.dtype and made.flags.writeable
    np.testing.assert_array_equal(made, restore_image(pixels, SPECKS, **SMALL))


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_of_grey_or_colours_is_read_as_a_mask_file_is(tmp_path: Path, channels: int, dtype: Any) -> None:
    drawn = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, max(channels, 1))).astype(dtype)
    drawn = drawn * dtype(257 if dtype is np.uint16 else 1)
    drawn[60:, :70] = drawn[:20] = 0
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[drawn.shape[2]]
    (tmp_path / "mask.png").write_bytes(encoded(drawn, mode, "PNG"))
    hole = read_mask(tmp_path / "mask.png").hole
    pixels = bytes_of(3)
    made = restore_image(pixels, drawn[..., 0] if channels == 0 else drawn, **SMALL)
    np.testing.assert_array_equal(made, restore_image(pixels, hole, **SMALL))
    assert 0.05 < hole.mean() < 0.6


PIXELS, HOLE = damaged(0)


@pytest.mark.parametrize(
    ("image", "mask", "error", "says"),
    [
        (PIXELS.tolist(), HOLE, TypeError, "the image is a list"),
        (torch.zeros(40, 40, requires_grad=True), HOLE, TypeError, "the image is a Tensor that numpy makes no array"),
        (Image.fromarray(PIXELS).convert("P"), HOLE, TypeError, 'the image is a picture of mode P: image.convert'),
        (PIXELS, Image.fromarray(PIXELS).convert("HSV"), TypeError, "the mask is a picture of mode HSV"),
        ("a.png", HOLE, TypeError, "the image is a str, not an array: read the file first"),
        (None, HOLE, TypeError, "the image is None, not an array$"),
        (PIXELS, None, TypeError, "the mask is None, not an array$"),
        (PIXELS, object(), TypeError, "the mask is of the type object, not an array$"),
        (PIXELS, np.float64(0), ValueError, "height and width must agree"),
        (np.ma.masked_array(PIXELS), HOLE, TypeError, r"masked array: image\.filled"),
        (PIXELS.astype(np.int64), HOLE, TypeError, "the image is int64, not integers of 8, 16 or 32 bits, float16, "),
        (PIXELS.astype(np.uint64), HOLE, TypeError, "the image is uint64, not integers"),
        (PIXELS.astype(np.complex64), HOLE, TypeError, "the image is complex64, not integers"),
        (PIXELS > 9, HOLE, TypeError, "the image is bool"),
        (PIXELS[:0], HOLE[:0], ValueError, r"the shape \(0, 40, 3\)"),
        (PIXELS[None], HOLE, ValueError, r"the shape \(1, 40, 40, 3\)"),
        (PIXELS[0, 0], HOLE, ValueError, r"the shape \(3,\)"),
        (PIXELS.transpose(2, 0, 1), HOLE, ValueError, r"mask has the shape \(40, 40\), the image \(3, 40, 40\)"),
        (PIXELS, HOLE[1:], ValueError, "height and width must agree"),
        (PIXELS, HOLE[None], ValueError, "height and width must agree"),
        (PIXELS, HOLE.tolist(), TypeError, "the mask is a list"),
        (PIXELS, HOLE * np.float32(0.5), TypeError, r"the mask is float32, and its values are not all 0 or 1: .* > 0"),
        (PIXELS, HOLE * np.float32(255), TypeError, "the mask is float32"),
        (PIXELS, np.where(HOLE, np.nan, 0), TypeError, "the mask is float64"),
        (PIXELS, HOLE.astype(np.int64) * 2, TypeError, "the mask is int64"),
        (PIXELS, HOLE.astype(np.int8) * -1, TypeError, "the mask is int8"),
        (PIXELS, HOLE.astype(object), TypeError, "the mask is object"),
        (PIXELS, np.repeat(HOLE[..., None], 3, 2), ValueError, "the mask has 3 channels"),
        (PIXELS, np.ones_like(HOLE), ValueError, "nothing of the image is known"),
        (np.full((40, 40), np.nan, np.float32), HOLE, ValueError, "nothing of the image is known"),
    ],
)  # fmt: skip
def test_what_cannot_be_restored_is_refused_in_a_sentence(image: Any, mask: Any, error: type, says: str) -> None:
    with pyramid() as restorer, pytest.raises(error, match=f"^{says}|{says}"):
        restorer.restore(image, mask)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"weights": "no-such"}, WeightsError),
        ({"device": "abacus"}, DeviceError), ({"precision": "fp3"}, DeviceError),
        ({"tile_size": 3}, UsageError), ({"overlap": 300}, UsageError), ({"dilate": -1}, UsageError),
        ({"batch_size": 0}, UsageError), ({"batch_size": "many"}, TypeError),
        ({"tile_size": True}, TypeError), ({"batch_size": True}, TypeError), ({"dilate": True}, TypeError),
        ({"tile_size": 500.5}, TypeError), ({"overlap": "8"}, TypeError), ({"dilate": 1.5}, TypeError),
        ({"alpha": "yes"}, TypeError), ({"linear": "no"}, TypeError), ({"nodata": "x"}, TypeError),
        ({"device": torch.device("meta")}, DeviceError), ({"padding": "none"}, UsageError),
    ],
)  # fmt: skip
def test_what_a_restorer_cannot_be_made_of_is_refused_when_it_is_made(options: dict[str, Any], error: type) -> None:
    with pytest.raises(error, match=rf"^{next(iter(options))}|^no-such: ") as caught:
        Restorer(**{**SMALL, **options})
    assert "--" not in str(caught.value) and "\n" not in str(caught.value), "here there are no options"


def test_numbers_and_devices_of_other_libraries_will_do() -> None:
    told = {"device": torch.device("cpu"), "batch_size": "auto", "tile_size": np.int64(64), "nodata": np.float32(7)}
    with pyramid(**told, alpha=np.bool_(False)) as other, pyramid(tile_size=64, nodata=7, alpha=False) as plain:
        pixels, hole = beside(7), DEEP
        np.testing.assert_array_equal(other.restore(pixels, hole), plain.restore(pixels, hole))
        assert repr(other) == repr(plain) == "Restorer(weights='none', device='cpu', precision='fp32')"


def test_a_device_without_memory_is_an_error_that_names_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any) -> Any:
        raise DeviceError("cpu has too little free memory; free some, or use --device cpu")

    with pyramid() as restorer:
        monkeypatch.setattr(restorer._engine, "fill", none_left)
        with pytest.raises(DeviceError, match=r"or use device cpu$"):
            restorer.restore(PIXELS, HOLE)


def test_a_mask_that_looks_like_a_mistake_is_mentioned_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pyramid() as restorer:
        unchanged = restorer.restore(PIXELS, HOLE * np.uint8(2))
        assert "marks nothing" in caplog.text
        list(restorer.restore_many([(PIXELS, HOLE), (PIXELS, ~HOLE)]))
    np.testing.assert_array_equal(unchanged, PIXELS)
    assert [record.name for record in caplog.records] == ["pconv_cli"] * 2
    assert "pairs[1]: the mask marks 95% as damaged" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


# ---------------------------------------------------------------- streams


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "compute", "finish"))]


def end_of_pairs() -> None:
    """What takes pairs ends by itself, though on a machine that is busy not at once."""
    for thread in threading.enumerate():
        if thread.name == "pairs":
            thread.join(20)
            assert not thread.is_alive()


def test_results_come_in_order_though_a_large_picture_takes_longer_than_those_after_it() -> None:
    pairs = [(texture(500, 500), box(500, 500, 50, 50, 450, 450)), *(damaged(number) for number in range(1, 12))]
    with pyramid() as restorer:
        results = list(restorer.restore_many(pairs))
        assert [made.shape for made in results] == [image.shape for image, _ in pairs]
        for made, pair in zip(results, pairs, strict=True):
            np.testing.assert_array_equal(made, restorer.restore(*pair))


def test_no_more_pairs_are_taken_than_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that wait for one before them count too."""
    room, taken, given, most = 9, 0, 0, 0
    rest, all_others = itertools.count(2), threading.Event()
    write = api._Arrays.write

    def slowly(self: Any, work: Any) -> Any:
        if work.name == "pairs[0]: ":
            assert all_others.wait(20), "as many as there is room for should be done meanwhile"
        elif next(rest) == room:
            all_others.set()
        return write(self, work)

    def pairs() -> Iterator[Any]:
        nonlocal taken, most
        for number in range(60):
            taken += 1
            most = max(most, taken - given)
            yield damaged(number)

    monkeypatch.setattr(api._Arrays, "write", slowly)
    limits = Limits(readers=2, ahead=1000, bytes=room * api._cost(damaged(0)))
    monkeypatch.setattr(api, "in_flight", lambda engine: limits)
    with pyramid() as restorer:
        for _ in restorer.restore_many(pairs()):
            given += 1
    assert (given, taken, most) == (60, 60, room)


def test_leaving_the_loop_early_ends_all_threads_and_takes_no_more_pairs() -> None:
    taken = []

    def pairs() -> Iterator[Any]:
        for number in range(10**6):
            taken.append(number)
            yield damaged(number)

    with pyramid() as restorer:
        for made in restorer.restore_many(pairs()):
            assert made.shape == (40, 40, 3) and names_of_threads()
            break
        assert not names_of_threads()
        end_of_pairs()
        assert len(taken) < 1000
        assert restorer.restore(PIXELS, HOLE).shape == PIXELS.shape, "it can go on with others"
    assert not names_of_threads()


def test_a_source_may_wait_for_a_result() -> None:
    given = threading.Semaphore()

    def pairs() -> Iterator[Any]:
        for number in range(3):
            assert given.acquire(timeout=20), "each result should be given before the next pair is there"
            yield damaged(number)

    with pyramid() as restorer:
        for _ in restorer.restore_many(pairs()):
            given.release()
        assert not names_of_threads()
        end_of_pairs()


def test_a_source_that_waits_is_not_waited_for_when_the_stream_is_left() -> None:
    left, ended = threading.Event(), threading.Event()
    asked = []

    def pairs() -> Iterator[Any]:
        try:
            yield damaged(0)
            assert left.wait(20), "the loop should be left meanwhile"
            yield damaged(1)
            asked.append(2)
        finally:
            ended.set()

    with pyramid() as restorer:
        for _ in restorer.restore_many(pairs()):
            break
        assert not names_of_threads()
        left.set()
        end_of_pairs()
        assert ended.is_set() and not asked


def test_ctrl_c_is_heard_while_a_source_waits() -> None:
    interrupted = threading.Event()

    def pairs() -> Iterator[Any]:
        yield damaged(0)
        _thread.interrupt_main()
        assert interrupted.wait(20), "it should be heard meanwhile"

    given: list[Any] = []
    with pyramid() as restorer, pytest.raises(KeyboardInterrupt):
        given.extend(restorer.restore_many(pairs()))
    interrupted.set()


def test_a_source_computes_with_as_many_of_torchs_own_threads_as_the_caller() -> None:
    told = []

    def pairs() -> Iterator[Any]:
        for number in range(40):
            yield damaged(number)
        told.append(torch.get_num_threads())

    torch.set_num_threads(3)
    try:
        with pyramid() as restorer:
            list(restorer.restore_many(pairs()))
        assert told == [3]
    finally:
        torch.set_num_threads(1)


def test_an_error_is_raised_when_it_is_its_turn_and_names_the_pair() -> None:
    pairs = [damaged(0), damaged(1), (PIXELS, HOLE[1:]), damaged(3)]
    given: list[Any] = []
    with pyramid() as restorer:
        with pytest.raises(ValueError, match=r"^pairs\[2\]: the mask has the shape"):
            given.extend(restorer.restore_many(pairs))
        assert len(given) == 2 and not names_of_threads()


def test_with_return_exceptions_the_others_go_on() -> None:
    pairs: list[Any] = [damaged(0), (PIXELS, HOLE[1:]), 7, damaged(3), (PIXELS.astype(int), HOLE)]
    with pyramid() as restorer:
        results = list(restorer.restore_many(pairs, return_exceptions=True))
        np.testing.assert_array_equal(results[3], restorer.restore(*damaged(3)))
    assert [type(made) for made in results] == [np.ndarray, ValueError, TypeError, np.ndarray, TypeError]
    assert str(results[2]) == "pairs[2]: not a pair of an image and a mask"


def test_what_the_callers_iterable_raises_comes_after_the_results_of_what_it_gave() -> None:
    def pairs() -> Iterator[Any]:
        yield damaged(0)
        yield damaged(1)
        raise LookupError("no third")

    given: list[Any] = []
    with pyramid() as restorer, pytest.raises(LookupError, match="no third"):
        given.extend(restorer.restore_many(pairs(), return_exceptions=True))
    assert len(given) == 2 and not names_of_threads()


def test_several_threads_may_share_a_restorer() -> None:
    with pyramid() as restorer:
        alone = [restorer.restore(*damaged(number)) for number in range(8)]
        found: dict[int, Any] = {}

        def work(first: int) -> None:
            found[first] = list(restorer.restore_many(damaged(number) for number in range(first, first + 4)))

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 2, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for first, results in found.items():
        np.testing.assert_array_equal(results, alone[first : first + 4])
    assert len(found) == 3


@pytest.mark.parametrize("take", [pickle.dumps, copy.deepcopy])
def test_what_would_take_a_restorer_to_another_process_is_told_to_make_one_there(take: Callable[[Any], Any]) -> None:
    with pyramid() as restorer, pytest.raises(TypeError, match="neither pickled nor copied: make one in each process"):
        take(restorer)


def test_threads_that_the_caller_starts_later_begin_with_as_many_of_torchs_own_as_before() -> None:
    def told() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    torch.set_num_threads(3)
    try:
        with pyramid() as restorer:
            list(restorer.restore_many(damaged(number) for number in range(6)))
        assert (torch.get_num_threads(), told()) == (3, 3)
    finally:
        torch.set_num_threads(1)


def test_a_stream_may_be_used_within_another() -> None:
    with pyramid() as restorer:
        for made in restorer.restore_many([damaged(0), damaged(1)]):
            np.testing.assert_array_equal(restorer.restore(*damaged(2)), restorer.restore(*damaged(2)))
            assert made.shape == (40, 40, 3)


def test_what_is_closed_says_so() -> None:
    restorer = pyramid()
    going = restorer.restore_many(damaged(number) for number in range(50))
    next(going)
    restorer.close()
    restorer.close()
    with pytest.raises(RuntimeError, match="is closed") as caught:
        next(going)
    assert not names_of_threads(), f"though somebody may keep the error: {caught.value}"
    for ask in (lambda: restorer.restore(PIXELS, HOLE), lambda: restorer.restore_many([]), restorer.__enter__):
        with pytest.raises(RuntimeError, match="is closed"):
            ask()


def test_the_bar_counts_to_the_number_of_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    with pyramid() as restorer:
        assert len(list(restorer.restore_many([damaged(0), damaged(1)]))) == 2
        assert capsys.readouterr() == ("", "")
        assert len(list(restorer.restore_many([damaged(0), damaged(1)], progress=True))) == 2
    shown = capsys.readouterr()
    assert not shown.out and "2/2" in shown.err


def test_a_restorer_tells_what_it_computes_with() -> None:
    with Restorer(device="cpu", precision="bf16") as restorer:
        entry = next(entry for entry in weights.listed() if entry.default)
        assert (restorer.device, restorer.precision) == ("cpu", "bf16")
        assert (restorer.weights, restorer.weights_sha256) == (entry.name, entry.sha256)


# ---------------------------------------------------------------- the package


def test_the_names_of_the_package_are_loaded_when_they_are_asked_for() -> None:
    program = """
import sys
import pconv_cli
loaded = {name for name in sys.modules if name.startswith(("pconv_cli", "numpy", "torch", "PIL"))}
assert loaded == {"pconv_cli"}, loaded
assert {"Restored", "Restorer", "restore_image", "__version__"} == set(pconv_cli.__all__) <= set(dir(pconv_cli))
assert loaded == {name for name in sys.modules if name.startswith(("pconv_cli", "numpy", "torch", "PIL"))}
from pconv_cli import *
assert Restorer.__module__ == restore_image.__module__ == "pconv_cli.api"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_the_package_does_not_have_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'restore_images'"):
        _ = pconv_cli.restore_images  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["restore_image", "Restorer"])
def test_the_examples_in_the_docstrings_run_and_give_what_they_show(name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(api, name), name)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
