"""Filling one picture: who writes what, what windows know of each other, and that no order of work shows."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from conftest import box, texture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_cli.engine import Engine, Tile
from pconv_cli.filling import ArraySurface, Filling, Unfillable, _Reduced, fill
from pconv_cli.layers import Layer, Raw, View
from pconv_cli.nn.pyramid import PyramidFill, reduced
from pconv_cli.regions import Window
from pconv_cli.tiles import plan_grid, plan_tiles

MEASURED = Layer((0,), Raw(np.dtype(np.float32)))


class Stubborn(nn.Module):
    """A network whose every window has a tone of its own: the worst that tiles can do to each other."""

    def forward(self, image: Tensor, known: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tone = (image * known).sum((1, 2, 3), keepdim=True).mul(7.31).remainder(1) * 0.6 + 0.2
        grain = torch.linspace(0, 40 * torch.pi, image.shape[-1]).sin() * 0.02
        return (tone + grain).expand_as(image), torch.ones_like(known)


class Blind(nn.Module):
    """A network that reaches nothing."""

    def forward(self, image: Tensor, known: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.full_like(image, torch.nan), torch.zeros_like(known)


def engine(network: nn.Module | None = None) -> Engine:
    return Engine(network or PyramidFill(), torch.device("cpu"), torch.float32, lambda _: None)


def filled(
    pixels: NDArray[Any], hole: NDArray[np.bool_], size: int = 32, network: nn.Module | None = None, **options: Any
) -> tuple[NDArray[Any], Filling]:
    filling = Filling(ArraySurface(pixels.copy(), options.pop("visible", None)), plan_tiles(hole, size), **options)
    fill(filling, engine(network))
    return filling.surface.read(Window(0, 0, hole.shape[1], hole.shape[0])), filling


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(20, 90), st.integers(20, 90), st.sampled_from([0.02, 0.3, 0.9]), st.booleans()
)
def test_every_damaged_pixel_is_written_and_no_other(
    seed: int, width: int, height: int, share: float, coarse: bool
) -> None:
    rng = np.random.default_rng(seed)
    if coarse:
        hole = np.kron(rng.random((height // 10, width // 10)) < share, np.ones((10, 10), np.bool_))
    else:
        hole = rng.random((height, width)) < share
    hole[0, 0] = False
    before = np.full((*hole.shape, 3), 7, np.uint8)
    before[~hole] = 200
    after, filling = filled(before, hole)
    np.testing.assert_array_equal(after, np.full_like(before, 200))
    assert filling.unfilled == 0


def test_a_picture_in_one_window_is_one_pass_of_the_engine() -> None:
    pixels, hole = texture(64, 48), box(64, 48, 20, 20, 26, 24)
    after, filling = filled(pixels, hole, size=64, guided=False)
    (window,) = filling.plan.windows
    alone = engine().fill([Tile(pixels[window.slices], ~hole[window.slices])], (64, 64))[0]
    np.testing.assert_array_equal(after[hole], alone.pixels[hole[window.slices]])
    assert (filling.windows, filling.pixels) == (1, window.area)


def test_the_order_in_which_tiles_of_a_round_land_does_not_show() -> None:
    rng = np.random.default_rng(3)
    pixels, hole = texture(200, 160), np.kron(rng.random((16, 20)) < 0.5, np.ones((10, 10), np.bool_))
    results = []
    for seed in range(3):
        filling = Filling(ArraySurface(pixels.copy()), plan_tiles(hole, 48))
        runner = engine()
        for pieces in filling.rounds():
            for piece in random.Random(seed).sample(list(pieces), len(pieces)):
                tile = piece.load()
                piece.land(tile, runner.fill([tile], piece.canvas)[0])
        results.append(filling.surface.read(Window(0, 0, 200, 160)))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_bytes_and_floats_are_filled_alike() -> None:
    pixels, hole = texture(120, 100), box(120, 100, 20, 30, 90, 80)
    coarse, _ = filled(pixels, hole, size=48)
    fine, _ = filled((pixels / 255).astype(np.float32), hole, size=48)
    assert np.abs(coarse - fine * 255).max() < 3


# ---------------------------------------------------------------- coarse to fine


def slope(width: int, height: int) -> NDArray[np.uint8]:
    """A picture that goes on evenly, so that any hole in it has one right content."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([40 + 120 * x / width, 60 + 100 * y / height, 128 + 0 * x], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("shape", ["square", "left edge", "ring"])
