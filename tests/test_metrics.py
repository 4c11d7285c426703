"""Measures against the same sums written out in numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import one_thread  # noqa: F401 - a fixture

from pconv_cli.metrics import l1, perceptual_distance, psnr, ssim

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


# Features


def ladder(seed: int, n: int = 3, noise: float = 0.0) -> list[torch.Tensor]:
    """Two stages of features, some of whose positions hold nothing at all."""
    rng = np.random.default_rng(seed)
    stages = []
    for channels, height, width in ((5, 6, 4), (7, 3, 2)):
        values = np.maximum(rng.normal(0, 1, (n, channels, height, width)), 0)
        values *= rng.random((n, 1, height, width)) < 0.9
        stages.append(torch.from_numpy(values + noise * np.random.default_rng(seed + 1).random(values.shape)))
    return stages


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 2))
def test_perceptual_distance_is_0_for_the_same_symmetric_and_each_image_s_own(seed: int) -> None:
    a, b = ladder(seed), ladder(seed + 1)
    assert perceptual_distance(a, a).tolist() == [0, 0, 0]
    distance = perceptual_distance(a, b)
    assert torch.equal(distance, perceptual_distance(b, a))
    single = [perceptual_distance([f[i : i + 1] for f in a], [f[i : i + 1] for f in b]) for i in range(3)]
    torch.testing.assert_close(distance, torch.cat(single))
    assert bool((distance > 0).all()) and bool((distance <= 2 * len(a)).all())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 2))
def test_perceptual_distance_grows_with_noise(seed: int) -> None:
    clean = ladder(seed)
    distances = [perceptual_distance(ladder(seed, noise=noise), clean) for noise in (0.0, 0.1, 0.3, 1.0)]
    for less, more in itertools.pairwise(distances):
        assert bool((less < more).all())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 2))
def test_perceptual_distance_is_the_sum_of_what_is_written_out(seed: int) -> None:
    a, b = ladder(seed), ladder(seed + 1)
    expected = np.zeros(3)
    for p, q in zip(a, b, strict=True):
        for i, y, x in np.ndindex(p.shape[0], *p.shape[2:]):
            u, v = p[i, :, y, x].numpy(), q[i, :, y, x].numpy()
            u, v = (w / max(np.linalg.norm(w), 1e-12) for w in (u, v))
            expected[i] += ((u - v) ** 2).sum() / (p.shape[2] * p.shape[3])
    assert perceptual_distance(a, b).tolist() == pytest.approx(expected.tolist())


def test_perceptual_distance_does_not_see_how_strong_features_are() -> None:
    a, b = ladder(0), ladder(1)
    torch.testing.assert_close(perceptual_distance([3 * f for f in a], [f / 7 for f in b]), perceptual_distance(a, b))


def test_perceptual_distance_by_hand() -> None:
    made = [torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]]), torch.tensor([[[[2.0]], [[0.0]]]])]
    wanted = [torch.tensor([[[[5.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[[0.0]], [[9.0]]]])]
    # (0.6, 0.8) from (1, 0): 0.8; nothing from (0, 1): 1; averaged 0.9. Then (1, 0) from (0, 1): 2.
    assert perceptual_distance(made, wanted).tolist() == pytest.approx([2.9])
    with pytest.raises(ValueError):
        perceptual_distance(made, wanted[:1])
