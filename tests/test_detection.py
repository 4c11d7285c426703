"""Damage that is found by what it looks like: dust, scratches, tears, and what is none of it."""

from __future__ import annotations

import builtins
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pconv_cli import detection, infrared
from pconv_cli.detection import Detect, _Candidates, _Gathered, _Verdict, find, find_in_rows, parse
from pconv_cli.errors import UsageError
from pconv_cli.regions import Damage, Window

Pixels = NDArray[np.uint8]
Hole = NDArray[np.bool_]


def scene(width: int = 320, height: int = 240, seed: int = 0) -> Pixels:
    """A soft picture with grain: slopes and clouds, no detail as small as damage, 60..190."""
    rng = np.random.default_rng(seed)
    clouds = cv2.resize(
        rng.uniform(80, 170, (5, 6, 3)).astype(np.float32), (width, height), None, 0, 0, cv2.INTER_CUBIC
    )
    return (clouds + rng.normal(0, 2, (height, width, 1))).clip(60, 190).astype(np.uint8)


def plane(found: Damage) -> Hole:
    return found.window(Window(0, 0, found.width, found.height))


def painted(picture: Pixels, hole: Hole, value: int) -> Pixels:
    """Soft-edged damage of one value."""
    share = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 0.7)[..., None]
    return (picture * (1 - share) + value * share).round().astype(np.uint8)


def specks(width: int = 320, height: int = 240) -> Hole:
    mask = np.zeros((height, width), np.uint8)
    for x, y, radius in ((40, 50, 2), (150, 30, 3), (260, 90, 4), (90, 180, 5), (200, 200, 3), (300, 160, 2)):
        cv2.circle(mask, (x, y), radius, 1, -1)
    return mask > 0


WAY = np.array([[60, 60], [90, 75], [115, 100], [130, 130], [160, 150], [200, 155]], np.int32)
"""How a hair lies."""


def hair(width: int = 320, height: int = 240) -> Hole:
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [WAY], False, 1, 2)
    return mask > 0


def line(width: int = 320, height: int = 240, at: int = 130) -> Hole:
    mask = np.zeros((height, width), np.uint8)
    cv2.line(mask, (at, 0), (at + 3, height - 1), 1, 1)
    mask[100:130] = 0  # out of sight for a while
    return mask > 0


def tear(width: int = 320, height: int = 240) -> Hole:
    mask = np.zeros((height, width), np.uint8)
    way = np.array([[0, 90], [22, 96], [37, 91], [60, 104], [82, 100], [110, 118]], np.int32)
    for first, second, thick in zip(way[:-1], way[1:], (9, 8, 7, 5, 3), strict=True):
        cv2.line(mask, [int(v) for v in first], [int(v) for v in second], 1, thick)
    return mask > 0


def overlap(found: Hole, true: Hole) -> tuple[float, float]:
    """How much of what was found is damage, give or take two pixels, and how much of the damage was found."""
    around = np.ones((5, 5), np.uint8)
    near = cv2.dilate(true.astype(np.uint8), around) > 0
    grown = cv2.dilate(found.astype(np.uint8), around) > 0
    return float((found & near).sum() / max(found.sum(), 1)), float((true & grown).sum() / true.sum())


@pytest.mark.parametrize("value", [250, 8])
@pytest.mark.parametrize("kinds", ["dust", "auto", "scratches,dust"])
def test_bright_and_dark_specks_are_found_and_nothing_else(value: int, kinds: str) -> None:
    found = find(painted(scene(), specks(), value), parse(kinds, 0.5))
    precision, recall = overlap(plane(found), specks())
    assert precision == 1 and recall > 0.9
    assert len(found.components()[1]) >= (5 if kinds == "auto" else 6)


@pytest.mark.parametrize("value", [240, 20])
@pytest.mark.parametrize(("kinds", "sensitivity"), [("dust", 0.3), ("dust", 0.5), ("auto", 0.3), ("auto", 0.7)])
def test_a_hair_on_even_ground_is_found(value: int, kinds: str, sensitivity: float) -> None:
    picture = painted(scene(), hair(), value)
    precision, recall = overlap(plane(find(picture, parse(kinds, sensitivity))), hair())
    assert precision == 1 and recall > 0.95


