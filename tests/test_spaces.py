"""What the network is shown of deep, linear, inverted, float and CMYK pictures, and that fills find the way back."""

from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pconv_cli.colours import luminance
from pconv_cli.spaces import as_held, next_to, nothing, space, white_of, with_alpha, without_alpha

ALL_BYTES = np.arange(256, dtype=np.uint8)[:, None]
ALL_WORDS = np.arange(65536, dtype=np.uint16)[:, None]
TO_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])  # of D50
WHITE = TO_XYZ.sum(axis=1)


def encoded(light: NDArray[Any]) -> NDArray[Any]:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def decoded(tone: NDArray[Any]) -> NDArray[Any]:
    return np.where(tone <= 0.04045, tone / 12.92, ((tone + 0.055) / 1.055) ** 2.4)


def profile(kind: bytes, tags: dict[bytes, bytes], device: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    version = 0x04200000 if device == b"mntr" else 0x02400000
    head = struct.pack(">II I4s4s4s", start + len(body), 0, version, device, kind, pcs)
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def curv(*entries: int) -> bytes:
    return struct.pack(f">4s4xI{len(entries)}H", b"curv", len(entries), *entries)


def para(formula: int, *numbers: float) -> bytes:
    return struct.pack(">4s4xHxx", b"para", formula) + fixed(*numbers)


def rgb(red: bytes, green: bytes | None = None, blue: bytes | None = None) -> bytes:
    tags = {b"rTRC": red, b"gTRC": green or red, b"bTRC": blue or red, b"wtpt": b"XYZ \0\0\0\0" + fixed(*WHITE)}
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), TO_XYZ.T, strict=True)
    return profile(b"RGB ", tags | {name: b"XYZ \0\0\0\0" + fixed(*column) for name, column in columns})


def grey(curve: bytes) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve})


def lut(ins: int, outs: int, points: int, values: NDArray[Any]) -> bytes:
    """An `mft2` tag; `values` in [0, 1], one row for each point of the grid, the first channel slowest."""
    straight = struct.pack(">2H", 0, 65535)
    head = struct.pack(">4s4x4B", b"mft2", ins, outs, points, 0) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    grid = np.rint(values * 65535).clip(0, 65535).astype(">u2").tobytes()
    return head + struct.pack(">2H", 2, 2) + straight * ins + grid + straight * outs


def every(points: int, channels: int) -> NDArray[Any]:
    return np.stack(np.meshgrid(*[np.linspace(0, 1, points)] * channels, indexing="ij"), -1).reshape(-1, channels)


