"""Masks that hug their damage are told of, once a run, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Workplace
from numpy.typing import NDArray
from PIL import Image

from pconv_cli import halo
from pconv_cli import restore as use_case
from pconv_cli.check import check
from pconv_cli.events import Event, ItemDone, Notice
from pconv_cli.masks import dilate
from pconv_cli.remote import Stage
from pconv_cli.report import Report
from pconv_cli.restore import RestoreSettings, plan, restore
from pconv_cli.settings import HUGS, Settings
from pconv_cli.tile import tile

Hole = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


def scene(seed: int = 0) -> Pixels:
    """Slopes and grain, a border of light and dark among them, (160, 200, 3)."""
    rng = np.random.default_rng(seed)
    clouds = cv2.resize(rng.uniform(70, 160, (4, 5, 3)).astype(np.float32), (200, 160), None, 0, 0, cv2.INTER_CUBIC)
    clouds = clouds * np.where(np.arange(200) < 120, 1, 0.6)[:, None]
    return np.asarray((clouds + rng.normal(0, 4, (160, 200, 1))).clip(0, 255).round().astype(np.uint8))


def dust(seed: int = 0) -> Hole:
    """Specks and a hair."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((160, 200), np.uint8)
    for x, y, radius in rng.integers((4, 4, 2), (196, 156, 8), (12, 3)).tolist():
        cv2.circle(mask, (x, y), radius, 1, -1)
    cv2.line(mask, (20, 150), (110, 30), 1, 2)
    return mask > 0


def painted(picture: Pixels, hole: Hole, value: int = 240, sigma: float = 0.5) -> Pixels:
    """Damage with edges as soft as `sigma` says."""
    share = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), sigma)[..., None] if sigma else hole[..., None]
    return np.asarray((picture * (1 - share) + value * share).round().astype(np.uint8))


@pytest.mark.parametrize("kind", ["bytes", "floats", "grey"])
@pytest.mark.parametrize("sigma", [0.5, 1, 1.5])
@pytest.mark.parametrize("value", [240, 5])
def test_a_mask_of_all_that_is_seen_of_soft_damage_hugs_it_and_with_room_does_not(
    kind: str, sigma: float, value: int
) -> None:
    for seed in range(3):
        hole = dust(seed)
        picture: NDArray[Any] = painted(scene(seed), hole, value, sigma)
        picture = {"bytes": picture, "floats": picture.astype(np.float32) / 255, "grey": picture[..., :1]}[kind]
        assert halo.hugs([(picture, hole)])
        assert not halo.hugs([(picture, dilate(hole, 2 if sigma < 1 else 4))])


def test_of_hard_damage_of_none_and_of_no_mask_at_all_nothing_is_said() -> None:
    for seed in range(6):
        picture, hole = scene(seed), dust(seed)
        assert not halo.hugs([(painted(picture, hole, sigma=0), hole)])
        assert not halo.hugs([(picture, hole)])
        assert not halo.hugs([(picture, np.zeros_like(hole))])
    assert not halo.hugs([])


def test_the_outline_of_an_object_is_no_halo() -> None:
    picture, there = scene(), np.zeros((160, 200), np.uint8)
    cv2.ellipse(there, (90, 80), (50, 30), 20, 0, 360, 1, -1)
    object_ = there > 0
    picture[object_] = (picture[object_] * 0.3).astype(np.uint8)
    for room in (0, 1, 2, 4):
        assert not halo.hugs([(picture, dilate(object_, room))])


def test_a_few_soft_specks_of_many_hard_ones_are_no_reason_and_the_parts_of_a_picture_count_as_one() -> None:
    picture, hole = scene(), dust()
    soft, hard = (painted(picture, hole), hole), (painted(picture, hole, sigma=0), hole)
    assert halo.hugs([soft, hard]) and halo.hugs([hard, soft]) and not halo.hugs([soft] + [hard] * 7)


def test_values_that_are_not_there_are_no_halo() -> None:
    picture = (painted(scene(), dust()) / 255).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        picture[::5] = value
        assert not halo.hugs([(picture, dust())])


@pytest.mark.parametrize("count", [0, 1, 16, 17, 32, 1000])
def test_of_many_parts_some_tell_from_all_over_the_picture(count: int) -> None:
    looked_at = halo.sampled(range(count))
    assert min(count, halo.PARTS / 2) <= len(looked_at) <= halo.PARTS
    assert not count or (looked_at[0] == 0 and looked_at[-1] >= count * 0.85 - 1)


# ---------------------------------------------------------------- a run


def fill(work: Workplace, soft: int, hard: int) -> None:
    for index in range(soft + hard):
        name, hole = f"{index}.png", dust(index)
        Image.fromarray(painted(scene(index), hole, sigma=0.5 if index < soft else 0)).save(work.pictures / name)
        work.mask(name, hole)


def go(work: Workplace, out: str = "out", **chosen: Any) -> tuple[Report, list[Event]]:
    events: list[Event] = []
    settings = RestoreSettings(weights="none", device="cpu", precision="fp32", **chosen)
    return restore(plan(work.pictures, work.masks, str(work.root / out), settings), settings, events.append), events


def test_a_run_tells_once_in_how_many_pictures_masks_hug_their_damage(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(work, 3, 2)
    for worth in (1, 1000):  # in processes of their own, and here
        monkeypatch.setattr(use_case, "WORTH_HELPERS", worth)
        report, events = go(work, f"out{worth}", jobs=2)
        told = [event.text for event in events if isinstance(event, Notice)]
        assert told == [f"in 3 of 5 pictures the mask {HUGS}: try --dilate 2"] == list(report.notices)
        assert [bool(item.notices) for item in report.items] == [True] * 3 + [False] * 2
        assert not any(event.notices for event in events if isinstance(event, ItemDone))


def test_a_mask_that_is_grown_is_told_of_where_it_still_hugs(work: Workplace) -> None:
    fill(work, 1, 0)
    assert go(work)[0].notices == (f"the mask {HUGS}: try --dilate 2",)
    assert go(work, "grown", dilate=2)[0].notices == ()
    Image.fromarray(painted(scene(), dilate(dust(), 2))).save(work.pictures / "0.png")
    assert go(work, "still", dilate=2)[0].notices == (f"the mask {HUGS}: try --dilate 4",)


def test_check_tells_it_before_the_run_and_finds_the_pictures_usable(work: Workplace) -> None:
    fill(work, 3, 2)
    settings = RestoreSettings()
    todo = plan(work.pictures, work.masks, str(work.out), settings)
    found = check(todo, settings, lambda _: None, lambda: False, writes=True, stage=Stage())
    assert [finding.reason for finding in found.findings] == [f"in 3 of 5 pictures the mask {HUGS}: try --dilate 2"]
    assert found.usable


@pytest.mark.parametrize("sigma", [0.5, 0])
def test_tile_tells_it_too(tmp_path: Path, sigma: float) -> None:
    Image.fromarray(painted(scene(), dust(), sigma=sigma)).save(tmp_path / "a.tif")
    Image.fromarray(dust()).save(tmp_path / "m.png")
    settings = Settings(weights="none", device="cpu", precision="fp32")
    report = tile(tmp_path / "a.tif", tmp_path / "m.png", tmp_path / "o.tif", settings, lambda _: None, lambda: False)
    told = (f"{tmp_path / 'm.png'}: the mask {HUGS}: try --dilate 2",) if sigma else ()
    assert report.notices == told