def test_a_line_between_two_grounds_is_no_hair() -> None:
    """As the edge of a lid, a fold, or the rim of a leaf."""
    picture, mask = scene(), np.zeros((240, 320), np.uint8)
    cv2.fillPoly(mask, [np.array([*WAY, [320, 240], [0, 240]], np.int32)], 1)
    picture[mask > 0] = (picture[mask > 0] * 0.4).astype(np.uint8)
    assert not len(find(painted(picture, hair(), 20), Detect(("auto",), 0.5)))


def test_what_reaches_from_edge_to_edge_is_no_hair() -> None:
    mask = np.zeros((240, 320), np.uint8)
    cv2.line(mask, (0, 30), (319, 200), 1, 3)
    assert not len(find(painted(scene(), mask > 0, 240), Detect(("dust",), 0.7)))


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("value", [240, 10])
@pytest.mark.parametrize("kinds", ["scratches", "auto"])
def test_a_scratch_is_found_along_its_whole_length_where_it_is_out_of_sight_too(
    upright: bool, value: int, kinds: str
) -> None:
    hole = line() if upright else line(240, 320).T
    precision, recall = overlap(plane(find(painted(scene(), hole, value), parse(kinds, 0.5))), hole)
    assert precision > 0.85 and recall > 0.9


@pytest.mark.parametrize("kinds", ["tears", "auto"])
def test_a_tear_from_the_border_is_found(kinds: str) -> None:
    precision, recall = overlap(plane(find(painted(scene(), tear(), 244), parse(kinds, 0.5))), tear())
    assert precision == 1 and recall > 0.8


def test_nothing_is_found_in_an_undamaged_picture_at_any_sensitivity_but_the_highest() -> None:
    for sensitivity in (0, 0.25, 0.5, 0.75):
        assert not len(find(scene(), Detect(("dust", "scratches", "tears"), sensitivity)))


def test_a_higher_sensitivity_finds_more() -> None:
    faint = painted(scene(), specks(), 150)
    counts = [len(find(faint, Detect(("dust",), sensitivity))) for sensitivity in (0.0, 0.5, 1.0)]
    assert counts == sorted(counts) and counts[0] < counts[2]


@pytest.mark.parametrize("seed", range(8))
def test_dust_that_is_found_is_found_at_any_higher_sensitivity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = scene(160, 120, seed)
    for _ in range(int(rng.integers(1, 14))):
        mask = np.zeros((120, 160), np.uint8)
        x, y = (int(at) for at in rng.integers(0, (160, 120)))
        if rng.random() < 0.5:
            cv2.circle(mask, (x, y), int(rng.integers(1, 6)), 1, -1)
        else:
            cv2.line(mask, (x, y), (x + int(rng.integers(-60, 60)), y + int(rng.integers(-60, 60))), 1, 2)
        picture = painted(picture, mask > 0, int(rng.integers(130, 250)))
    before = np.zeros((120, 160), np.bool_)
    for step in range(21):
        found = plane(find(picture, Detect(("dust",), step / 20)))
        assert not (before & ~found).any()
        before = found
    assert before.any()


@pytest.mark.parametrize(("strong", "lines", "accepted"), [(2, 2, 4), (3, 2, 7), (3, 3, 5), (2, 3, 2)])
@pytest.mark.parametrize("strip", [7, 64])
def test_among_much_damage_the_likely_is_damage_and_of_many_lines_none(
    strong: int, lines: int, accepted: int, strip: int
) -> None:
    """Squares of 3 px are damage and tell of more, dots are likely, lines count where there are two at most."""
    hole = np.zeros((64, 64), np.bool_)
    for x in range(strong):
        hole[4:7, 4 + 8 * x : 7 + 8 * x] = True
    for x in range(2):
        hole[20, 4 + 8 * x] = True
    for x in range(lines):
        hole[30:60, 4 + 8 * x] = True

    def judge(areas: Any, boxes: Any, sums: Any) -> _Verdict:
        return _Verdict(damage=areas > 1, likely=areas == 1, telling=areas == 9, drawn=areas == 30)

    gathered = _Gathered(judge, 64, 64, most=2)
    for top in range(0, 64, strip):
        bottom = min(top + strip, 64)
        found = _Candidates.of(hole[top:bottom], [])
        if found is not None:
            gathered.add(top, bottom, found)
    parts = gathered.accepted()
    assert sum(len(part.components()[1]) for part in parts) == accepted