@cache
def press() -> bytes:
    """The profile of a printer whose inks look fuller than they are: not what the plain formula makes."""
    inks = every(9, 4)
    colours = (1 - inks[:, :3] ** 0.8) * (1 - inks[:, 3:] ** 0.8)
    f = np.cbrt(decoded(colours) @ TO_XYZ.T / WHITE)
    f = np.where(f > 6 / 29, f, f**3 / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
    there = (lab * [652.8, 256, 256] + [0, 32768, 32768]) / 65535
    return profile(b"CMYK", {b"A2B0": lut(4, 3, 9, there)}, b"prtr", b"Lab ")


def colours_of(dtype: Any, channels: int = 3, count: int = 500) -> NDArray[Any]:
    values = np.random.default_rng(7).integers(0, np.iinfo(dtype).max, (count, channels), dtype, endpoint=True)
    return values


LINEAR = {
    "identity": curv(),
    "gamma 1": curv(256),
    "gamma 1.2": curv(round(1.2 * 256)),
    "a table": curv(*range(0, 65536, 257)),
    "formula 0": para(0, 1),
    "formula 1": para(1, 1.2, 0.98, 0.02),
    "formula 2": para(2, 1.1, 0.972, 0.1, -0.0794),
    "formula 3": para(3, 1.3, 0.95, 0.05, 0.4, 0.05),
    "formula 4": para(4, 1.2, 0.858, 0.1, 0.5, 0.05, 0.05, 0.005),
}
PERCEPTUAL = {
    "gamma 1.8": curv(round(1.8 * 256)),
    "gamma 2.2": curv(round(2.2 * 256)),
    "sRGB": para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "a table": curv(*(round(65535 * (i / 63) ** 2.2) for i in range(64))),
}


# Alpha


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_colours_that_are_multiplied_by_alpha_come_back_as_they_were(dtype: str) -> None:
    most = 1 if dtype[0] == "f" else int(np.iinfo(dtype).max)
    shares = np.array(np.meshgrid(np.linspace(0, 1, 256), np.linspace(0, 1, 256))).reshape(2, -1)
    alpha, colours = (shares[0] * most).astype(dtype), (shares[0] * shares[1] * most).astype(dtype)[:, None]
    straight = without_alpha(colours, alpha)
    assert straight.dtype == colours.dtype and straight[alpha == 0].max() == 0
    back = with_alpha(straight, alpha)
    if dtype[0] == "f":
        np.testing.assert_allclose(back, colours, rtol=1e-6)
    else:
        np.testing.assert_array_equal(back, colours)


def test_where_alpha_tells_nothing_colours_are_taken_as_they_stand() -> None:
    alpha = np.array([0, -1, np.nan, np.inf, 1e-40, 2], np.float32)
    colours = np.full((6, 1), 0.5, np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert without_alpha(colours, alpha)[:, 0].tolist() == [0.5, 0.5, 0.5, 0.5, np.inf, 0.25]
        assert with_alpha(colours, alpha)[:4, 0].tolist() == [0.5] * 4
    assert without_alpha(np.uint8([[200, 3]]), np.uint8([100])).tolist() == [[255, 8]]


# Pictures as they are


def test_bytes_are_shown_as_bytes_and_deep_ones_as_parts_of_one() -> None:
    assert space(3, np.uint8).seen(colours_of(np.uint8)).dtype == np.uint8
    assert np.array_equal(space(1, np.uint8).seen(ALL_BYTES), ALL_BYTES.repeat(3, 1))
    seen = space(1, np.uint16).seen(ALL_WORDS)
    assert seen.dtype == np.float32 and seen.shape == (65536, 3)
    assert np.abs(seen - ALL_WORDS / 65535).max() < 1e-7 and seen.min() == 0 and seen.max() == 1
    assert space(3, np.uint16).name == space(1, np.uint8).name == "as it is"


def test_bytes_shown_as_they_are_become_the_luminance_that_every_other_grey_fill_takes() -> None:
    made = colours_of(np.uint8)
    assert np.array_equal(space(1, np.uint8).own(made)[:, 0], luminance(made))
    assert space(1, np.uint8).own(made).shape == (500, 1)


@pytest.mark.parametrize("curve", [None, *PERCEPTUAL.values(), *LINEAR.values()])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("values", [ALL_BYTES, ALL_WORDS], ids=["8 bit", "16 bit"])
def test_every_grey_value_comes_back_and_shows_in_order(
    values: NDArray[Any], inverted: bool, curve: bytes | None
) -> None:
    at = space(1, values.dtype, icc=grey(curve) if curve else b"", inverted=inverted)
    seen = at.seen(values)
    assert np.array_equal(at.own(seen), values)
    steps = np.diff(seen[:, 0].astype(float))
    assert (steps < 0).all() if inverted else (steps > 0).all()
    assert seen.min() == 0 and seen.max() in (1, 255)
    assert seen.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=3, max_size=3), st.sampled_from(sorted(LINEAR)), st.booleans())
def test_every_colour_comes_back(colour: list[int], curve: str, deep: bool) -> None:
    own = np.array([colour], np.uint16) if deep else (np.array([colour]) >> 8).astype(np.uint8)
    for at in (
        space(3, own.dtype),
        space(3, own.dtype, linear=True),
        space(3, own.dtype, icc=rgb(LINEAR[curve], LINEAR["identity"], LINEAR["gamma 1.2"])),
    ):
        assert np.array_equal(at.own(at.seen(own)), own)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.sampled_from([1, 3, 4]), st.sampled_from(["u1", "u2", "f4"]))
