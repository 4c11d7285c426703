"""Fills get the grain of the picture around: `pconv_cli/nn/grain.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cli import weights as store
from pconv_cli.filling import ArraySurface, Filling
from pconv_cli.layers import Alone, Layer, Palette, Raw, View
from pconv_cli.nn.grain import PERIOD, SPOTS, _basis, grain
from pconv_cli.spaces import Space
from pconv_cli.tiles import plan_tiles

ORIGIN = [(0, 0)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coarse(*shape: int, seed: int = 0) -> Tensor:
    """Grain of film: spots of some two pixels, of a root mean square of 1."""
    spots = F.avg_pool2d(noise(*shape[:-2], shape[-2] + 1, shape[-1] + 1, seed=seed), 2, 1)
    return spots / spots.square().mean().sqrt()


def hole(height: int, width: int) -> Tensor:
    """1 = known; a third of each side, in the middle, is not."""
    known = torch.ones(1, 1, height, width)
    known[..., height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 0
    return known


def strength(image: Tensor, where: Tensor) -> float:
    """Root mean square in some pixels."""
    return math.sqrt(float((image.square() * where).sum() / where.expand_as(image).sum()))


def scan(known: Tensor, size: float = 0.03, channels: int = 3, make: Callable[..., Tensor] = coarse) -> Tensor:
    """A grey wall with grain, filled smoothly; the grain is that of grey film."""
    grains = make(1, 1, *known.shape[2:]).expand(-1, channels, -1, -1)
    return 0.5 + size * grains * known


@pytest.mark.parametrize("make", [noise, coarse], ids=["fine", "coarse"])
@pytest.mark.parametrize("size", [0.01, 0.03])
def test_a_smooth_fill_gets_about_the_grain_around_and_rather_less(size: float, make: Callable[..., Tensor]) -> None:
    known = hole(192, 192)
    added = grain(scan(known, size, make=make), known, ORIGIN)
    inside = F.max_pool2d(known, 9, 1, 4) == 0
    assert 0.6 * size < strength(added, inside.float()) < 1.1 * size


def test_fine_grain_stays_fine_and_coarse_grain_coarse() -> None:
    known = hole(192, 192)
    neighbours = []
    for make in (noise, coarse):
        added = grain(scan(known, make=make), known, ORIGIN)[0, 0, 70:120, 70:120]
        neighbours.append(float((added[:, 1:] * added[:, :-1]).mean() / added.square().mean()))
    assert abs(neighbours[0]) < 0.2
    assert 0.3 < neighbours[1] < 0.7


def test_nothing_is_added_where_known() -> None:
    known = hole(192, 192)
    added = grain(scan(known), known, ORIGIN)
    assert added.any()
    assert not (added * known).any()


def test_grain_of_grey_film_is_grey() -> None:
    known = hole(192, 192)
    added = grain(scan(known), known, ORIGIN)
    assert torch.allclose(added[:, :1], added[:, 1:2], atol=1e-5)
    single = grain(scan(known, channels=1), known, ORIGIN)
    assert torch.allclose(added[:, :1], single, atol=1e-6)


def test_colours_are_as_strong_and_as_alike_as_around() -> None:
    known = hole(256, 256)
    sizes = torch.tensor([0.01, 0.02, 0.04])[:, None, None]
    added = grain(0.5 + sizes * noise(1, 3, 256, 256) * known, known, ORIGIN)
    inside = (F.max_pool2d(known, 9, 1, 4) == 0).float()
    for channel, size in enumerate(sizes.flatten().tolist()):
        assert 0.6 * size < strength(added[:, channel : channel + 1], inside) < 1.1 * size
    values = added[0][:, inside[0, 0] > 0]
    assert abs(float(torch.corrcoef(values)[0, 2])) < 0.2


@pytest.mark.parametrize("kind", ["flat", "a ramp", "text", "leaves"])
def test_what_is_no_grain_is_not_taken_for_it(kind: str) -> None:
    known = hole(192, 192)
    image = torch.full((1, 3, 192, 192), 0.6)
    if kind == "a ramp":
        image = torch.linspace(0.2, 0.8, 192).expand(1, 3, 192, -1).clone()
    elif kind == "text":  # on paper that is as white everywhere
        image[..., 8:30, 10:180] = (noise(1, 1, 22, 170) > 0).float()
    elif kind == "leaves":  # edges everywhere, at random, here more and there less
        image = (F.interpolate(noise(1, 1, 24, 24), scale_factor=8) > 0.5).float().expand(-1, 3, -1, -1) * 0.8
    assert not grain(image * known + 0.5 * (1 - known), known, ORIGIN).any()


def test_a_picture_has_no_more_grain_than_its_quietest_part_of_that_tone() -> None:
    known = hole(192, 192)
    image = scan(known)
    image[..., :60] = 0.5  # a third has none: so what the rest has is no grain
    assert not grain(image, known, ORIGIN).any()


def test_white_paper_stays_clean_beside_grey_that_has_grain() -> None:
    known = torch.ones(1, 1, 192, 192)
    known[..., 20:60, 80:120] = known[..., 120:160, 80:120] = 0
    image = scan(known)
    image[..., :90, :] = 1
    added = grain(image, known, ORIGIN)
    assert not added[..., 20:60, :].any()
    assert strength(added, 1 - known) > 0.015


def test_a_fill_that_has_grain_gets_no_more() -> None:
    known = hole(192, 192)
    image = 0.5 + 0.03 * coarse(1, 1, 192, 192).expand(-1, 3, -1, -1)
    smooth, rough = (strength(grain(given, known, ORIGIN), 1 - known) for given in (scan(known), image))
    assert rough < 0.3 * smooth


def test_an_image_of_a_batch_is_as_alone() -> None:
    known = torch.cat([hole(96, 120), 1 - hole(96, 120), torch.ones(1, 1, 96, 120)])
    images = 0.5 + 0.03 * coarse(3, 3, 96, 120) * known
    origins = [(3, 500), (40, 7), (0, 0)]
    together = grain(images, known, origins)
    for i, origin in enumerate(origins):
        assert torch.allclose(together[i : i + 1], grain(images[i : i + 1], known[i : i + 1], [origin]), atol=1e-6)


def test_windows_that_share_pixels_add_the_same() -> None:
    known = hole(192, 288)
    image = scan(known)
    left, right = (
        grain(image[..., :200], known[..., :200], [(5, 7)]),
        grain(image[..., 88:], known[..., 88:], [(5, 95)]),
    )
    first, second = left[..., 112:180][..., 70:120, :], right[..., 24:92][..., 70:120, :]
    assert float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) > 0.98


def test_the_field_goes_on_where_it_comes_again() -> None:
    fields = _basis(4, torch.device("cpu"), torch.float32).fields
    assert fields.shape == (len(SPOTS), 4, PERIOD, PERIOD)
    for field in fields:
        for axis in (1, 2):
            steps = (field - field.roll(1, axis)).square().mean((0, 3 - axis))
            assert float(steps[0]) < 1.3 * float(steps.mean())


@pytest.mark.parametrize("size", [(1, 1), (31, 200), (33, 47), (64, 37)])
def test_any_size_and_any_type_of_floats(size: tuple[int, int]) -> None:
    known = hole(*size).double()
    image = 0.5 + 0.03 * noise(1, 1, *size).double() * known
    added = grain(image, known, ORIGIN)
    assert added.shape == image.shape
    assert added.dtype == torch.float64
    assert added.isfinite().all()


# ---------------------------------------------------------------- which pictures get any


def space(dtype: str, low: float = 0, high: float = 1) -> Space:
    return Space(1, np.dtype(dtype), low=low, high=high)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Layer((0,), space("uint8")), True),
        (Layer((0,), space("uint16", 0, 4095)), True),
        (Layer((0,), Alone(space("uint16"))), True),
        (Layer((0,), space("float32")), True),
        (Layer((0,), space("float32", -3, 2000)), False),
        (Layer((0,), space("int16", -3, 2000)), False),
        (Layer((0,), Raw(np.dtype("float32"))), False),
        (Layer((0,), Palette(np.zeros((2, 4), np.uint8))), False),
    ],
    ids=str,
)
def test_tones_get_grain_and_what_was_measured_does_not(layer: Layer, expected: bool) -> None:
    surface = ArraySurface(np.zeros((64, 64, 3), np.uint8))
    plan = plan_tiles(np.eye(64, dtype=bool), 512)
    filling = Filling.of(surface, plan, View(), layer=layer)
    assert layer.may_have_grain is filling.grained is expected


def test_the_default_network_adds_grain_and_the_pyramid_alone_does_not() -> None:
    assert store.view(None).grain
    assert not store.view("none").grain


def filled(pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]) -> tuple[int, int] | None:
    """Where the first tile of a picture with one scratch lies in the field."""
    damage = np.zeros(pixels.shape[:2], bool)
    damage[20:22, 10:50] = True
    filling = Filling.of(ArraySurface(pixels), plan_tiles(damage, 512), View())
    return next(iter(filling.rounds()))[0].load().grain


def test_frames_of_a_film_do_not_share_their_grain_and_the_same_picture_has_the_same() -> None:
    frames = [np.random.default_rng(seed).integers(90, 110, (64, 64, 3), np.uint8) for seed in (0, 1, 0)]
    first, second, again = map(filled, frames)
    assert first is not None
    assert first == again != second
    frames[2][20:22, 10:50] = 255  # what is lost says nothing
    assert filled(frames[2]) == first
