"""Measures against the same sums written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import one_thread  # noqa: F401 - a fixture

from pconv_cli.metrics import l1, psnr, ssim

Plane = NDArray[np.float64]


def pair(seed: int, n: int = 2, height: int = 9, width: int = 7) -> tuple[Plane, Plane, Plane]:
    """Two pictures that resemble each other, and where to count."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 3, height, width))
    image = np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, 1)
    where = (rng.random((n, 1, height, width)) < 0.4).astype(np.float64)
    where[:, :, 0, 0] = 1
    return image, truth, where


def counted(values: Plane, where: Plane | None) -> list[float]:
    """Mean of each image over the pixels that count."""
    if where is None:
        return [float(plane.mean()) for plane in values]
    return [float(v[:, w[0] > 0].mean()) for v, w in zip(values, where, strict=True)]


def ssim_map(a: Plane, b: Plane) -> Plane:
    """Wang et al. 2004, equation 13, window by window; the border is mirrored about its pixels."""
    row = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(row, row) / row.sum() ** 2
    out = np.zeros_like(a)
    a, b = np.pad(a, 5, mode="reflect"), np.pad(b, 5, mode="reflect")
    for y, x in np.ndindex(out.shape):
        p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
        mean_p, mean_q = (window * p).sum(), (window * q).sum()
        var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
        cov = (window * (p - mean_p) * (q - mean_q)).sum()
        luminance = (2 * mean_p * mean_q + 0.01**2) / (mean_p**2 + mean_q**2 + 0.01**2)
        out[y, x] = luminance * (2 * cov + 0.03**2) / (var_p + var_q + 0.03**2)
    return out


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_l1_and_psnr_are_means_over_the_pixels_that_count(seed: int, masked: bool) -> None:
    image, truth, mask = pair(seed)
    where = mask if masked else None
    tensors = [torch.from_numpy(image), torch.from_numpy(truth), None if where is None else torch.from_numpy(where)]
    assert l1(*tensors).tolist() == pytest.approx(counted(np.abs(image - truth), where))
    expected = [10 * math.log10(1 / mse) for mse in counted((image - truth) ** 2, where)]
    assert psnr(*tensors).tolist() == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_ssim_is_the_mean_of_the_gaussian_map_over_the_pixels_that_count(seed: int, masked: bool) -> None:
    image, truth, mask = pair(seed, n=1)
    where = mask if masked else None
    similarity = np.stack(
        [[ssim_map(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(image, truth, strict=True)]
    )
    weight = None if where is None else torch.from_numpy(where)
    found = ssim(torch.from_numpy(image), torch.from_numpy(truth), weight)
    assert found.tolist() == pytest.approx(counted(similarity, where), abs=1e-9)
    low = ssim(
        torch.from_numpy(image).float(), torch.from_numpy(truth).float(), None if weight is None else weight.float()
    )
    assert low.tolist() == pytest.approx(found.tolist(), abs=1e-4)


def test_by_hand() -> None:
    image = torch.tensor([[[[0.0, 0.5]], [[1.0, 1.0]]], [[[0.1, 0.2]], [[0.3, 0.4]]]])
    truth = torch.tensor([[[[0.0, 0.0]], [[1.0, 0.5]]], [[[0.1, 0.2]], [[0.3, 0.4]]]])
    assert l1(image, truth).tolist() == pytest.approx([0.25, 0])
    assert psnr(image, truth).tolist() == pytest.approx([10 * math.log10(8), math.inf])
    right = torch.tensor([0.0, 1.0]).expand(2, 1, 1, 2)
    assert l1(image, truth, right).tolist() == pytest.approx([0.5, 0])
    assert psnr(image, truth, right).tolist() == pytest.approx([10 * math.log10(4), math.inf])
    assert psnr(image, truth, 1 - right).tolist() == [math.inf, math.inf]


def test_equal_pictures_have_ssim_1_and_the_measure_is_symmetric() -> None:
    image, truth, _ = (torch.from_numpy(plane) for plane in pair(0, height=6, width=12))
    torch.testing.assert_close(ssim(truth, truth), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(ssim(image, truth), ssim(truth, image))
    assert bool((ssim(image, truth) < 0.95).all())
    assert bool((ssim(1 - truth, truth) < 0).all())


def test_constant_pictures_differ_in_luminance_only() -> None:
    a, b = (torch.full((1, 3, 8, 8), value, dtype=torch.float64) for value in (0.25, 0.75))
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert float(ssim(a, b)) == pytest.approx(expected)