def test_any_shape_keeps_its_shape(height: int, width: int, channels: int, dtype: str) -> None:
    for options in ({}, {"linear": True}, {"icc": press()}):
        at = space(channels, dtype, **options)  # type: ignore[arg-type]
        seen = at.seen(np.zeros((height, width, channels), dtype))
        assert seen.shape == (height, width, 3) and seen.dtype in (np.uint8, np.float32)
        if channels != 4:
            own = at.own(seen)
            assert own.shape == (height, width, channels) and own.dtype == np.dtype(dtype)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_fill_of_bytes_and_the_same_one_of_floats_become_the_same_pixels(channels: int, dtype: Any) -> None:
    made = colours_of(np.uint8)
    made = made[:, :1].repeat(3, 1) if channels == 1 else made  # of colours, bytes have a luminance of their own
    for linear in (False, True):
        at = space(channels, dtype, linear=linear)
        assert np.abs(at.own(made) - at.own((made / 255).astype(np.float32)).astype(float)).max() < 1e-6


def test_a_fill_beyond_the_range_is_clipped() -> None:
    made = np.array([[-0.5, 0.5, 1.5]], np.float32)
    assert space(3, np.uint16).own(made).tolist() == [[0, 32768, 65535]]
    assert space(3, np.uint8, linear=True).own(made).tolist() == [[0, 55, 255]]
    assert space(3, np.float32, limits=(-10, 10)).own(made).tolist() == [[-10, 0, 10]]


def test_the_shown_and_the_own_are_not_changed_in_place() -> None:
    for at in (space(1, "f4", limits=(0, 9), inverted=True), space(3, "u2", linear=True)):
        own = (np.ones((2, at.channels)) * 5).astype(at.dtype)
        seen = at.seen(own)
        kept = own.copy(), seen.copy()
        at.own(seen)
        assert np.array_equal(own, kept[0]) and np.array_equal(seen, kept[1])


# Linear light


@pytest.mark.parametrize("curve", LINEAR.values(), ids=LINEAR.keys())
def test_a_linear_profile_shows_what_littlecms_makes_of_it(curve: bytes) -> None:
    own = colours_of(np.uint8)
    at = space(3, np.uint8, icc=rgb(curve))
    assert at.name == "linear light shown as sRGB"
    source = ImageCms.getOpenProfile(io.BytesIO(rgb(curve)))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    theirs = np.asarray(transform.apply(Image.fromarray(own[None])))[0]
    light = own.min(axis=1) > 25  # darker, curves that do not start at 0 differ: they are stretched here
    assert light.sum() > 300
    assert np.abs(at.seen(own) * 255 - theirs)[light].max() < 1


@pytest.mark.parametrize("curve", PERCEPTUAL.values(), ids=PERCEPTUAL.keys())
def test_an_ordinary_profile_changes_nothing(curve: bytes) -> None:
    assert space(3, np.uint8, icc=rgb(curve)).name == "as it is"
    assert space(1, np.uint16, icc=grey(curve)).name == "as it is"
    assert np.array_equal(space(1, np.uint8, icc=grey(curve)).seen(ALL_BYTES), ALL_BYTES.repeat(3, 1))


@pytest.mark.parametrize(
    "options", [{"icc": grey(curv())}, {"icc": grey(curv(256))}, {"icc": grey(para(0, 1))}, {"linear": True}], ids=str
)
def test_a_linear_picture_is_seen_as_its_srgb_twin(options: dict[str, Any]) -> None:
    light = ALL_WORDS / 65535
    twin = np.rint(encoded(light) * 65535).astype(np.uint16)
    linear, perceptual = space(1, np.uint16, **options).seen(ALL_WORDS), space(1, np.uint16).seen(twin)
    assert np.abs(linear - perceptual).max() < 0.51 / 65535
    floats = space(1, np.float32, **options).seen(light.astype(np.float32))
    assert np.abs(floats - perceptual).max() < 0.55 / 65535


def test_eight_bits_of_linear_light_are_seen_as_sixteen() -> None:
    own = colours_of(np.uint8)
    shallow, deep = (
        space(3, np.uint8, linear=True).seen(own),
        space(3, np.uint16, linear=True).seen(own * np.uint16(257)),
    )
    assert shallow.dtype == np.float32 and np.array_equal(shallow, deep)