def test_a_hole_of_many_windows_is_filled_with_something_coherent(shape: str) -> None:
    truth = slope(400, 400)
    hole = box(400, 400, 60, 60, 340, 340)
    if shape == "left edge":
        hole = box(400, 400, 0, 60, 200, 340)
    if shape == "ring":
        hole[150:250, 150:250] = False
    before = np.where(hole[..., None], 0, truth).astype(np.uint8)
    after, filling = filled(before, hole, size=64)
    error = np.abs(after.astype(int) - truth)[hole]
    assert error.mean() < 12 and error.max() < 60
    assert filling.unfilled == 0
    steps = np.abs(np.diff(after.astype(int), axis=1)).max(), np.abs(np.diff(after.astype(int), axis=0)).max()
    assert max(steps) < 12, "no tile shows"


def test_windows_that_see_nothing_but_damage_are_filled_even_by_a_network_that_reaches_nothing() -> None:
    truth, hole = slope(300, 300), box(300, 300, 40, 40, 260, 260)
    after, filling = filled(truth, hole, size=64, network=Blind())
    assert filling.by_pyramid >= hole.sum() and filling.unfilled == 0
    assert np.abs(after.astype(int) - truth)[hole].mean() < 25


@pytest.mark.parametrize("overlap", [0, 16])
@pytest.mark.parametrize("kind", ["bytes", "unit", "raw"])
def test_a_network_that_takes_no_guide_leaves_no_window_in_the_dark(kind: str, overlap: int) -> None:
    truth, hole = slope(300, 300), box(300, 300, 40, 40, 260, 260)
    scale = {"bytes": 1, "unit": 1 / 255, "raw": 40}[kind]
    pixels = np.where(hole[..., None], 0, truth)
    pixels = pixels if kind == "bytes" else pixels.astype(np.float32) * np.float32(scale)
    surface = ArraySurface(pixels)
    plan = plan_tiles(hole, 64, overlap=overlap)
    filling = Filling.of(surface, plan, View(raw=kind == "raw", whole=True), overlap)
    with_guide: list[Tile] = []
    for pieces in filling.rounds():
        for piece in pieces:
            with_guide += [tile for tile in (piece.load(),) if tile.guide is not None]
            piece.land(piece.load(), engine(Blind()).fill([piece.load()], piece.canvas)[0])
    assert not with_guide and filling.unfilled == 0
    error = np.abs(surface.pixels / scale - truth)[hole]
    assert error.mean() < 12 and error.max() < 60


def test_what_a_network_without_a_guide_cannot_reach_stays_nothing_where_a_file_can_say_so() -> None:
    hole = box(200, 200, 20, 20, 180, 180)
    surface = ArraySurface(np.where(hole[..., None], np.nan, np.float32(7)).repeat(3, axis=2).astype(np.float32))
    filling = Filling.of(surface, plan_tiles(hole, 64), View(raw=True, whole=True), layer=MEASURED)
    fill(filling, engine(Blind()))
    assert filling.unfilled == hole.sum() and np.isnan(surface.pixels[hole]).all()


def test_a_guide_lies_where_the_window_lies_whatever_the_offset() -> None:
    truth = slope(320, 320)
    for left in (37, 40, 43):
        hole = box(320, 320, left, left, left + 200, left + 200)
        after, _ = filled(np.where(hole[..., None], 0, truth).astype(np.uint8), hole, size=64)
        assert np.abs((after.astype(int) - truth)[hole].mean()) < 3, "shifted by a cell it would lean to one side"


def test_guides_are_made_of_reduced_tiles_which_share_no_batch_with_others() -> None:
    pixels, hole = texture(96, 96), box(96, 96, 20, 20, 60, 60)
    filling = Filling(ArraySurface(pixels.copy()), plan_tiles(hole, 64))
    seen = []
    for pieces in filling.rounds():
        for piece in pieces:
            done = piece.load()
            seen.append((done.reduced, done.pixels.shape[0] <= 12, piece.shape[3]))
            piece.land(done, engine().fill([done], piece.canvas)[0])
    assert {reduced for reduced, _, _ in seen} == {True, False}
    assert all(reduced == small == apart for reduced, small, apart in seen)


