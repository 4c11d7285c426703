"""Networks of raw values and of single channels: pictures go through the whole tool in their own range.

The measure is the network itself in float64 over the whole picture, without any of the tool in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from pconv_cli import weights
from pconv_cli.cli.app import main
from pconv_cli.layers import Alone, Layer, Palette, Raw, View, layers, ranged, viewed
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig
from pconv_cli.tiles import plan_tiles

pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")

SIZE = (61, 83)
HOLE = np.zeros(SIZE, np.bool_)
HOLE[5:9, 10:70] = HOLE[30:61, 40:83] = True  # the second reaches the border, and is deeper than the network sees
Run = Callable[..., dict[str, Any]]


def network(channels: int = 1, **options: Any) -> PartialConvUNet:
    scale = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "values": "raw", **options}
    made = PartialConvUNet(UNetConfig(encoder=((6, 5), (9, 3)), channels=channels, norm=False, slope=0.01, **scale))
    for layer in made.parameters():
        if layer.ndim == 1:
            torch.nn.init.normal_(layer, std=0.2)
    return made.eval()


def temperatures(channels: int = 1) -> NDArray[np.float32]:
    down, across = np.mgrid[: SIZE[0], : SIZE[1]]
    field = 270 + 25 * np.sin(down / 9) * np.cos(across / 13) + 0.01 * across
    return np.stack([field * (1 - 0.3 * i) for i in range(channels)], axis=-1).astype(np.float32)


def expected(net: PartialConvUNet, values: NDArray[Any], hole: NDArray[np.bool_]) -> tuple[NDArray[Any], Any]:
    """What the network makes of the whole picture in float64, and where it reaches."""
    double = PartialConvUNet(net.config).double()
    double.load_state_dict(net.state_dict())
    image = torch.from_numpy(np.where(hole[..., None], 0, values).astype(np.float64)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        output, reached = double(image, torch.from_numpy(~hole)[None, None].double())
    return output[0].permute(1, 2, 0).numpy(), reached[0, 0].numpy() > 0


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    height, width, bands = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype=pixels.dtype.name,
        **{"photometric": "minisblack", **options},
    ) as file:  # fmt: skip
        file.write(pixels.transpose(2, 0, 1))
    return path


def load(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.asarray(file.read().transpose(1, 2, 0))


@pytest.fixture
def net(tmp_path: Path) -> Iterator[PartialConvUNet]:
    made = network()
    weights.write(tmp_path / "net.safetensors", made, made.state_dict(), {"name": "net"}, half=False)
    yield made


@pytest.fixture(params=["restore", "tile"])
def run(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs either command on a picture; gives its report of it."""

    def go(picture: Path, mask: Path | None, *options: str, code: int = 0, size: int = 512) -> dict[str, Any]:
        out, common = str(tmp_path / "out.tif"), ["--weights", str(tmp_path / "net.safetensors"), "--json", *options]
        common += ["--tile-size" if request.param == "restore" else "--size", str(size)]
        if request.param == "restore":
            places = [str(picture), *([] if mask is None else [str(mask)]), out]
            marked = [] if mask or "--mask-from" in options else ["--mask-from", "nodata"]
            arguments = ["restore", *places, *marked, *common]
        else:
            arguments = ["tile", str(picture), "-o", out, *(["--mask", str(mask)] if mask else []), *common]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capsys.readouterr()
        assert end.value.code == code, captured.err
        return {**json.loads(captured.out.splitlines()[0]), "err": captured.err}

    return go


def mask_file(folder: Path, hole: NDArray[np.bool_]) -> Path:
    Image.fromarray(hole.astype(np.uint8) * 255).save(folder / "mask.png")
    return folder / "mask.png"