def test_the_user_s_word_goes_before_the_profile() -> None:
    assert space(1, np.uint8, icc=grey(PERCEPTUAL["sRGB"]), linear=True).name == "linear light shown as sRGB"


def test_each_channel_has_its_own_curve() -> None:
    own = np.full((1, 3), 20000, np.uint16)
    icc = rgb(LINEAR["identity"], LINEAR["gamma 1.2"], para(0, 1.4))
    red, green, blue = space(3, np.uint16, icc=icc).seen(own)[0]
    assert red > green > blue


def test_a_profile_of_which_only_some_channels_are_linear_changes_nothing() -> None:
    assert space(3, np.uint8, icc=rgb(curv(), PERCEPTUAL["sRGB"], curv())).name == "as it is"


def test_a_profile_for_another_kind_of_picture_counts_as_none() -> None:
    assert space(3, np.uint8, icc=grey(curv())).name == space(1, np.uint8, icc=rgb(curv())).name == "as it is"
    assert space(3, np.uint8, icc=press()).name == "as it is"
    inks = colours_of(np.uint8, 4)
    assert np.array_equal(space(4, np.uint8, icc=rgb(curv())).seen(inks), space(4, np.uint8).seen(inks))


@pytest.mark.parametrize(
    "curve",
    [
        curv(65535, 0),  # falls
        curv(0, 40000, 40000, 65535),  # rests: there is no way back
        curv(0),
        curv(7, 7),
        para(0, 0),
        para(0, -1),
        para(1, 1, 0, 0),
        para(9, 1),
        para(4, 1, 1),  # too short
        b"curv\0\0\0\0\xff\xff\xff\xff",
        b"curv",
        b"mAB \0\0\0\0\0\0\0\0",
        b"",
    ],
    ids=str,
)
def test_a_curve_without_a_way_back_counts_as_none(curve: bytes) -> None:
    assert space(1, np.uint16, icc=grey(curve)).name == "as it is"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_profile_never_raises_and_never_costs_the_way_back(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([grey(LINEAR["a table"]), grey(LINEAR["formula 4"]), grey(curv(256))]))
    icc = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(128, len(whole) - 1), max_size=4)):
        icc[at : at + 1] = data.draw(st.binary(max_size=2))
    found = space(1, np.uint16, icc=bytes(icc))
    assert np.array_equal(found.own(found.seen(ALL_WORDS[::97])), ALL_WORDS[::97])


def test_a_curve_that_is_all_but_flat_is_not_used() -> None:
    found = space(1, np.uint16, icc=grey(curv(4)))
    assert np.array_equal(found.own(found.seen(ALL_WORDS)), ALL_WORDS)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"GRAY", b"RGB ", b"CMYK"]))
def test_bytes_that_are_no_profile_count_as_none(noise: bytes, kind: bytes) -> None:
    for icc in (noise, noise[:16].ljust(16) + kind + noise):
        assert space(1, np.uint8, icc=icc).name in ("as it is", "linear light shown as sRGB")
        assert space(3, np.uint8, icc=icc).name in ("as it is", "linear light shown as sRGB")
        assert np.allclose(space(4, np.uint8, icc=icc).seen(np.uint8([[51, 0, 0, 0]])), [0.8, 1, 1])


# Floats, and integers that are no tones

RANGED = [np.int8, np.int16, np.int32, np.uint32, np.float32, np.float64]


def ends(dtype: Any) -> tuple[float, float]:
    """The limits of a type; of doubles an eighth of them, for their span must be finite."""
    if np.dtype(dtype).kind != "f":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    most = float(np.finfo(dtype).max) / (8 if dtype == np.float64 else 1)
    return -most, most


