"""What is added to the floor is held to what is around: `pconv_cli/nn/restraint.py`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pconv_cli.nn.restraint import PEAK, SPREAD, doubled, restrained


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hole(height: int, width: int) -> Tensor:
    """1 = known; a third of each side, in the middle, is not."""
    known = torch.ones(1, 1, height, width)
    known[..., height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 0
    return known


def strength(image: Tensor, where: Tensor) -> float:
    """Root mean square in some pixels."""
    return float((image.square() * where).sum() / where.expand_as(image).sum()) ** 0.5


def test_where_all_is_flat_next_to_nothing_is_added() -> None:
    known = hole(96, 96)
    added = 0.1 * noise(1, 3, 96, 96) * (1 - known)
    out = restrained(added, torch.full_like(added, 0.3), known)
    assert strength(out, 1 - known) < 0.001


def test_detail_as_strong_as_around_stays() -> None:
    known = hole(96, 96)
    texture = 0.1 * noise(1, 1, 96, 96).expand(-1, 3, -1, -1)
    added = 0.05 * noise(1, 1, 96, 96, seed=1).expand(-1, 3, -1, -1) * (1 - known)
    out = restrained(added, texture * known, known)
    assert strength(out - added, 1 - known) < 0.1 * strength(added, 1 - known)


@pytest.mark.parametrize("size", [1, 2, 4], ids="detail of {} px".format)
def test_detail_is_held_to_the_strength_of_the_same_detail_around(size: int) -> None:
    known = hole(192, 192)

    def grain(seed: int) -> Tensor:
        blocks = noise(1, 1, 192 // size, 192 // size, seed=seed).repeat_interleave(size, 2)
        return blocks.repeat_interleave(size, 3)

    added = grain(1) * (1 - known)
    out = restrained(added, 0.01 * grain(0) * known, known)
    # Beside a hole detail of the whole and of what is added cannot be told apart: look further in.
    inside = F.max_pool2d(known, 2 * 8 + 1, 1, 8) == 0
    assert 0.003 < strength(out, inside) < 0.01 * PEAK
    assert float(out[inside].abs().max()) < 0.01 * PEAK * (3 + SPREAD)  # three bands and the rest


def test_tones_are_held_to_those_around() -> None:
    known = hole(192, 192)
    floor = 0.5 + 0.01 * noise(1, 1, 192, 192) * known
    drift = 0.2 * (1 - known)
    out = restrained(drift, floor, known)
    assert float(out[..., 96, 96]) < 0.01 * SPREAD + 0.001
    across = torch.linspace(0, 1, 192).expand(1, 1, 192, 192)  # tones lie far apart: there is room
    out = restrained(drift, across * known + 0.5 * (1 - known), known)
    assert float(out[..., 96, 96]) > 0.18


def test_of_reduced_pictures_every_pixel_is_a_tone() -> None:
    known = hole(24, 24)
    added = 0.1 * noise(1, 1, 24, 24, seed=1) * (1 - known)
    quiet, loud = 0.001 * noise(1, 1, 24, 24), noise(1, 1, 24, 24)
    assert strength(restrained(added, quiet * known, known, bands=0), 1 - known) < 0.005
    torch.testing.assert_close(restrained(added, loud * known, known, bands=0), added, atol=0.01, rtol=0)


def test_nothing_added_is_nothing() -> None:
    known = hole(40, 33)
    out = restrained(torch.zeros(1, 3, 40, 33), noise(1, 3, 40, 33), known)
    assert not out.any()


@pytest.mark.parametrize("bands", [0, 3])
def test_where_nothing_is_known_all_of_it_stays(bands: int) -> None:
    added = noise(2, 3, 37, 52)
    out = restrained(added, torch.zeros_like(added), torch.zeros(2, 1, 37, 52), bands)
    torch.testing.assert_close(out, added, atol=1e-5, rtol=0)


def test_an_image_does_not_depend_on_its_company() -> None:
    known = torch.cat([hole(48, 64), torch.zeros(1, 1, 48, 64), 1 - hole(48, 64)])
    floor, added = noise(3, 3, 48, 64) * known, noise(3, 3, 48, 64, seed=1) * (1 - known)
    together = restrained(added, floor, known)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(restrained(added[one], floor[one], known[one]), together[one])


def test_the_scale_of_values_does_not_matter() -> None:
    known = hole(64, 64)
    floor, added = noise(1, 3, 64, 64) * known, noise(1, 3, 64, 64, seed=1) * (1 - known)
    torch.testing.assert_close(
        restrained(300 * added, 300 * floor, known), 300 * restrained(added, floor, known), atol=0.01, rtol=1e-4
    )


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 3), st.floats(0, 1), st.integers(0, 9))
def test_any_size_and_any_hole_gives_numbers_no_larger_than_what_was_added(
    height: int, width: int, channels: int, bands: int, share: float, seed: int
) -> None:
    known = (torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed)) < share).float()
    floor = noise(2, channels, height, width, seed=seed) * known
    added = noise(2, channels, height, width, seed=seed + 1) * (1 - known)
    out = restrained(added, floor, known, bands)
    assert out.shape == added.shape
    assert bool(out.isfinite().all())
    # Each band may lose and none gains; only where they were against each other can their sum grow.
    assert float(out.abs().max()) <= (2 * bands + 1) * float(added.abs().max()) + 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 2), (8, 8)], ids=str)
def test_a_cpu_doubles_in_shifted_sums_as_bilinear_interpolation_does(size: tuple[int, int]) -> None:
    image = noise(2, 3, *size)
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(doubled(image), expected)