@pytest.mark.parametrize("nothing", [np.nan, -9999.0])
def test_holes_of_nan_or_nodata_get_the_networks_own_numbers_and_what_it_does_not_reach_stays_nodata(
    tmp_path: Path, net: PartialConvUNet, run: Run, nothing: float
) -> None:
    values = temperatures()
    output, reached = expected(net, values, HOLE)
    values[HOLE] = nothing
    declared = {} if np.isnan(nothing) else {"nodata": nothing}
    report = run(save(tmp_path / "in.tif", values, **declared), None)
    after = load(tmp_path / "out.tif")
    assert after.dtype == np.float32 and np.array_equal(after[~HOLE], values[~HOLE])
    filled = HOLE & reached
    assert np.abs(after[filled] - output[filled]).max() < 2e-7 * np.abs(output[filled]).max()
    assert output[filled].min() < 0 or output[filled].max() > 1, "else a clipped result could pass"
    left = HOLE & ~reached
    assert left.any() and filled.any()
    assert np.isnan(after[left]).all() if np.isnan(nothing) else (after[left] == nothing).all()
    assert report["unfilled"] == left.sum() and report["by_pyramid"] == 0
    assert any(f"{left.sum()} damaged values" in notice for notice in report["notices"])
    assert "values as they are" in report["space"]


@pytest.mark.parametrize("nothing", [np.nan, -9999.0])
def test_bands_with_gaps_of_their_own_are_filled_there_and_nowhere_else(
    tmp_path: Path, net: PartialConvUNet, run: Run, nothing: float
) -> None:
    values, holes = temperatures(3), np.zeros((*SIZE, 3), np.bool_)
    holes[5:12, 5:20, 0] = holes[8:15, 10:30, 1] = holes[:, :, 2] = True  # two overlap; of one there is nothing
    holes[40:, 60:, 2] = False
    wanted = [expected(net, values[..., i : i + 1], holes[..., i]) for i in range(3)]
    values[holes] = nothing
    declared = {} if np.isnan(nothing) else {"nodata": nothing}
    report = run(save(tmp_path / "in.tif", values, **declared), None)
    after = load(tmp_path / "out.tif")
    assert np.array_equal(after[~holes], values[~holes])
    for band, (output, reached) in enumerate(wanted):
        filled = holes[..., band] & reached
        assert np.abs(after[filled][:, band] - output[filled][:, 0]).max() < 2e-7 * np.abs(output[filled]).max()
    left = sum((holes[..., band] & ~reached).sum() for band, (_, reached) in enumerate(wanted))
    assert report["unfilled"] == left == (np.isnan(after) if np.isnan(nothing) else after == nothing).sum() > 0


def test_a_value_that_only_the_user_names_stands_for_nothing_and_stays_so(
    tmp_path: Path, net: PartialConvUNet, run: Run
) -> None:
    values = temperatures()
    output, reached = expected(net, values, HOLE)
    values[HOLE] = -9999
    run(save(tmp_path / "in.tif", values), None, "--mask-from", "nodata=-9999")
    after = load(tmp_path / "out.tif")
    filled = HOLE & reached
    assert np.abs(after[filled] - output[filled]).max() < 2e-7 * np.abs(output[filled]).max()
    assert (after[HOLE & ~reached] == -9999).all() and np.array_equal(after[~HOLE], values[~HOLE])


def test_whole_numbers_with_a_nodata_value_keep_it_where_nothing_can_be_told(
    tmp_path: Path, net: PartialConvUNet, run: Run
) -> None:
    values = (temperatures() * 40).astype(np.uint16)
    output, reached = expected(net, values, HOLE)
    values[HOLE] = 7
    report = run(save(tmp_path / "in.tif", values, nodata=7), None)
    after, filled = load(tmp_path / "out.tif"), HOLE & reached
    assert np.abs(after[filled] - np.rint(output[filled]).clip(0, 65535)).max() <= 1
    assert (after[filled] != 7).all() and (after[HOLE & ~reached] == 7).all()
    assert report["unfilled"] == (HOLE & ~reached).sum() and report["by_pyramid"] == 0


def test_a_picture_without_any_value_fails_in_one_line(tmp_path: Path, net: PartialConvUNet, run: Run) -> None:
    report = run(save(tmp_path / "in.tif", np.full((*SIZE, 1), np.nan, np.float32)), None, code=1)
    assert "marks the whole picture as damaged" in report["err"] and not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("nodata", [None, -9999.0])