@pytest.mark.parametrize("dtype", RANGED)
@pytest.mark.parametrize("options", [{}, {"linear": True}, {"inverted": True}], ids=str)
@given(data=st.data())
def test_values_of_any_range_come_back_in_their_type(dtype: Any, options: dict[str, Any], data: st.DataObject) -> None:
    least, most = ends(dtype)
    if np.dtype(dtype).kind == "f":
        numbers: Any = st.floats(least, most, width=8 * np.dtype(dtype).itemsize)
    else:
        numbers = st.integers(least, most)
    own = np.array(data.draw(st.lists(numbers, min_size=2, max_size=9)), dtype)[:, None]
    low, high = float(own.min()), float(own.max())
    at = space(1, dtype, limits=(low, high), **options)
    seen = at.seen(own)
    assert seen.dtype == np.float32 and seen.min() >= 0 and seen.max() <= 1
    back = at.own(seen)
    assert back.dtype == dtype
    off = np.abs(back.astype(np.float64) - own).max()
    if np.dtype(dtype).kind == "f" and low >= 0 and high <= 1:  # tones, white a power of 2
        assert off <= 1e-6 * at.high
    else:
        assert low <= back.min() and back.max() <= high
        assert off <= 2e-6 * (high - low) + (0.5 if np.dtype(dtype).kind != "f" else 0)


@pytest.mark.parametrize("dtype", RANGED)
def test_the_ends_of_a_type_are_within_reach(dtype: Any) -> None:
    limits = ends(dtype)
    own = np.array([limits], dtype).T
    at = space(1, dtype, limits=limits)
    assert at.seen(own)[:, 0].tolist() == [0, 1] and at.own(np.float32([[0] * 3])).item() == limits[0]
    assert float(at.own(np.float32([[1] * 3])).item()) == pytest.approx(limits[1], rel=1e-6)
    assert (at.own(np.float32([[-9] * 3, [9] * 3])) == at.own(np.float32([[0] * 3, [1] * 3]))).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32])
def test_integers_that_are_no_tones_are_always_stretched_and_rounded(dtype: Any) -> None:
    assert space(1, dtype, limits=(0, 1)).seen(np.array([[0], [1]], dtype))[:, 0].tolist() == [0, 1]
    at = space(3, dtype, limits=(0, 10))
    assert at.name == f"{np.dtype(dtype)} 0 to 10 shown as 0 to 1"
    assert at.own(np.float32([[0.04, 0.06, 0.96]])).tolist() == [[0, 1, 10]]
    assert nothing(np.zeros((2, 1), dtype)) is None


def test_what_stands_for_nothing_is_what_the_type_holds_of_it() -> None:
    held = {
        ("int16", -32768.0): -32768, ("int16", -9999.0): -9999, ("int16", 40000.0): None, ("uint8", -1.0): None,
        ("int8", -128.0): -128, ("int32", -(2.0**31)): -(2**31), ("uint32", 2.0**32 - 1): 2**32 - 1,
        ("int16", 0.5): None, ("int32", np.inf): None, ("float32", -1.7e308): -np.inf, ("float64", -1.7e308): -1.7e308,
        ("float32", 0.1): float(np.float32(0.1)), ("float64", 0.1): 0.1, ("float64", np.nan): None,
        ("int8", None): None,
    }  # fmt: skip
    for (dtype, value), wanted in held.items():
        assert as_held(value, dtype) == wanted, (dtype, value)
    for dtype in map(np.dtype, RANGED):
        for value in (*ends(dtype), 0, 1, -1):
            if as_held(value, dtype) is not None:
                other = dtype.type(next_to(value, dtype))
                assert other != value and np.isfinite(other), (dtype, value)
    assert next_to(-32768, "int16") == -32767 and next_to(32767, "int16") == 32766


@pytest.mark.parametrize("limits", [None, (0, 1), (0.25, 0.5), (-12, 830), (-3.4e38, 3.4e38), (1e6, 1e6 + 1), (7, 7)])
@pytest.mark.parametrize("options", [{}, {"linear": True}, {"inverted": True}], ids=str)
def test_floats_of_any_range_come_back(limits: tuple[float, float] | None, options: dict[str, Any]) -> None:
    low, high = limits or (0, 1)
    at = space(1, np.float32, limits=limits, **options)
    own = (low + np.linspace(0, 1, 301) * (high - low))[:, None].astype(np.float32)
    seen = at.seen(own)
    assert seen.dtype == np.float32 and seen.min() >= 0 and seen.max() <= 1
    assert np.abs(at.own(seen) - own.astype(float)).max() <= 1e-6 * max(high - low, abs(high))
    if low != high:
        assert (np.diff(seen[:, 0]) * (-1 if options.get("inverted") else 1) >= 0).all()