@pytest.mark.parametrize("size", [12, 22, 40])
@pytest.mark.parametrize(("kinds", "sensitivity"), [("auto", 0.1), ("auto", 0.3)])
def test_text_is_no_dust(size: int, kinds: str, sensitivity: float) -> None:
    page = Image.new("RGB", (480, 400), (235, 230, 215))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
    for y in range(10, 390, int(1.4 * size)):
        draw.text((12, y), "The quick brown fox jumps over the lazy dog in Rome. " * 2, (30, 30, 40), font)
    assert plane(find(np.asarray(page), parse(kinds, sensitivity))).mean() < 0.0005


def test_a_drawing_is_no_hair() -> None:
    page = np.full((400, 480, 3), 240, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(40):
        way = np.cumsum(np.vstack([rng.integers(0, 400, (1, 2)), rng.integers(-40, 40, (5, 2))]), axis=0)
        cv2.polylines(page, [way.astype(np.int32)], False, (30, 30, 30), 2, cv2.LINE_AA)
    assert not len(find(page, parse("auto")))


@pytest.mark.parametrize("kinds", ["scratches", "auto"])
@pytest.mark.parametrize("thick", [1, 2, 3, 4])
def test_a_higher_sensitivity_loses_no_scratch(thick: int, kinds: str) -> None:
    mask = np.zeros((480, 480), np.uint8)
    cv2.line(mask, (200, 0), (203, 479), 1, thick)
    picture = painted(scene(480, 480), mask > 0, 250)
    found = [overlap(plane(find(picture, parse(kinds, step / 10))), mask > 0) for step in range(2, 10)]
    assert all(precision > 0.85 and recall > 0.9 for precision, recall in found)


def test_kinds_are_kept_apart() -> None:
    picture = painted(painted(scene(), specks(), 250), line(at=225), 245)
    assert overlap(plane(find(picture, Detect(("dust",)))), specks())[0] > 0.99
    assert overlap(plane(find(picture, Detect(("scratches",)))), line(at=225))[0] > 0.85
    assert not len(find(picture, Detect(("tears",))))


def test_a_coloured_speck_is_part_of_the_picture() -> None:
    picture = scene()
    picture[specks(), 0] = 250  # red: only one of three colours stands out
    assert not len(find(picture, Detect(("dust",))))


def test_lines_close_to_each_other_are_a_pattern_and_no_damage() -> None:
    picture = scene()
    picture[:, ::8] = 230
    picture[::9] = 20
    assert not len(find(picture, Detect(("auto",))))


def test_many_lines_are_scratches_only_to_who_asks_for_them() -> None:
    picture = scene()
    for at in range(30, 290, 40):
        picture = painted(picture, line(at=at), 245)
    assert len(find(picture, Detect(("scratches",)))) and not len(find(picture, Detect(("auto",))))


def test_the_border_of_a_print_is_no_damage() -> None:
    picture = scene()
    for at in (slice(0, 5), slice(-5, None)):
        picture[at] = 245
        picture[:, at] = 245
    assert not len(find(picture, Detect(("auto",))))
    assert not len(find(picture, Detect(("tears", "scratches"))))


def test_the_edge_of_something_is_no_scratch() -> None:
    picture = scene()
    picture[:, 160:] = (picture[:, 160:] * 0.5).astype(np.uint8)
    picture[:, 158:161] = 220  # a light rim, dark on one side alone
    assert not len(find(picture, Detect(("scratches",))))


@pytest.mark.parametrize("strip", [13, 64, 100, 239])
@pytest.mark.parametrize("smallest", [480, 50])
def test_strips_give_what_the_whole_gives(strip: int, smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixel by pixel, at several sizes, with damage across the cuts, and texture that is full of candidates."""
    monkeypatch.setattr(detection, "_SMALLEST", smallest)
    picture = scene(199, 237)
    rng = np.random.default_rng(3)
    picture[60:180, :90] = rng.integers(0, 255, (120, 90, 1))
    for hole, value in ((specks(199, 237), 250), (line(199, 237, at=150), 240), (tear(199, 237), 245)):
        picture = painted(picture, hole, value)
    for kinds in ("auto", "dust,scratches,tears"):
        for sensitivity in (0.5, 1.0):
            detect = parse(kinds, sensitivity)
            asked: list[tuple[int, int]] = []

            def rows(top: int, bottom: int, asked: list[tuple[int, int]] = asked) -> Pixels:
                asked.append((top, bottom))
                return picture[top:bottom]

            whole = plane(find_in_rows(rows, (237, 199), detect, strip=237))
            asked.clear()
            parts = plane(find_in_rows(rows, (237, 199), detect, strip=strip))
            assert whole.any() and np.array_equal(whole, parts)
            assert max(bottom - top for top, bottom in asked) <= (strip + 2 * detection.REACH) * (
                1 if smallest > 200 else 4
            )


def test_dust_of_a_fine_scan_is_found_whatever_its_size() -> None:
    """Eight times as fine: specks of 32 to 80 pixels."""
    hole = cv2.resize(specks().astype(np.uint8), None, None, 8, 8, cv2.INTER_NEAREST) > 0
    picture = painted(cv2.resize(scene(), None, None, 8, 8, cv2.INTER_CUBIC), hole, 250)
    precision, recall = overlap(plane(find(picture, Detect(("dust",)))), hole)
    assert precision > 0.7 and recall > 0.9


def test_grey_and_equal_colours_are_the_same() -> None:
    grey = np.repeat(painted(scene(), specks(), 250)[..., :1], 3, axis=2)
    almost = grey.copy()
    almost[0, 0, 0] ^= 1  # no longer grey throughout
    assert np.array_equal(plane(find(grey, Detect(("dust",)))), plane(find(almost, Detect(("dust",)))))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5), (20, 20)])
def test_tiny_pictures_are_looked_at(size: tuple[int, int]) -> None:
    found = find(np.full((*size, 3), 128, np.uint8), Detect(("dust", "scratches", "tears"), 1))
    assert (found.height, found.width) == size and not len(found)


@pytest.mark.parametrize(("kinds", "sensitivity"), [("rust", 0.5), ("", 0.5), ("dust,", 0.5), ("dust", 1.5)])
def test_what_makes_no_sense_is_refused(kinds: str, sensitivity: float) -> None:
    with pytest.raises(UsageError, match=r"--detect|--sensitivity"):
        parse(kinds, sensitivity)


def test_one_line_says_what_to_do_where_opencv_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"libGL.*opencv-python-headless"):
        find(scene(), Detect())


# ---------------------------------------------------------------- infrared


def scan(shift: tuple[int, int] = (0, 0)) -> tuple[Pixels, NDArray[np.uint16], Hole]:
    """Colours with dark dust, infrared with the same dust some pixels beside, and where it is in the colours."""
    hole = specks()
    colours = painted(scene(), hole, 15)
    rng = np.random.default_rng(1)
    channel = np.full(hole.shape, 46000.0) + rng.normal(0, 300, hole.shape) + np.linspace(-4000, 4000, hole.shape[1])
    beside = np.roll(hole, (-shift[1], -shift[0]), (0, 1))
    channel *= 1 - 0.8 * cv2.GaussianBlur(beside.astype(np.float32), (0, 0), 0.7)
    channel += 0.02 * colours[..., 0] * 257  # the dyes are not quite clear
    return colours, channel.clip(0, 65535).astype(np.uint16), hole


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-8, 8)])
def test_infrared_dust_is_found_in_the_place_of_the_colours(shift: tuple[int, int]) -> None:
    colours, channel, hole = scan(shift)
    found = infrared.find(lambda top, bottom: (colours[top:bottom], channel[top:bottom]), hole.shape, 0.5)
    precision, recall = overlap(plane(found.damage), hole)
    assert found.shift == shift and precision == 1 and recall == 1


@pytest.mark.parametrize("strip", [9, 50, 113])
def test_strips_of_infrared_give_what_the_whole_gives(strip: int) -> None:
    colours, channel, hole = scan((4, 3))
    whole, parts = (
        infrared.find(lambda top, bottom: (colours[top:bottom], channel[top:bottom]), hole.shape, 0.6, strip=rows)
        for rows in (240, strip)
    )
    assert whole.shift == parts.shift == (4, 3)
    assert np.array_equal(plane(whole.damage), plane(parts.damage)) and len(whole.damage)


def test_infrared_without_dust_marks_nothing() -> None:
    colours = scene()
    channel = np.full(colours.shape[:2], 46000, np.uint16)
    found = infrared.find(lambda top, bottom: (colours[top:bottom], channel[top:bottom]), channel.shape, 1.0)
    assert not len(found.damage) and found.shift == (0, 0)