def test_a_mask_may_mark_numbers_and_what_is_not_reached_becomes_nothing(
    tmp_path: Path, net: PartialConvUNet, run: Run, nodata: float | None
) -> None:
    values = temperatures()
    output, reached = expected(net, values, HOLE)
    values[HOLE] = 1e6  # damaged, and not to be seen
    declared = {} if nodata is None else {"nodata": nodata}
    run(save(tmp_path / "in.tif", values, **declared), mask_file(tmp_path, HOLE))
    after = load(tmp_path / "out.tif")
    filled, left = HOLE & reached, after[HOLE & ~reached]
    assert np.abs(after[filled] - output[filled]).max() < 2e-7 * np.abs(output[filled]).max()
    assert (np.isnan(left) if nodata is None else left == nodata).all() and np.array_equal(after[~HOLE], values[~HOLE])


def test_nan_beside_the_mask_is_unknown_to_the_network_and_stays(
    tmp_path: Path, net: PartialConvUNet, run: Run
) -> None:
    values, small = temperatures(), np.zeros(SIZE, np.bool_)
    small[10:20, 10:20] = True
    output, _ = expected(net, values, small | HOLE)
    values[HOLE & ~small] = np.nan
    run(save(tmp_path / "in.tif", values), mask_file(tmp_path, small))
    after = load(tmp_path / "out.tif")
    assert np.abs(after[small] - output[small]).max() < 2e-7 * np.abs(output[small]).max()
    assert np.isnan(after[HOLE & ~small]).all() and not np.isnan(after[~HOLE | small]).any()


@pytest.mark.parametrize("nothing", [np.nan, -9999.0])
def test_what_one_band_lacks_beside_the_mask_is_known_of_the_others(
    tmp_path: Path, net: PartialConvUNet, run: Run, nothing: float
) -> None:
    values, small = temperatures(2), np.zeros(SIZE, np.bool_)
    small[10:20, 10:20] = True
    outputs = [expected(net, values[..., i : i + 1], hole)[0] for i, hole in enumerate((small | HOLE, small))]
    values[HOLE & ~small, 0] = nothing
    values[small] = 1e6
    run(save(tmp_path / "in.tif", values, nodata=nothing), mask_file(tmp_path, small))
    after = load(tmp_path / "out.tif")
    for i, output in enumerate(outputs):
        assert np.abs(after[small, i] - output[small, 0]).max() < 2e-7 * np.abs(output[small]).max()
    np.testing.assert_array_equal(after[~small], values[~small])


def test_every_band_is_filled_alone_by_a_network_of_one_channel(tmp_path: Path, net: PartialConvUNet, run: Run) -> None:
    values = temperatures(3)
    wanted = np.concatenate([expected(net, values[..., i : i + 1], HOLE)[0] for i in range(3)], axis=-1)
    reached = expected(net, values[..., :1], HOLE)[1]
    values[HOLE] = np.nan
    run(save(tmp_path / "in.tif", values), None)
    filled = HOLE & reached
    assert np.abs(load(tmp_path / "out.tif")[filled] - wanted[filled]).max() < 2e-7 * np.abs(wanted[filled]).max()


def test_several_channels_go_together_where_the_network_takes_as_many(tmp_path: Path, run: Run) -> None:
    net = network(2)
    weights.write(tmp_path / "net.safetensors", net, net.state_dict(), {}, half=False)
    values = temperatures(2)
    output, reached = expected(net, values, HOLE)
    values[HOLE] = np.nan
    run(save(tmp_path / "in.tif", values), None)
    filled = HOLE & reached
    assert np.abs(load(tmp_path / "out.tif")[filled] - output[filled]).max() < 2e-7 * np.abs(output[filled]).max()
    odd = save(tmp_path / "odd.tif", temperatures(3))
    refused = run(odd, mask_file(tmp_path, HOLE), "--overwrite", code=1)
    assert "has 3 channels, and these weights take 2 at a time" in refused["err"]


def test_a_single_field_is_shown_to_a_network_of_three_channels_as_three_equal_ones(tmp_path: Path, run: Run) -> None:
    net = network(3)
    weights.write(tmp_path / "net.safetensors", net, net.state_dict(), {}, half=False)
    values = temperatures()
    output, reached = expected(net, values.repeat(3, axis=-1), HOLE)
    values[HOLE] = np.nan
    run(save(tmp_path / "in.tif", values), None)
    filled, middle = HOLE & reached, output[..., 1:2]
    assert np.abs(load(tmp_path / "out.tif")[filled] - middle[filled]).max() < 2e-7 * np.abs(middle[filled]).max()