def test_floats_within_0_and_1_are_taken_as_they_are() -> None:
    own = np.array([[0.25, 0.3, 0.6]], np.float32)
    at = space(3, np.float32, limits=(0.25, 0.6))
    assert np.array_equal(at.seen(own), own) and at.name == "as it is"
    few = space(4, np.float32, limits=(0, 0.1))
    assert (few.low, few.high) == (0, 1), "how much ink little is, nobody knows"
    assert space(1, np.float32, limits=(0, 0)).name == "as it is"


@pytest.mark.parametrize(("highest", "white"), {0.5: 0.5, 0.3: 0.5, 0.25: 0.25, 0.0401: 0.0625, 1e-9: 2.0**-29}.items())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_are_all_dark_are_shown_up_to_a_power_of_2(highest: float, white: float, dtype: Any) -> None:
    at = space(1, dtype, limits=(0, highest))
    assert at.name == f"float 0 to {white:g} shown as 0 to 1"
    own = np.linspace(0, highest, 50, dtype=dtype)[:, None]
    np.testing.assert_allclose(at.seen(own)[:, :1], own / white, rtol=1e-6)
    np.testing.assert_allclose(at.own(at.seen(own)), own, rtol=1e-6)


def test_floats_beyond_0_to_1_are_shown_from_lowest_to_highest() -> None:
    assert space(3, np.float32, limits=(-12, 830)).name == "float -12 to 830 shown as 0 to 1"
    assert space(3, np.float32, limits=(-12, 830)).seen(np.float32([[-12, 409, 830]])).tolist() == [[0, 0.5, 1]]


def test_limits_are_not_for_tones() -> None:
    assert space(1, np.uint16, limits=(50, 900)).name == "as it is"


def test_a_fill_of_a_constant_picture_is_the_constant() -> None:
    at = space(3, np.float32, limits=(-9999, -9999))
    assert (at.own(np.random.default_rng(1).random((5, 3), np.float32)) == -9999).all()
    assert (at.seen(np.full((5, 3), -9999, np.float32)) == 0).all()


@pytest.mark.parametrize("options", [{}, {"linear": True}, {"limits": (-5, 5)}], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_is_not_a_number_is_nothing_and_shown_as_0(channels: int, options: dict[str, Any]) -> None:
    own = np.full((6, channels), 0.5, np.float32)
    own[1, 0], own[2, -1], own[3] = np.nan, np.inf, -np.inf
    own[4, :1] = np.uint32(0x7FA00000).view(np.float32)  # one that signals
    at = space(channels, np.float32, **options)
    seen = at.seen(own)
    assert np.isfinite(seen).all() and seen.min() >= 0 and seen.max() <= 1
    if channels < 4:
        assert (seen[~np.isfinite(own).repeat(3 // channels, 1)] == 0).all() and (seen[0] > 0).all()
    found = nothing(own)
    assert found is not None and found.tolist() == [False, True, True, True, True, False]


def test_where_white_is_0_nothing_is_still_shown_as_0() -> None:
    seen = space(1, np.float32, inverted=True).seen(np.array([[np.nan], [0.25]], np.float32))
    assert seen[:, 0].tolist() == [0, 0.75]


def test_integers_always_hold_something() -> None:
    assert nothing(ALL_BYTES) is nothing(ALL_WORDS) is None


def test_values_outside_the_limits_are_clipped() -> None:
    seen = space(1, np.float32, limits=(0, 10)).seen(np.array([[-5], [5], [50]], np.float32))
    assert seen[:, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 2},
        {"dtype": np.int64},
        {"dtype": np.float16},
        {"dtype": np.float64, "limits": (-1.7e308, 1.7e308)},
        {"channels": 3, "inverted": True},
        {"limits": (np.nan, 1)},
        {"limits": (0, np.inf)},
        {"limits": (2, 1)},
    ],
    ids=str,
)
def test_what_does_not_exist_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        space(**{"channels": 1, "dtype": np.float32} | wrong)


# CMYK


def test_cmyk_without_a_profile_is_seen_by_the_plain_formula() -> None:
    inks = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255], [0, 0, 0, 51]], np.uint8)
    for icc in (b"", b"no profile", press()[:5000], press()[:200]):
        seen = space(4, np.uint8, icc=icc).seen(inks)
        assert np.allclose(seen, [[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [0.8, 0.8, 0.8]])


def test_cmyk_is_seen_through_its_profile() -> None:
    at = space(4, np.uint8, icc=press())
    inks = (every(5, 4) * 255).astype(np.uint8)
    meant = (1 - (inks[:, :3] / 255) ** 0.8) * (1 - (inks[:, 3:] / 255) ** 0.8)
    assert np.abs(at.seen(inks) - meant).mean() * 255 < 2
    assert np.abs(space(4, np.uint8).seen(inks) - meant).mean() * 255 > 8  # the plain formula says something else


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int16])
def test_plates_are_seen_as_light_and_come_back(dtype: Any) -> None:
    integers = np.dtype(dtype).kind != "f"
    most = int(np.iinfo(dtype).max) if integers else 1
    inks = (every(6, 4) * most).astype(dtype)
    colours, black = space(4, dtype, icc=press(), limits=(0, most)).plates()
    assert np.abs(colours.seen(inks[:, :3]) / (255 if dtype == np.uint8 else 1) - (1 - inks[:, :3] / most)).max() < 1e-5
    assert np.array_equal(colours.own(colours.seen(inks[:, :3])), inks[:, :3]) or dtype == np.float32
    assert np.abs(black.own(black.seen(inks[:, 3:])) - inks[:, 3:].astype(float)).max() < 1e-6 * most
    assert (colours.name, black.name) == ("inks, black by itself", "white is 0") or dtype == np.int16