@pytest.mark.parametrize(("side", "levels"), [(96, 1), (512, 1), (900, 2)])
def test_a_reduced_picture_has_a_guide_of_its_own_only_where_one_window_does_not_see_all_of_it(
    side: int, levels: int
) -> None:
    quarter = side // 4
    hole = box(side, side, quarter, quarter, 3 * quarter, 3 * quarter)
    filling = Filling(ArraySurface(texture(side, side).copy()), plan_tiles(hole, 64))
    reduced = []
    for pieces in filling.rounds():
        reduced += [piece.filling.surface.width for piece in pieces if piece.shape[3]]
        for piece in pieces:
            done = piece.load()
            piece.land(done, engine().fill([done], piece.canvas)[0])
    assert sorted(set(reduced), reverse=True) == [-(-side // 8), -(-side // 64)][:levels]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 16]), st.booleans())
def test_a_picture_is_reduced_for_a_guide_as_crops_are_in_training(
    seed: int, width: int, height: int, factor: int, floats: bool
) -> None:
    rng = np.random.default_rng(seed)
    hole = np.kron(rng.random((9, 9)) < 0.6, np.ones((8, 8), np.bool_))[:height, :width] | (
        rng.random((height, width)) < 0.2
    )
    hole[-1, -1] = False
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.float32 if floats else np.uint8)
    down, across = -(-height // factor), -(-width // factor)
    cells = _Reduced(
        factor, np.zeros((down, across, 3), pixels.dtype), np.zeros((down, across), np.bool_),
        np.zeros((down, across), np.bool_),
    )  # fmt: skip
    cells.put(Window(0, 0, width, height), pixels, ~hole, hole)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    tones, some = reduced(image, torch.from_numpy(~hole)[None, None].float(), factor)
    assert np.array_equal(cells.known, some[0, 0].numpy() > 0)
    assert np.abs(cells.pixels - tones[0].permute(1, 2, 0).numpy()).max() < (0.01 if floats else 0.51)
    assert all(
        cells.hole[y, x] == hole[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].any()
        for y in range(down)
        for x in range(across)
    )


def test_where_a_picture_is_reduced_by_blocks_only_cells_at_their_rims_may_know_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pconv_cli.filling.BLOCK", 32)
    rng = np.random.default_rng(3)
    hole = np.kron(rng.random((14, 17)) < 0.7, np.ones((8, 8), np.bool_))[:107, :131]
    pixels = rng.integers(0, 256, (107, 131, 3)).astype(np.uint8)
    made = Filling(ArraySurface(pixels), plan_tiles(hole, 64))
    cells = made._reduced([(x, y) for y in range(0, 107, 32) for x in range(0, 131, 32)], 1 << 20)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    tones, some = reduced(image, torch.from_numpy(~hole)[None, None].float())
    known, wanted = some[0, 0].numpy() > 0, tones[0].permute(1, 2, 0).numpy()
    row, column = np.indices(known.shape)
    inner = ~np.isin(row % 4, (0, 3)) & ~np.isin(column % 4, (0, 3))
    assert np.array_equal(cells.known[inner], known[inner]) and np.abs(cells.pixels - wanted)[inner].max() < 0.51
    assert not (cells.known & ~known).any() and (known & ~cells.known).any(), "less, and never more"


def test_thin_damage_needs_no_guide() -> None:
    hole = box(200, 200, 10, 50, 190, 57)
    _, filling = filled(texture(200, 200), hole, size=64)
    assert filling.windows == sum(len(p.windows) for p in (filling.plan, *filling.plan.heals))


class Watched(ArraySurface):
    """A surface that counts the pixels that are read."""

    count = 0

    def read(self, window: Window) -> NDArray[Any]:
        self.count += window.area
        return super().read(window)


@pytest.mark.parametrize("where", ["right edge", "bottom edge", "corner", "where windows meet"])
def test_a_guide_is_made_of_what_lies_round_deep_damage_wherever_that_is(where: str) -> None:
    side = 1603  # the last cell of each row and column is of 3 px
    left, top = {
        "right edge": (1596, 796), "bottom edge": (796, 1596), "corner": (1596, 1596), "where windows meet": (796, 796),
    }[where]  # fmt: skip
    hole = box(side, side, left, top, min(left + 24, side), min(top + 24, side))
    plan = plan_tiles(hole, 256)
    if where == "where windows meet":  # the only whole cell lies across the lines of a grid
        hole = box(side, side, 796, 796, 812, 812)
        plan = plan_grid(hole, 268)
        assert len(plan.windows) == 4
    surface = Watched(texture(side, side))
    filling = Filling(surface, plan)
    fill(filling, engine())
    assert filling.unfilled == 0 and filling.windows > sum(len(p.windows) for p in (plan, *plan.heals)), "no guide"
    assert surface.count < side**2


def test_what_shows_nothing_is_not_learnt_from() -> None:
    pixels = np.full((96, 96, 3), 150, np.uint8)
    visible = np.ones((96, 96), np.bool_)
    visible[:, 40:] = False
    pixels[~visible] = 0
    hole = box(96, 96, 30, 30, 60, 60)
    pixels[hole] = 9
    after, _ = filled(pixels, hole, visible=visible)
    assert (after[hole] == 150).all() and (after[:, 60:] == 0).all()


def test_a_speck_in_a_desert_of_nothing_is_filled_from_far_away() -> None:
    pixels = np.zeros((700, 700, 3), np.uint8)
    visible = np.zeros((700, 700), np.bool_)
    visible[680:, 680:] = True
    pixels[visible] = 180
    hole = box(700, 700, 5, 5, 8, 8)
    after, _ = filled(pixels, hole, size=64, visible=visible)
    assert (np.abs(after[hole].astype(int) - 180) <= 1).all()


def test_a_picture_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(Unfillable):
        filled(texture(64, 64), np.ones((64, 64), np.bool_))


# ---------------------------------------------------------------- cuts


def test_tones_that_differ_from_window_to_window_are_levelled_and_healed() -> None:
    pixels, hole = texture(300, 300), box(300, 300, 20, 20, 280, 280)
    hole[40::60, 40::60] = False  # so that every window sees something of its own
    plain, rough = filled(pixels, hole, size=128, network=Stubborn(), guided=False, healed=False)
    joined, smooth = filled(pixels, hole, size=128, network=Stubborn(), guided=False)
    before, after = rough.seams().ratio(), smooth.seams().ratio()
    assert before is not None and after is not None
    assert before > 10 and after < 2
    assert rough.plan.crossings == smooth.plan.crossings > 0
    assert smooth.windows > rough.windows
    assert (plain[~hole] == joined[~hole]).all() and smooth.unfilled == rough.unfilled == 0


def test_a_plan_without_cuts_heals_nothing() -> None:
    _, filling = filled(texture(300, 300), box(300, 300, 100, 100, 180, 180), size=256)
    assert filling.plan.crossings == 0 and filling.seams().ratio() is None


# ---------------------------------------------------------------- overlap, for comparison


@pytest.mark.parametrize("overlap", [1, 8, 32])
def test_overlapping_windows_fill_every_damaged_pixel_and_no_other(overlap: int) -> None:
    pixels = np.full((150, 170, 3), 90, np.uint8)
    hole = np.kron(np.random.default_rng(0).random((15, 17)) < 0.4, np.ones((10, 10), np.bool_))
    before = pixels.copy()
    before[hole] = 3
    after, filling = filled(before, hole, size=64, overlap=overlap)
    np.testing.assert_array_equal(after, pixels)
    assert filling.unfilled == 0


def test_as_many_overlapping_windows_are_planned_as_are_computed_and_nothing_is_cut() -> None:
    pixels, hole = texture(170, 150), box(170, 150, 10, 60, 160, 66)
    filling = Filling(ArraySurface(pixels), plan_tiles(hole, 64, overlap=16), 16, guided=False)
    fill(filling, engine())
    assert filling.planned == filling.windows == len(filling.plan.windows) > 2
    assert filling.pixels == filling.plan.pixels_to_compute
    assert filling.plan.crossings == 0 and filling.seams().ratio() is None


def test_under_a_mask_overlapping_windows_leave_what_the_network_does_not_reach_and_nothing_else() -> None:
    class Partly(nn.Module):
        """A network that reaches the upper rows of its windows."""

        def forward(self, image: Tensor, known: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor]:
            reached = torch.zeros_like(known)
            reached[..., :40, :] = 1
            return torch.full_like(image, 7), reached

    hole = box(170, 150, 10, 10, 160, 140)
    surface = ArraySurface(np.full((150, 170, 1), 3, np.float32))
    plan = plan_tiles(hole, 64, overlap=16)
    filling = Filling.of(surface, plan, View(1, raw=True, whole=True), 16, layer=MEASURED)
    fill(filling, engine(Partly()))
    left = np.isnan(surface.pixels[..., 0])
    assert 0 < left.sum() < hole.sum() and filling.unfilled == left.sum()
    assert (surface.pixels[hole & ~left] == 7).all() and (surface.pixels[~hole] == 3).all()


def test_the_wider_the_overlap_the_softer_the_step() -> None:
    hole = np.ones((200, 200), np.bool_)
    hole[10::50, 10::50] = False
    pixels = texture(200, 200)
    steps = []
    for overlap in (0, 8, 32):
        filling = Filling(ArraySurface(pixels.copy()), plan_grid(hole, 96), overlap, guided=False, healed=False)
        fill(filling, engine(Stubborn()))
        after = filling.surface.read(Window(0, 0, 200, 200)).astype(int)
        steps.append(np.abs(np.diff(after[100], axis=0)).max())
    assert steps[0] > 2 * steps[1] and steps[1] >= steps[2]