def test_whole_numbers_without_a_nodata_value_are_filled_to_the_end(
    tmp_path: Path, net: PartialConvUNet, run: Run
) -> None:
    values = (temperatures() * 40).astype(np.uint16)
    report = run(save(tmp_path / "in.tif", values), mask_file(tmp_path, HOLE))
    output, reached = expected(net, values, HOLE)
    after, filled = load(tmp_path / "out.tif"), HOLE & reached
    assert np.abs(after[filled] - np.rint(output[filled]).clip(0, 65535)).max() <= 1
    assert report["by_pyramid"] == (HOLE & ~reached).sum() and report["unfilled"] == 0
    around = values[~HOLE]
    assert (after[HOLE & ~reached] >= around.min()).all() and (after[HOLE & ~reached] <= around.max()).all()


def test_a_picture_larger_than_a_tile_has_no_nan_but_where_it_is_reported(
    tmp_path: Path, net: PartialConvUNet, run: Run
) -> None:
    values = temperatures()
    values[HOLE] = np.nan
    report = run(save(tmp_path / "in.tif", values), None, size=40)
    after = load(tmp_path / "out.tif")
    assert report["windows"] > 1
    assert np.isnan(after[HOLE]).sum() == report["unfilled"] > 0
    assert np.array_equal(after[~HOLE], values[~HOLE]) and np.isfinite(after[5:9, 10:70]).all()


def test_a_picture_that_one_window_can_see_is_seen_whole() -> None:
    plan = plan_tiles(HOLE, 128, whole=True)
    assert [(window.width, window.height) for window in plan.windows] == [SIZE[::-1]]
    assert len(plan_tiles(HOLE, 40, whole=True).windows) > 1


def test_a_network_of_tones_in_one_channel_fills_colours_one_by_one(tmp_path: Path, run: Run) -> None:
    net = network(values="unit", mean=(0.5,), std=(0.25,))
    weights.write(tmp_path / "net.safetensors", net, net.state_dict(), {}, half=False)
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    report = run(save(tmp_path / "in.tif", values, photometric="rgb"), mask_file(tmp_path, HOLE), "--precision", "fp32")
    after = load(tmp_path / "out.tif")
    for channel in range(3):
        output, reached = expected(net, values[..., channel : channel + 1] / 255, HOLE)
        filled = HOLE & reached
        wanted = np.rint(output[filled][:, 0].clip(0, 1) * 255)
        assert np.abs(after[filled][:, channel] - wanted).max() <= 1
    assert report["by_pyramid"] > 0 and np.array_equal(after[~HOLE], values[~HOLE])


def test_numbers_of_colours_are_no_values(tmp_path: Path, net: PartialConvUNet, run: Run) -> None:
    image = Image.fromarray(np.zeros(SIZE, np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 250, 3, 3] + [9] * 762)
    image.save(tmp_path / "in.tif")
    assert "save it as RGB or grey" in run(tmp_path / "in.tif", mask_file(tmp_path, HOLE), code=1)["err"]


# ---------------------------------------------------------------- layers


def test_raw_values_come_back_and_nothing_but_nothing_becomes_nothing() -> None:
    own = np.array([[0], [7], [65535]], np.uint16)
    space = Raw(own.dtype, 7.0)
    assert np.isnan(space.seen(own)[:, 0]).tolist() == [False, True, False]
    for same in (space, Raw(own.dtype), Raw(own.dtype, -9999.0)):
        assert np.array_equal(same.own(same.seen(own)), own)
    assert space.own(np.array([[6.6], [-3], [1e9], [np.nan]], np.float32))[:, 0].tolist() == [8, 0, 65535, 7]
    assert Raw(own.dtype, -9999.0).nothing is None, "no value of this type"
    for dtype, nodata in ((np.int8, -128), (np.int16, -9999), (np.int32, -(2**31)), (np.uint32, 2**32 - 1)):
        ends = np.iinfo(dtype)
        signed = Raw(np.dtype(dtype), nodata)
        assert np.isnan(signed.seen(np.array([[nodata], [1]], dtype)))[:, 0].tolist() == [True, False]
        made = signed.own(np.array([[np.nan], [nodata], [1.6], [-1e30], [1e30]], np.float32))[:, 0]
        assert made.dtype == dtype and made[0] == nodata and (made[1:] != nodata).all() and made[2] == 2
        assert ends.min <= made[3] <= ends.min + 1 and ends.max - 1 <= made[4] <= ends.max
    doubles = np.array([[1e300], [np.inf], [0.1]])
    assert np.isnan(Raw(doubles.dtype).seen(doubles))[:, 0].tolist() == [False, True, False], "far, but a value"
    assert np.isnan(Raw(doubles.dtype, 1e300).seen(doubles))[:, 0].tolist() == [True, True, False]
    floats = np.array([[1e30], [np.inf], [-0.0]], np.float32)
    assert np.isnan(Raw(floats.dtype).seen(floats)[:, 0]).tolist() == [False, True, False]
    assert np.isnan(Raw(floats.dtype, -1.7e308).seen(np.array([[-np.inf]], np.float32))).all()
    made = Raw(floats.dtype, -9999.0).own(np.array([[np.nan], [-9999.0], [1.0]], np.float32))[:, 0]
    assert made[0] == -9999 and -9999 < made[1] < -9998.9 and made[2] == 1