def test_deep_cmyk_goes_the_way_of_bytes() -> None:
    shallow, deep = space(4, np.uint8, icc=press()), space(4, np.uint16, icc=press())
    inks = colours_of(np.uint8, 4)
    assert np.array_equal(shallow.seen(inks), deep.seen(inks * np.uint16(257)))


def test_a_damaged_cmyk_profile_never_raises() -> None:
    rng = np.random.default_rng(3)
    for _ in range(12):
        icc = bytearray(press())
        for at in rng.integers(0, 420, 3):  # head and tags, the heads of tables included
            icc[at] = rng.integers(256)
        assert space(4, np.uint8, icc=bytes(icc)).seen(np.zeros((3, 4), np.uint8)).shape == (3, 3)


def test_threads_share_a_space() -> None:
    at = space(4, np.uint8, icc=press() + b"threads")  # a profile that nobody has opened yet
    pieces = [colours_of(np.uint8, 4, 3000 + 37 * i) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda piece: at.seen(piece), pieces))
    alone = space(4, np.uint8, icc=press())
    assert all(np.array_equal(found, alone.seen(p)) for found, p in zip(together, pieces, strict=True))


WHITES = {0: 255, 255: 255, 256: 511, 1000: 1023, 1024: 2047, 32767: 32767, 32768: 65535, 65535: 65535}


@pytest.mark.parametrize(("highest", "white"), WHITES.items())
def test_white_is_the_greatest_value_of_as_many_bits_as_are_used(highest: int, white: int) -> None:
    assert white_of(highest) == white


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("linear", [False, True])
def test_ten_bits_in_sixteen_are_shown_as_sixteen_are_and_come_back(
    channels: int, inverted: bool, linear: bool
) -> None:
    if inverted and channels != 1:
        return
    few = replace(space(channels, np.uint16, inverted=inverted, linear=linear), low=0.0, high=1023.0)
    all16 = space(channels, np.uint16, inverted=inverted, linear=linear)
    own = np.linspace(0, 1023, 3072).round().astype(np.uint16)[: 1024 * channels].reshape(-1, channels)
    wide = np.rint(own / 1023 * 65535).astype(np.uint16)
    np.testing.assert_allclose(few.seen(own), all16.seen(wide), atol=2e-3 if linear else 1e-5)
    np.testing.assert_array_equal(few.own(few.seen(own)), own)
    assert few.own(np.ones((1, 3), np.float32)).max() == (0 if inverted else 1023)