def test_the_usual_view_leaves_layers_as_they_are() -> None:
    made = layers([(0, 1, 2), (3,)], np.dtype(np.uint8))
    assert viewed(made, View(), np.dtype(np.uint8)) == made
    assert viewed(made, View(whole=True), np.dtype(np.uint8)) == made


def test_tones_and_limits_stay_with_the_channels_that_they_are_of() -> None:
    wide = np.dtype(np.float32)
    colours, extra = ranged(layers([(0, 1, 2), (3,)], wide, linear=True), [(0.0, 1.0), (-5.0, 5.0)])
    single = viewed([colours, extra], View(channels=1), wide)
    assert [layer.channels for layer in single] == [(0,), (1,), (2,), (3,)]
    pixels = np.array([[[0.1, 0.5, 0.9, 2.5]]], np.float32)
    together = np.concatenate([colours.seen(pixels), extra.seen(pixels)[..., :1]], axis=-1)
    alone = np.concatenate([layer.seen(pixels) for layer in single], axis=-1)
    assert np.array_equal(together, alone)
    back = pixels * 0
    for layer, i in zip(single, range(4), strict=True):
        layer.put(back, alone[..., i : i + 1], np.ones((1, 1), np.bool_))
    assert np.allclose(back, pixels, atol=1e-4)


def test_a_palette_of_greys_is_grey() -> None:
    table = np.array([[0, 0, 0, 255], [255, 255, 255, 255]], np.uint8)
    (layer,) = viewed([Layer((0,), Palette(table))], View(channels=1), np.dtype(np.uint8))
    assert isinstance(layer.space, Alone)
    assert layer.seen(np.array([[[1], [0]]], np.uint8))[..., 0].tolist() == [[255, 0]]
    assert layer.space.own(np.array([[0.9], [0.2]], np.float32))[:, 0].tolist() == [1, 0]


def test_the_default_weights_look_at_pictures_in_the_usual_way() -> None:
    assert weights.view(None) == View()
    assert weights.view(weights.NONE) == View(grain=False)


def test_tones_of_two_channels_are_no_picture(tmp_path: Path) -> None:
    net = network(2, values="unit", mean=(0.5, 0.5), std=(1.0, 1.0))
    weights.write(tmp_path / "net.safetensors", net, net.state_dict(), {})
    with pytest.raises(weights.WeightsError, match="pictures have 1 or 3"):
        weights.view(str(tmp_path / "net.safetensors"))


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_what_works_on_photographs_refuses_weights_for_other_values(
    command: str, tmp_path: Path, net: PartialConvUNet, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
        Image.fromarray(HOLE.astype(np.uint8) * 255).convert("RGB").save(tmp_path / kind / "a.png")
    photos, file = str(tmp_path / "photos"), str(tmp_path / "net.safetensors")
    with pytest.raises(SystemExit) as end:
        if command == "evaluate":
            main(["evaluate", photos, str(tmp_path / "masks"), "--weights", file, "--methods", "pconv"])
        else:
            main(["train", photos, "--out", str(tmp_path / "new.safetensors"), "--from", file, "--steps", "1"])
    assert end.value.code == 4 and f"{file}: is for raw values" in capsys.readouterr().err
