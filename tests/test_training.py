"""Training: damage and crops that a seed decides, losses by hand, and a run that can be broken off anywhere."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn

from pconv_cli import files
from pconv_cli import weights as store
from pconv_cli.errors import DeviceError, NothingToDo, OutputError, UsageError, WeightsError
from pconv_cli.events import Event, Notice, TrainFinished, TrainStarted, TrainStep, Validated
from pconv_cli.metrics import EXACT, perceptual_distance
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig
from pconv_cli.training import loop
from pconv_cli.training.data import Batch, _drawn, make_batch, whole_views
from pconv_cli.training.loop import RECIPES, TrainSettings, going_on, train
from pconv_cli.training.losses import (
    PAPER_LOSS,
    LossWeights,
    VggFeatures,
    inpainting_loss,
    perceptual_loss,
    style_loss,
    total_variation,
)
from pconv_cli.training.photos import _pictures, load_photos, take_photos, told_apart

TINY = UNetConfig(encoder=((4, 5), (6, 3)), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), floor=1, head=3)
OTHER = UNetConfig(encoder=((4, 3), (6, 3)))
PAIR = replace(TINY, head=2, coarse=TINY)

# Batches


def photos_of(*sides: tuple[int, int]) -> list[Tensor]:
    rng = np.random.default_rng(3)
    return [torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8)) for height, width in sides]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("image", "known", "beyond"))


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    photos = photos_of((40, 70), (64, 33))
    batch = make_batch(photos, (), 5, 11, 3, 32)
    np.random.default_rng(0).random(100)
    torch.rand(5)
    assert same(batch, make_batch(photos, (), 5, 11, 3, 32))
    for seed, step in ((5, 12), (6, 11), (11, 5)):
        other = make_batch(photos, (), seed, step, 3, 32)
        assert not torch.equal(batch.image, other.image) and not torch.equal(batch.known, other.known)


def test_damage_drawn_ahead_is_that_of_its_step_in_whatever_order_steps_are_asked_for() -> None:
    photos = photos_of((40, 40))
    forward = [make_batch(photos, (), 2, step, 3, 32) for step in range(6)]
    for step in reversed(range(6)):
        _drawn.cache_clear()
        assert same(forward[step], make_batch(photos, (), 2, step, 3, 32))
    masks = [batch.known for batch in forward]
    assert not any(torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_whole_views_are_as_large_as_crops_of_them_need() -> None:
    photos = photos_of((90, 300), (300, 90), (33, 33), (32, 500))
    views = whole_views(photos, 32)
    assert [tuple(view.shape) for view in views] == [(3, 54, 180), (3, 180, 54), (3, 33, 33), (3, 32, 500)]
    assert all(view.dtype == torch.uint8 for view in views) and torch.equal(views[2], photos[2])
    flat = whole_views([torch.full((3, 200, 300), 77, dtype=torch.uint8)], 32)[0]
    assert flat.unique().tolist() == [77]


@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize("size", [32, 33])
def test_a_batch_has_the_shapes_and_ranges_that_the_network_takes(size: int, thin: bool) -> None:
    photos = photos_of((size, size), (size, 3 * size), (5 * size, 2 * size))
    before = [photo.clone() for photo in photos]
    for step in range(6):
        batch = make_batch(photos, (), 0, step, 4, size, thin=thin)
        assert batch.image.shape == (4, 3, size, size) and batch.image.dtype == torch.float32
        assert float(batch.image.min()) >= 0 and float(batch.image.max()) <= 1 and float(batch.image.std()) > 0.05
        for plane in (batch.known, batch.beyond, batch.hole):
            assert plane.shape == (4, 1, size, size) and plane.dtype == torch.float32
            assert set(plane.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(batch.known + batch.beyond + batch.hole, torch.ones(4, 1, size, size))  # each pixel is one
        assert bool(batch.hole.flatten(1).any(1).all()) and bool(batch.known.flatten(1).any(1).all())
    assert all(torch.equal(a, b) for a, b in zip(before, photos, strict=True))


def test_a_crop_of_the_whole_photograph_is_the_photograph_turned_or_its_grey_or_in_another_light() -> None:
    (photo,) = photos_of((32, 32))
    truth = (photo.float() / 255).clamp(0.01, 0.99)  # a power says nothing of black and white
    kinds = {"as it is": truth, "mirrored": truth.flip(-1)}
    kinds |= {f"{name}, turned": image.mT for name, image in list(kinds.items())}
    kinds |= {f"{name}, grey": image.mean(0, keepdim=True).expand(3, -1, -1) for name, image in list(kinds.items())}
    seen = []
    for image in make_batch([photo], (), 0, 0, 160, 32).image.clamp(1e-6, 1 - 1e-6):
        for name, candidate in kinds.items():
            power = image.log() / candidate.log()
            middle = power.flatten(1).median(1).values[:, None, None]
            if float(((candidate**middle - image).abs() < 0.02).float().mean()) > 0.99:
                seen.append(name + ("" if float((middle - 1).abs().max()) < 1e-3 else ", light"))
    assert len(seen) == 160
    assert 50 < sum("mirrored" in name for name in seen) < 110
    assert 2 < sum("turned" in name for name in seen) < 40
    assert 2 < sum("grey" in name for name in seen) < 40
    assert 30 < sum("light" in name for name in seen) < 80


def test_some_crops_are_cut_without_being_scaled() -> None:
    photos = [torch.from_numpy(np.random.default_rng(5).integers(0, 2, (3, 70, 70), np.uint8) * 255)]
    sharp = [bool(((i < 0.01) | (i > 0.99)).all()) for i in make_batch(photos, (), 0, 0, 100, 32).image]
    assert 20 < sum(sharp) < 60  # but for those in grey
    sharp = [bool(((i < 0.01) | (i > 0.99)).all()) for i in make_batch(photos, (), 0, 0, 100, 32, whole=True).image]
    assert sum(sharp) == 0


def test_every_photograph_is_used() -> None:
    photos = [torch.full((3, 32, 32), 40 * i, dtype=torch.uint8) for i in range(6)]
    values = [round(float(image.mean()) * 255) for image in make_batch(photos, (), 0, 0, 120, 32).image]
    assert all(values.count(40 * i) > 5 for i in range(6))  # the others are in another light


def test_masks_of_the_user_s_take_the_place_of_about_half_of_the_drawn_ones() -> None:
    photos = photos_of((40, 40))
    half = torch.zeros(40, 40, dtype=torch.bool)
    half[:, 20:] = True
    halves = 0
    for step in range(20):
        drawn = make_batch(photos, (), 0, step, 8, 32)
        batch = make_batch(photos, [half], 0, step, 8, 32)
        assert torch.equal(batch.beyond, drawn.beyond)
        assert bool(batch.hole.flatten(1).any(1).all()) and bool(batch.known.flatten(1).any(1).all())
        for hole, old in zip(batch.hole, drawn.hole, strict=True):
            # One straight border, across or down: every row is like the first, or constant.
            across, down = (hole == hole[:, :1]).all(), (hole == hole[..., :1]).all()
            straight = bool(across | down)
            assert straight or torch.equal(hole, old) or bool(batch.beyond.any())
            halves += straight and not torch.equal(hole, old)
    assert 40 < halves < 110


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_whose_part_marks_all_or_nothing_is_not_used(value: bool) -> None:
    photos, flat = photos_of((40, 40)), torch.full((40, 40), value)
    assert same(make_batch(photos, [flat], 0, 0, 8, 32), make_batch(photos, [flat], 0, 0, 8, 32))
    holes = make_batch(photos, [flat], 0, 0, 8, 32).hole.flatten(1)
    assert bool(holes.any(1).all()) and not bool(holes.all(1).any())


def test_a_reduced_batch_knows_a_cell_by_what_is_known_in_it_or_beside_it() -> None:
    image = torch.arange(3 * 64.0).view(1, 3, 8, 8) / 192
    known, beyond = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    known[..., :5, :5] = 0  # four cells lost entirely, of which only one is more than a pixel from what is known
    known[..., 4:, 4:] = 0  # four that are beyond the edge of a tile, but for a column of what can be asked for
    beyond[..., 4:, 5:] = 1
    batch = Batch(image, known, beyond).reduced()
    lost, past = torch.zeros(4, 4), torch.zeros(4, 4)
    lost[:2, :2] = 1
    lost[3, 3] = 1
    past[2:, 3] = 1
    means = F.avg_pool2d(image, 2)
    torch.testing.assert_close(batch.known[0, 0], 1 - lost)
    torch.testing.assert_close(batch.beyond[0, 0], past)
    torch.testing.assert_close(batch.hole[0, 0], lost * (1 - past))
    whole = (F.avg_pool2d(known, 2) == 1) | (batch.known == 0)  # what is known, and what is to be found
    torch.testing.assert_close(batch.image[whole.expand_as(means)], means[whole.expand_as(means)])
    assert bool((batch.image[..., 2, :2] != means[..., 2, :2]).any()), "made up, from what is known beside it"


def test_whole_crops_show_most_of_a_photograph() -> None:
    ramp = torch.linspace(0, 255, 400).round().to(torch.uint8).expand(3, 400, 400)
    for whole, least in ((True, 0.55), (False, 0.0)):
        photos = whole_views([ramp], 32) if whole else [ramp]
        spans = [
            float(image.max() - image.min())
            for step in range(20)
            for image in make_batch(photos, (), 0, step, 4, 32, whole=whole).image
        ]
        assert min(spans) > least and (max(spans) > 0.9) == whole


# Losses


def corner() -> tuple[Tensor, Tensor, Tensor]:
    """A 4 x 4 px scene whose top left pixel is the hole; the output is off by 0.5 there and by 0.1 bottom right."""
    truth = torch.zeros(1, 3, 4, 4)
    output = truth.clone()
    output[..., 0, 0] = 0.5
    output[..., 3, 3] = 0.1
    known = torch.ones(1, 1, 4, 4)
    known[..., 0, 0] = 0
    return output, truth, known


@pytest.mark.parametrize(("by_area", "valid", "hole"), [(False, 0.1 / 16, 0.5 / 16), (True, 0.1 / 15, 0.5)])
def test_each_term_by_hand(by_area: bool, valid: float, hole: float) -> None:
    output, truth, known = corner()
    weights = LossWeights(
        valid=2.0, hole=3.0, rms=0.0, tv=5.0, distance=1e9, perceptual=1e9, style=1e9, by_area=by_area
    )
    total, terms = inpainting_loss(output, truth, known, weights)
    assert set(terms) == {"valid", "hole", "rms", "tv"}
    assert float(terms["valid"]) == pytest.approx(valid)
    assert float(terms["hole"]) == pytest.approx(hole)
    assert float(terms["rms"]) == pytest.approx(0.5, abs=4e-3)  # by area whatever the others do
    # One step of 0.5 to the right and one down, each of 4 x 3 in each direction. Bottom right is not in the composite.
    assert float(terms["tv"]) == pytest.approx(2 * 0.5 / 12)
    assert float(total) == pytest.approx(2 * valid + 3 * hole + 5 * 2 * 0.5 / 12)
    assert not any(term.requires_grad for term in terms.values())


def test_by_area_a_small_hole_counts_as_much_as_a_large_one() -> None:
    truth = torch.zeros(2, 3, 4, 4)
    known = torch.ones(2, 1, 4, 4)
    known[0, :, 0, 0] = 0
    known[1, :, :3] = 0
    output = torch.where(known > 0, torch.tensor([0.1, 0.2])[:, None, None, None], 0.8).expand_as(truth)
    _, terms = inpainting_loss(output, truth, known, LossWeights(by_area=True))
    assert float(terms["valid"]) == pytest.approx(0.15) and float(terms["hole"]) == pytest.approx(0.8)
    _, terms = inpainting_loss(output, truth, known, LossWeights(by_area=False))
    assert float(terms["valid"]) == pytest.approx((15 * 0.1 + 4 * 0.2) / 32)
    assert float(terms["hole"]) == pytest.approx(13 * 0.8 / 32)


@pytest.mark.parametrize("by_area", [False, True])
def test_a_picture_without_holes_or_without_anything_known_costs_nothing_there(by_area: bool) -> None:
    output, truth, _ = corner()
    weights = LossWeights(by_area=by_area)
    assert float(inpainting_loss(output, truth, torch.ones(1, 1, 4, 4), weights)[1]["hole"]) == 0
    assert float(inpainting_loss(output, truth, torch.zeros(1, 1, 4, 4), weights)[1]["valid"]) == 0


def test_variation_counts_inside_the_hole_grown_by_one_pixel() -> None:
    hole = torch.zeros(1, 1, 7, 7)
    hole[..., 3, 3] = 1
    where = torch.zeros(7, 7)
    where[2:5, 2:5] = 1
    for y in range(7):
        for x in range(7):
            spot = torch.zeros(1, 1, 7, 7)
            spot[..., y, x] = 1
            # A lone spot makes a step to each neighbour; a step counts if both ends are in the region.
            near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            steps = sum(where[y, x] * where[b, a] for b, a in near if 0 <= b < 7 and 0 <= a < 7)
            assert float(total_variation(spot, hole)) == pytest.approx(float(steps) / 42), (y, x)
    assert float(total_variation(torch.rand(1, 3, 7, 7), torch.zeros(1, 1, 7, 7))) == 0


def ladder(image: Tensor) -> list[Tensor]:
    """Features that one can reckon with: the image, and its 2 x 2 means at ten times the scale."""
    return [image, 10 * F.avg_pool2d(image, 2)]


FEATURES = LossWeights(perceptual=1.0, style=1.0)


def test_perceptual_term_counts_output_and_composite() -> None:
    truth = torch.full((1, 3, 2, 2), 0.5)
    known = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    output = truth + 0.2
    _, terms = inpainting_loss(output, truth, known, FEATURES, ladder)
    # Output: off by 0.2 everywhere, at both scales. Composite: by 0.2 in one pixel of four. The mean of both.
    assert float(terms["perceptual"]) == pytest.approx((1 + 10) * (0.2 + 0.05) / 2)


def test_perceptual_distance_is_that_of_the_composite_for_each_share_of_damage() -> None:
    rng = torch.Generator().manual_seed(0)
    output, truth = torch.rand(3, 3, 8, 8, generator=rng), torch.rand(3, 3, 8, 8, generator=rng)
    known = torch.ones(3, 1, 8, 8)
    known[0, :, :4] = 0  # a half
    known[1, :, 0, 0] = 0  # a pixel, which counts as two parts in a hundred
    composite = torch.where(known > 0, truth, output)
    distances = perceptual_distance(ladder(composite), ladder(truth))
    wanted = (distances / torch.tensor([0.5, 0.02, 0.02])).mean()
    for twice in (True, False):
        _, terms = inpainting_loss(output, truth, known, LossWeights(), ladder, twice=twice)
        torch.testing.assert_close(terms["distance"], wanted)
        assert not {"perceptual", "style"} & set(terms)  # what weighs nothing is not reckoned


@given(st.floats(0.001, 1), st.integers(1, 15))
def test_rms_is_the_error_where_it_is_even_however_small_the_hole(error: float, pixels: int) -> None:
    truth, known = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 16)
    known[..., :pixels] = 0
    _, terms = inpainting_loss(truth + error, truth, known.view(1, 1, 4, 4), LossWeights())
    assert float(terms["rms"]) == pytest.approx(error, abs=4e-3)


def test_style_term_compares_gram_matrices() -> None:
    wanted = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # channels (1, 2) and (3, 0)
    made = torch.tensor([[[[1.0, 1.0]], [[1.0, 1.0]]]])
    # Grams, times 4: (5, 3, 3, 9) and (2, 2, 2, 2).
    assert float(style_loss([made], [wanted])) == pytest.approx((3 + 1 + 1 + 7) / 4 / 4)
    # Where things lie does not matter, only what occurs together.
    assert float(style_loss([wanted.flip(-1)], [wanted])) == 0
    assert float(style_loss([wanted.flip(1)], [wanted])) > 0
    both = style_loss([torch.cat([made, wanted])], [wanted])
    assert float(both) == pytest.approx((3 + 1 + 1 + 7) / 4 / 4 / 2)


def test_the_gram_is_size_averaged_per_picture() -> None:
    one, two = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    doubled = style_loss([one.repeat(1, 1, 2, 1)], [two.repeat(1, 1, 2, 1)])
    torch.testing.assert_close(doubled, style_loss([one], [two]))


def test_candidates_are_compared_each_with_its_own_picture() -> None:
    wanted = [torch.rand(2, 3, 4, 4)]
    made = [torch.cat([wanted[0], wanted[0]])]
    assert float(perceptual_loss(made, wanted)) == 0
    assert float(style_loss(made, wanted)) == 0
    swapped = [torch.cat([wanted[0], wanted[0].flip(0)])]
    assert float(perceptual_loss(swapped, wanted)) > 0
    assert float(style_loss(swapped, wanted)) > 0


def test_a_perfect_output_costs_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, 4, 4, generator=rng)
    known = (torch.rand(2, 1, 4, 4, generator=rng) < 0.5).float()
    total, terms = inpainting_loss(truth, truth, known, FEATURES, ladder)
    assert float(total) == 0
    assert {name for name, term in terms.items() if float(term)} == {"tv"}  # of the true picture itself
    flat = torch.full((2, 3, 4, 4), 0.3)
    assert float(inpainting_loss(flat, flat, known, FEATURES, ladder)[0]) == 0


def test_features_that_are_all_0_do_not_make_the_loss_nan() -> None:
    black = torch.zeros(1, 3, 4, 4)
    total, _ = inpainting_loss(black, black, torch.ones(1, 1, 4, 4), FEATURES, ladder)
    assert math.isfinite(float(total))


@pytest.mark.parametrize("twice", [True, False])
def test_features_are_looked_at_once_where_the_output_is_the_composite(twice: bool) -> None:
    seen: list[Tensor] = []

    def features(image: Tensor) -> list[Tensor]:
        seen.append(image)
        return ladder(image)

    rng = torch.Generator().manual_seed(0)
    output, truth = torch.rand(2, 3, 4, 4, generator=rng), torch.rand(2, 3, 4, 4, generator=rng)
    known = (torch.rand(2, 1, 4, 4, generator=rng) < 0.5).float()
    composite = torch.where(known > 0, truth, output)
    _, terms = inpainting_loss(output, truth, known, FEATURES, features, twice=twice)
    wanted, made = seen
    torch.testing.assert_close(wanted, truth)
    torch.testing.assert_close(made, torch.cat([output, composite]) if twice else composite)
    _, whole = inpainting_loss(composite, truth, known, FEATURES, ladder)
    for name in ("perceptual", "style"):
        assert torch.isclose(terms[name], whole[name]) != torch.tensor(twice)


def test_the_known_part_of_the_composite_passes_no_gradient() -> None:
    output, truth, known = corner()
    output.requires_grad_()
    inpainting_loss(output, truth, known, LossWeights(valid=0, rms=0, tv=1))[0].backward()
    assert output.grad is not None
    assert torch.equal(output.grad != 0, (1 - known).expand_as(output) > 0)


# The paper's own terms


def test_the_paper_s_terms_are_sums_of_plain_differences() -> None:
    """Equation 7: feature differences as they are, for output and composite, the two added up."""
    truth = torch.full((1, 3, 2, 2), 0.5)
    known = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    output = truth + 0.2
    total, terms = inpainting_loss(output, truth, known, PAPER_LOSS, ladder)
    perceptual = (0.2 + 0.05) + (2.0 + 0.5)  # output and composite, on both stages
    assert PAPER_LOSS.perceptual * float(terms["perceptual"]) == pytest.approx(0.05 * perceptual)
    style = sum(
        float((gram(a) - gram(b)).abs().mean())
        for made in (output, known * truth + (1 - known) * output)
        for a, b in zip(ladder(made), ladder(truth), strict=True)
    )
    assert PAPER_LOSS.style * float(terms["style"]) == pytest.approx(120 * style, rel=1e-5)
    l1 = 0.2 * 3 / 4 + 6 * 0.2 / 4
    # One pixel differs; each direction has one step into it from within the grown hole, of two.
    variation = 0.1 * (0.2 / 2 + 0.2 / 2)
    assert float(total) == pytest.approx(l1 + 0.05 * perceptual + 120 * style + variation, rel=1e-5)


def gram(features: Tensor) -> Tensor:
    flat = features[0].flatten(1)
    return flat @ flat.T / flat.numel()


def vgg_state() -> dict[str, Tensor]:
    """Random weights in the shapes of VGG-16's first layers."""
    rng = torch.Generator().manual_seed(0)
    state, incoming = {}, 3
    for index, width in ((0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256)):
        state[f"features.{index}.weight"] = torch.randn(width, incoming, 3, 3, generator=rng) / (incoming * 9) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(width)
        incoming = width
    return state


def test_vgg_features_lie_behind_the_first_three_pooling_layers() -> None:
    state = vgg_state()
    plain = nn.Sequential()
    for stage in ((0, 2), (5, 7), (10, 12, 14)):
        for index in stage:
            weight = state[f"features.{index}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": weight, "bias": state[f"features.{index}.bias"]})
            plain.extend([layer, nn.ReLU()])
        plain.append(nn.MaxPool2d(2))
    image = torch.rand(2, 3, 32, 48)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    x = (image - mean) / std
    wanted = []
    for layer in plain:
        x = layer(x)
        wanted += [x] if isinstance(layer, nn.MaxPool2d) else []
    made = VggFeatures(state)(image)
    assert [tap.shape[1:] for tap in made] == [(64, 16, 24), (128, 8, 12), (256, 4, 6)]
    for a, b in zip(made, wanted, strict=True):
        torch.testing.assert_close(a, b)


# Photographs


def folder_of(path: Path, count: int = 5, side: int = 40) -> Path:
    """Smooth colourful pictures."""
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((side + i, side), Image.Resampling.BICUBIC).save(path / f"{i}.png")
    return path


def test_photographs_come_in_the_order_of_their_names_as_rgb(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, mode, size in (("c.png", "RGB", (40, 33)), ("b/a.png", "L", (50, 32)), ("a.jpg", "RGB", (34, 35))):
        Image.new(mode, size, "white").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    Image.new("RGB", (31, 200)).save(tmp_path / "d.png")
    photos, unused = load_photos(tmp_path, 32)
    assert [photo.shape for photo in photos] == [(35, 34, 3), (32, 50, 3), (33, 40, 3)]
    assert all(photo.dtype == np.uint8 for photo in photos)
    assert [Path(error.path).name for error in unused] == ["broken.png", "d.png"]
    assert "smaller than the 32 px crops" in unused[1].reason


def test_what_is_hidden_or_made_by_a_training_or_a_mask_is_no_photograph(tmp_path: Path) -> None:
    folder = tmp_path / ".photos"  # its own name does not hide what is in it
    for name in ("a.png", "b/c.png", "masks.png/d.png", ".trash/e.png", "b/.f.png", "w.safetensors.sheet.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(folder / name)
    masks = folder / "masks.png"
    for apart, count in ((masks, 2), (None, 3), (folder, 3), (tmp_path, 3), (tmp_path / "masks", 3)):
        photos, unused = load_photos(folder, 32, apart)
        assert (len(photos), unused) == (count, [])
        assert told_apart(folder, apart, "photographs", None, print)["files"] == count
    assert _pictures(masks, folder) == [masks / "d.png"]
    assert _pictures(folder, masks / ".." / "masks.png") == [folder / "a.png", folder / "b" / "c.png"]


def test_a_folder_without_a_picture_large_enough_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingToDo, match="no picture"):
        load_photos(tmp_path, 32)
    folder_of(tmp_path, side=31)
    with pytest.raises(NothingToDo, match="32 px"):
        load_photos(tmp_path, 32)


def test_a_folder_of_broken_pictures_is_not_blamed_for_their_size(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"broken")
    with pytest.raises(NothingToDo, match=r"no picture to train on: .*x\.png: .*\w$") as alone:
        load_photos(tmp_path, 32)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "y.png").write_bytes(b"broken")
    with pytest.raises(NothingToDo) as caught:
        load_photos(tmp_path, 32)
    assert str(caught.value) == f"{alone.value} (and 2 more that cannot be used)"


# The loop


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """Six steps of a tiny network; the second phase begins after four."""
    monkeypatch.setitem(loop.NETWORKS, "compact", TINY)
    monkeypatch.setitem(loop.NETWORKS, "paper", OTHER)
    for name in ("CALIBRATION", "SHOWN"):  # what a checkpoint costs, most of the time of so few steps
        monkeypatch.setattr(loop, name, 2)
    return TrainSettings(
        network="compact",
        steps=6,
        batch_size=2,
        size=32,
        second_share=0.34,
        adversarial_share=0,
        every=100,
        held_out=2,
        perceptual="none",
        device="cpu",
        precision="fp32",
    )


def run(
    folder: Path, out: Path, settings: TrainSettings, *, resume: bool = False, after: int | None = None
) -> list[Event]:
    """Train; stop once so many steps are done in all."""
    events: list[Event] = []

    def stop() -> bool:
        return after is not None and any(isinstance(event, TrainStep) and event.step >= after for event in events)

    assert train(folder, out, settings, events.append, resume=resume, stop=stop) == out
    return events


def steps(events: list[Event]) -> list[TrainStep]:
    return [event for event in events if isinstance(event, TrainStep)]


def test_training_writes_weights_that_load(tmp_path: Path, short: TrainSettings) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "new" / "w.safetensors"
    events = run(folder, out, short)
    assert isinstance(events[0], TrainStarted)
    assert (events[0].photos, events[0].steps, events[0].first, events[0].device) == (5, 6, 0, "cpu")
    assert [event.step for event in steps(events)] == [1, 2, 3, 4, 5, 6]
    assert all(
        set(event.losses) == {"valid", "hole", "rms", "tv"} and math.isfinite(event.loss) for event in steps(events)
    )
    (measured,) = [event for event in events if isinstance(event, Validated)]
    assert measured.step == 6 and 0 < measured.psnr < 60 and 0 < measured.scratch < 60
    assert abs(measured.psnr - measured.floor_psnr) < 3  # six steps from the floor
    assert -1 < measured.ssim < 1 and measured.perceptual > 0 and measured.floor_perceptual > 0
    assert [event.progress for event in steps(events)] == pytest.approx([i / 6 for i in range(1, 7)])
    assert events[-1] == TrainFinished(str(out), f"{out}.sheet.png", 6, complete=True)
    network = store.load_network(str(out))
    assert isinstance(network, PartialConvUNet) and network.config == TINY
    header = store.read_header(out)
    assert header["name"] == "w"
    assert header["training"]["photographs"] == 5 and header["training"]["step"] == 6
    assert header["training"]["held_out"] == 0  # of five photographs, a tenth
    assert header["metrics"]["validation"]["psnr"] == measured.psnr
    beside = {"", ".checkpoint", ".log.jsonl", ".sheet.png"}
    assert {path.name for path in out.parent.iterdir()} == {f"w.safetensors{ending}" for ending in beside}
    assert str(tmp_path) not in str(header)
    (line,) = (out.parent / "w.safetensors.log.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line) == asdict(measured)
    with Image.open(out.parent / "w.safetensors.sheet.png") as sheet:
        assert sheet.size == (4 * 32, loop.SHOWN * 32) and sheet.mode == "RGB"
        damaged, floor, filled, true = (np.asarray(sheet)[:, 32 * i : 32 * (i + 1)].astype(int) for i in range(4))
    changed = (filled != true).any(-1)
    assert changed.any() and not changed.all()
    assert (damaged[changed] == 255).all() and (filled[~changed] == true[~changed]).all()
    assert (floor != true).any()


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path, short: TrainSettings) -> None:
    folder, whole = folder_of(tmp_path / "photos"), tmp_path / "a" / "w.safetensors"
    unbroken = run(folder, whole, short)
    for first in (1, 3, 5):
        parts = tmp_path / f"b{first}" / "w.safetensors"
        begun = run(folder, parts, short, after=first)
        assert [event.step for event in steps(begun)] == list(range(1, first + 1))
        resumed = run(folder, parts, short, resume=True)
        assert isinstance(resumed[0], TrainStarted) and resumed[0].first == first
        assert steps(begun) + steps(resumed) == steps(unbroken), first
        for name in ("w.safetensors", "w.safetensors.checkpoint"):
            mine, my_header = store.read_tensors(parts.with_name(name))
            theirs, their_header = store.read_tensors(whole.with_name(name))
            assert timeless(my_header) == timeless(their_header) and mine.keys() == theirs.keys(), first
            assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == [], first


def timeless(header: dict[str, str]) -> dict[str, object]:
    """What a header says, but for how long it took, and where it was measured on the way."""
    document = {key: json.loads(value) for key, value in header.items() if key not in ("seconds", "log")}
    document.get("pconv", {"metrics": {"validation": {"seconds": 0}}})["metrics"]["validation"].pop("seconds")
    return document


def strictly(text: str) -> Any:
    """Read JSON as everybody reads it, without Python's numbers that are none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_fills_without_any_error_are_finite_figures_and_no_end_of_the_training(
    tmp_path: Path, short: TrainSettings
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "w"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40)).save(folder / f"{i}.png")  # black, and the pyramid fills it so
    events = run(folder, out, replace(short, steps=1, every=1, rate=0.0, second_rate=0.0))
    (measured,) = [event for event in events if isinstance(event, Validated)]
    assert measured.psnr == measured.scratch == measured.floor_psnr == measured.floor_scratch == EXACT
    assert strictly((tmp_path / "w.log.jsonl").read_text("utf-8")) == asdict(measured)
    assert store.read_header(out)["metrics"]["validation"] == asdict(measured)
    strictly(store.read_metadata(out)["pconv"])


def logged(out: Path) -> list[int]:
    return [strictly(line)["step"] for line in loop.beside(out, ".log.jsonl").read_text("utf-8").splitlines()]


def test_the_log_is_of_one_run_and_up_to_the_checkpoint(tmp_path: Path, short: TrainSettings) -> None:
    folder, out, log = folder_of(tmp_path / "photos"), tmp_path / "w", tmp_path / "w.log.jsonl"
    often = replace(short, every=2)
    run(folder, out, often)
    assert logged(out) == [2, 4, 6]
    run(folder, out, often, after=4)  # begun anew
    assert logged(out) == [2, 4]
    log.write_text(log.read_text("utf-8") + '{"step": 5}\n{"st', "utf-8")
    run(folder, out, often, resume=True)
    assert logged(out) == [2, 4, 6]


def test_a_checkpoint_without_a_log_goes_on_with_the_lines_of_the_file(tmp_path: Path, short: TrainSettings) -> None:
    folder, out, log = folder_of(tmp_path / "photos"), tmp_path / "w", tmp_path / "w.log.jsonl"
    often = replace(short, every=2)
    run(folder, out, often, after=4)
    tensors, metadata = store.read_tensors(tmp_path / "w.checkpoint")
    for name in ("folder", "masks", "log"):  # as earlier versions wrote it
        del metadata[name]
    training = json.loads(metadata["training"])
    del training["settings"]["masks"]
    store.write_tensors(tmp_path / "w.checkpoint", tensors, metadata | {"training": json.dumps(training)})
    log.write_text(log.read_text("utf-8") + '{"step": 5}\n{"st', "utf-8")
    assert steps(run(folder, out, often, resume=True))[0].step == 5
    assert logged(out) == [2, 4, 6]
    store.write_tensors(tmp_path / "w.checkpoint", tensors, metadata | {"training": json.dumps(training)})
    log.unlink()
    run(folder, out, often, resume=True)
    assert logged(out) == [6]


def test_a_run_with_a_judge_of_texture_resumes_bit_for_bit(tmp_path: Path, short: TrainSettings) -> None:
    folder, whole = folder_of(tmp_path / "photos"), tmp_path / "a" / "w"
    judged = replace(short, adversarial_share=0.34)
    unbroken = run(folder, whole, judged)
    kinds = [set(event.losses) - {"valid", "hole", "rms", "tv"} for event in steps(unbroken)]
    assert kinds == [set()] * 4 + [{"adversarial", "judge"}] * 2
    for first in (3, 4, 5):
        parts = tmp_path / f"b{first}" / "w"
        begun, resumed = run(folder, parts, judged, after=first), run(folder, parts, judged, resume=True)
        assert steps(begun) + steps(resumed) == steps(unbroken), first
        mine, theirs = (store.read_tensors(path.with_name("w.checkpoint"))[0] for path in (parts, whole))
        assert mine.keys() == theirs.keys() and any(key.startswith("judge_adam.") for key in mine)
        assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == [], first
    plain = run(folder, tmp_path / "c" / "w", short)
    assert steps(plain)[:4] == steps(unbroken)[:4] and steps(plain)[4:] != steps(unbroken)[4:]


def test_stopping_saves_what_was_done(tmp_path: Path, short: TrainSettings) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w.safetensors"
    events = run(folder, out, short, after=2)
    assert len(steps(events)) == 2 and isinstance(events[-2], Validated) and events[-2].step == 2
    assert events[-1] == TrainFinished(str(out), f"{out}.sheet.png", 2, complete=False)
    assert store.read_header(out)["training"]["step"] == 2
    tensors, metadata = store.read_tensors(tmp_path / "w.safetensors.checkpoint")
    assert metadata["step"] == "2"
    assert {key.split(".")[0] for key in tensors} == {"network", "averaged", "adam"}
    store.load_network(str(out))


def pressed(*given: Any) -> Any:
    """Ctrl-C, wherever this takes the place of something."""
    raise KeyboardInterrupt


def test_a_second_stop_while_it_measures_loses_no_step(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_validate", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, out, short, after=2)
    assert store.read_tensors(tmp_path / "w.safetensors.checkpoint")[1]["step"] == "2"
    assert [step.step for step in steps(run(folder, out, short, resume=True, after=3))] == [3]


def test_checkpoints_come_at_their_steps(tmp_path: Path, short: TrainSettings) -> None:
    events = run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, every=2, steps=5))
    assert [event.step for event in events if isinstance(event, Validated)] == [2, 4, 5]


def killed_at(step: int) -> Any:
    real = loop._step

    def killed(state: Any, *given: Any) -> Any:
        if state.step == step:
            raise KeyboardInterrupt
        return real(state, *given)

    return killed


def test_a_kill_before_the_first_validation_costs_minutes_at_most(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    whole = run(folder, tmp_path / "whole", short)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "KEPT_FOR", 0.0)
        patched.setattr(loop, "_step", killed_at(3))
        with pytest.raises(KeyboardInterrupt):
            run(folder, out, short)
    assert sorted(path.name for path in tmp_path.glob("w[!h]*")) == ["w.checkpoint"]
    resumed = run(folder, out, short, resume=True)
    assert steps(resumed) == steps(whole)[3:]
    mine, theirs = (store.read_tensors(path)[0] for path in (out, tmp_path / "whole"))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_training_that_was_killed_while_its_end_was_measured_is_measured(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    run(folder, tmp_path / "whole", short)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_validate", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, out, short, after=6)
    assert not out.exists()
    events = run(folder, out, short, resume=True)
    assert steps(events) == [] and isinstance(events[-1], TrainFinished) and events[-1].complete
    mine, theirs = (store.read_tensors(path)[0] for path in (out, tmp_path / "whole"))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    with pytest.raises(UsageError, match="has trained for 6 steps"):
        run(folder, out, short, resume=True)


def test_a_rate_that_ruins_everything_leaves_the_checkpoint_that_it_began_with(
    tmp_path: Path, short: TrainSettings
) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    run(folder, out, short, after=3)
    before = (tmp_path / "w.checkpoint").read_bytes()
    with pytest.raises(UsageError, match="the last checkpoint is kept"):
        run(folder, out, replace(short, rate=1e37, second_rate=1e37), resume=True)
    assert (tmp_path / "w.checkpoint").read_bytes() == before


def test_a_place_that_cannot_be_written_to_is_found_before_a_step(tmp_path: Path, short: TrainSettings) -> None:
    (tmp_path / "file").touch()
    events: list[Event] = []
    with pytest.raises(OutputError, match=r"^--out .*file: cannot write there .*; choose another folder$"):
        train(folder_of(tmp_path / "photos"), tmp_path / "file" / "w", short, events.append)
    assert events == []


def test_another_seed_trains_another_network(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    brief = replace(short, steps=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(folder, tmp_path / name, replace(brief, seed=seed))
    a, b, c = (store.read(tmp_path / name)[1]["encoder.0.conv.weight"] for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_second_phase_freezes_the_encoder_s_statistics_of_a_network_without_a_floor(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.NETWORKS, short.network, replace(loop.NETWORKS[short.network], floor=None))
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    states = []
    for after in (3, 4, 6):
        run(folder, out, short, after=after, resume=after > 3)
        states.append(store.read_tensors(tmp_path / "w.checkpoint")[0])
    key = "network.encoder.1.norm.running_mean"
    third, fourth, sixth = (state[key] for state in states)
    assert not torch.equal(third, fourth) and torch.equal(fourth, sixth)
    key = "network.decoder.0.norm.running_mean"
    assert not torch.equal(states[1][key], states[2][key])
    key = "network.encoder.1.conv.weight"
    assert not torch.equal(states[1][key], states[2][key])


def test_features_are_looked_at_from_another_corner_at_each_step() -> None:
    seen: list[Tensor] = []

    def features(image: Tensor) -> list[Tensor]:
        seen.append(image)
        return [image]

    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    corners = set()
    for step in range(30):
        look = loop._shifted(features, 7, step)
        look(image), look(image)
        assert torch.equal(seen[-1], seen[-2])  # truth and fill alike
        (corner,) = ((y, x) for y in range(16) for x in range(16) if torch.equal(image.roll((y, x), (2, 3)), seen[-1]))
        corners.add(corner)
    assert len(corners) > 20


def test_a_compiled_training_is_the_same_training(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "photos")
    compiling = torch.compile
    compiled: list[object] = []

    def whole(function: Any, **options: Any) -> Any:
        compiled.append(function)
        return compiling(function, fullgraph=True, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", whole)
    for name, compiles in (("plain", False), ("compiled", True)):
        run(folder, tmp_path / name, replace(short, steps=3, compiled=compiles))
    assert len(compiled) == 1
    plain, other = (store.read(tmp_path / name)[1] for name in ("plain", "compiled"))
    for key, value in plain.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4)


@pytest.fixture
def pair(short: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """Two steps of a tiny coarse part, then two of either phase of the other."""
    monkeypatch.setitem(loop.NETWORKS, "deep", PAIR)
    return replace(short, network="deep", coarse_share=0.34, second_share=0.34, size=64)


def test_the_coarse_part_is_trained_first_and_rests_as_its_average(tmp_path: Path, pair: TrainSettings) -> None:
    folder, out = folder_of(tmp_path / "photos", side=64), tmp_path / "w"
    states = []
    for after in (1, 2, 3, 6):
        run(folder, out, pair, after=after, resume=after > 1)
        states.append(store.read_tensors(tmp_path / "w.checkpoint")[0])
    one, two, three, six = states

    def moved(before: dict[str, Tensor], after: dict[str, Tensor], coarse: bool) -> bool:
        keys = [k for k in before if k.startswith("network.") and k.startswith("network.coarse.") == coarse]
        keys = [k for k in keys if before[k].is_floating_point()]
        assert len(keys) > 10
        return any(not torch.equal(before[k], after[k]) for k in keys)

    assert moved(one, two, coarse=True) and not moved(one, two, coarse=False)
    assert moved(two, three, coarse=True)  # its average takes its place
    assert not moved(three, six, coarse=True) and moved(three, six, coarse=False)
    for key, value in three.items():
        if key.startswith("network.coarse.") and value.is_floating_point():
            torch.testing.assert_close(value, six[key.replace("network.", "averaged.", 1)], rtol=1e-5, atol=1e-7)


def test_a_cascade_resumes_bit_for_bit_whatever_the_phase(tmp_path: Path, pair: TrainSettings) -> None:
    folder, whole = folder_of(tmp_path / "photos", side=64), tmp_path / "a" / "w"
    unbroken = run(folder, whole, pair)
    for first in (1, 2, 3, 4, 5):
        parts = tmp_path / f"b{first}" / "w"
        begun, resumed = run(folder, parts, pair, after=first), run(folder, parts, pair, resume=True)
        assert steps(begun) + steps(resumed) == steps(unbroken), first
        for name in ("w", "w.checkpoint"):
            mine, theirs = (store.read_tensors(path.with_name(name))[0] for path in (parts, whole))
            assert mine.keys() == theirs.keys(), first
            assert [k for k in mine if not torch.equal(mine[k], theirs[k])] == [], first
    (measured,) = [event for event in unbroken if isinstance(event, Validated)]
    assert measured.coarse is not None and measured.floor_coarse is not None
    assert abs(measured.coarse - measured.floor_coarse) < 3 and math.isfinite(measured.coarse)


def test_without_a_share_the_coarse_part_is_left_alone(tmp_path: Path, pair: TrainSettings) -> None:
    folder, out = folder_of(tmp_path / "photos", side=64), tmp_path / "w.safetensors"
    run(folder, out, pair)
    run(folder, tmp_path / "v.safetensors", replace(pair, start_from=str(out), coarse_share=0.0))
    before, after = (store.read(path)[1] for path in (out, tmp_path / "v.safetensors"))
    same_as = {key: torch.equal(value, after[key]) for key, value in before.items()}
    assert all(same_as[key] for key in same_as if key.startswith("coarse."))
    assert not same_as["out.weight"]


def test_shares_of_more_than_all_are_refused(tmp_path: Path, pair: TrainSettings) -> None:
    with pytest.raises(UsageError, match=r"--coarse 0\.7"):
        run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(pair, coarse_share=0.7))


def test_phases_take_their_turns_in_whole_steps() -> None:
    settings = TrainSettings(steps=10, coarse_share=0.25, second_share=0.25)
    state = loop._State(PartialConvUNet(PAIR), {}, None)  # type: ignore[arg-type]
    found = []
    for state.step in range(10):
        moment = loop._moment(state, settings)
        found.append((moment.phase, moment.begun))
    assert found == [("coarse", 0), ("coarse", 1), *(("first", i) for i in range(6)), ("second", 0), ("second", 1)]
    assert state.began == {"coarse": 0, "first": 2, "second": 8}


def rates(settings: TrainSettings) -> list[float]:
    """The rate of every step of a training that goes by steps."""
    state = loop._State(PartialConvUNet(loop.NETWORKS[settings.network]), {}, None)  # type: ignore[arg-type]
    found = []
    for state.step in range(settings.steps):
        found.append(loop._rate(settings, loop._moment(state, settings)))
    return found


def test_the_rate_warms_up_and_falls_in_each_phase() -> None:
    found = rates(TrainSettings(network="compact", steps=4000, rate=1e-3, second_rate=2e-4, second_share=0.25))
    assert found[0] == pytest.approx(1e-3 / 200)
    assert max(found[:3000]) == pytest.approx(1e-3, rel=0.02) and found.index(max(found)) == 199
    assert found[2999] == pytest.approx(5e-5, rel=0.01)
    assert max(found[3000:]) == pytest.approx(2e-4, rel=0.1)
    assert found[3999] == pytest.approx(1e-5, rel=0.01)
    for begin, end in ((199, 3000), (3199, 4000)):
        assert all(a > b for a, b in zip(found[begin : end - 1], found[begin + 1 : end], strict=True))
    assert all(rate > 0 for rate in found)


def test_the_paper_s_rates_stay_where_they_are() -> None:
    found = rates(replace(RECIPES["paper"], steps=1000))
    assert found[199:750] == [2e-4] * 551 and found[949:] == [5e-5] * 51


def test_the_paper_s_recipe_is_that_of_the_paper() -> None:
    paper = RECIPES["paper"]
    assert (paper.network, paper.batch_size, paper.size) == ("paper", 6, 512)
    assert (paper.rate, paper.second_rate) == (2e-4, 5e-5)
    assert not paper.small_first and paper.features_first
    weights = asdict(paper.loss)
    assert not weights.pop("by_area") and not weights.pop("rms") and not weights.pop("distance")
    assert {k: v for k, v in weights.items() if k != "adversarial"} == {
        "valid": 1, "hole": 6, "perceptual": 0.1, "style": 240, "tv": 0.1
    }  # fmt: skip


def test_the_rate_of_a_step_is_the_rate_that_is_said(tmp_path: Path, short: TrainSettings) -> None:
    events = run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, steps=3))
    assert [event.rate for event in steps(events)] == rates(replace(short, steps=3))


def test_a_step_goes_as_far_as_its_rate_and_its_gradient_is_clipped(tmp_path: Path, short: TrainSettings) -> None:
    steep = replace(short, steps=1, loss=LossWeights(hole=1e4))
    (event,) = steps(run(folder_of(tmp_path / "photos"), tmp_path / "w", steep))
    assert event.rate == pytest.approx(short.rate / 200)
    tensors, _ = store.read_tensors(tmp_path / "w.checkpoint")
    # Adam's first step is as long as its rate, whatever the gradient; this layer started at 0.
    assert float(tensors["network.out.weight"].abs().max()) == pytest.approx(event.rate, rel=1e-3)
    # Its first mean is a tenth of the gradient, whose length is 1 at most.
    gradient = torch.cat([value.flatten() for key, value in tensors.items() if key.endswith("exp_avg")])
    assert float(gradient.norm()) == pytest.approx(0.1, rel=1e-3)


def test_what_is_saved_is_the_average_not_the_last_step(tmp_path: Path, short: TrainSettings) -> None:
    torch.manual_seed(short.seed)
    start = PartialConvUNet(TINY).state_dict()
    run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, steps=1, rate=0.5))
    tensors, _ = store.read_tensors(tmp_path / "w.checkpoint")
    key = "out.weight"  # the others get no gradient as long as this is 0
    decay = 2 / 11  # a short memory at first
    expected = decay * start[key] + (1 - decay) * tensors[f"network.{key}"]
    torch.testing.assert_close(tensors[f"averaged.{key}"], expected)
    assert not torch.equal(tensors[f"averaged.{key}"], tensors[f"network.{key}"])
    assert torch.equal(store.read(tmp_path / "w")[1][key], tensors[f"averaged.{key}"].half().float())


def test_batch_statistics_are_taken_anew_for_the_averaged_weights(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    run(folder, tmp_path / "w", replace(short, steps=3, second_share=0.0))
    saved = store.read(tmp_path / "w")[1]
    network = PartialConvUNet(TINY)
    network.load_state_dict(saved, strict=False)
    photos = [torch.tensor(photo).permute(2, 0, 1) for photo in load_photos(folder, 32)[0]]
    sums, seen = torch.zeros(2, 6), []
    norm = network.encoder[1].norm
    hook = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for i in range(loop.CALIBRATION):
        batch = make_batch(photos, (), loop.CALIBRATION_SEED, i, 8, 16)
        network.train()(batch.image, batch.known)
        values = seen[-1].transpose(0, 1).flatten(1)
        sums += torch.stack([values.mean(1), values.var(1)]) / loop.CALIBRATION
    hook.remove()
    # The saved kernels are halves, those that were calibrated are not.
    torch.testing.assert_close(saved["encoder.1.norm.running_mean"], sums[0], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(saved["encoder.1.norm.running_var"], sums[1], rtol=1e-2, atol=1e-3)


def test_feature_terms_join_in_the_second_phase_where_their_network_is_given(
    tmp_path: Path, short: TrainSettings
) -> None:
    vgg = tmp_path / "vgg.safetensors"
    store.write_tensors(vgg, vgg_state(), {})
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    for which, said in (("squeeze", "squeeze"), (str(vgg), "vgg.safetensors")):
        events = run(folder, out, replace(short, steps=2, second_share=0.5, perceptual=which))
        first, second = ({*event.losses} for event in steps(events))
        assert first == {"valid", "hole", "rms", "tv"} and second == first | {"distance"}
        assert store.read_header(out)["training"]["perceptual"] == said
    folder_of(folder, side=64)  # what is left of smaller crops deep in the features is nothing
    early = replace(short, steps=2, size=64, second_share=0.5, perceptual="squeeze", features_first=True)
    events = run(folder, out, early)
    assert all("distance" in event.losses for event in steps(events))


def test_the_first_phase_sees_many_small_crops_the_second_few_large_ones(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = loop.make_batch
    seen: list[tuple[int, int, int]] = []

    def spy(photos: list[Tensor], masks: list[Tensor], seed: int, step: int, count: int, size: int, **more: Any) -> Any:
        if seed == short.seed:
            seen.append((step, count, size))
        return made(photos, masks, seed, step, count, size, **more)

    monkeypatch.setattr(loop, "make_batch", spy)
    run(folder_of(tmp_path / "photos"), tmp_path / "w", short)
    assert seen == [(0, 8, 16), (1, 8, 16), (2, 8, 16), (3, 8, 16), (4, 2, 32), (5, 2, 32)]
    seen.clear()
    run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, small_first=False, steps=2))
    assert seen == [(0, 2, 32), (1, 2, 32)]


def test_by_the_clock_training_ends_with_its_time_and_has_both_phases(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr(loop.time, "monotonic", clock)
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    settings = replace(short, minutes=0.1, steps=1)  # 6 seconds, a step a second
    events = run(folder, out, settings)
    assert isinstance(events[0], TrainStarted) and events[0].steps is None
    assert [event.step for event in steps(events)] == [1, 2, 3, 4, 5, 6]
    assert [event.progress for event in steps(events)] == pytest.approx([i / 6 for i in range(1, 7)])
    second = [event.rate > short.second_rate / 100 * 2 for event in steps(events)]
    assert second[0] and steps(events)[4].rate < steps(events)[0].rate, "the second phase begins with its own warm-up"
    begun = run(folder, out, settings, after=3)
    assert [event.step for event in steps(begun)] == [1, 2, 3]
    assert [event.step for event in steps(run(folder, out, settings, resume=True))] == [4, 5, 6]


def test_training_starts_from_weights_of_any_architecture(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    torch.manual_seed(9)
    network = PartialConvUNet(replace(TINY, head=5))
    nn.init.normal_(network.out.weight, std=0.01)
    start = tmp_path / "start.safetensors"
    store.write(start, network, network.state_dict(), {})
    events = run(folder, tmp_path / "w", replace(short, start_from=str(start), steps=1, rate=1e-6))
    before, after = (event for event in events if isinstance(event, Validated))
    assert (before.step, after.step) == (0, 1) and before.psnr == pytest.approx(after.psnr, abs=0.5)
    assert before.floor_psnr == after.floor_psnr
    header, state = store.read(tmp_path / "w")
    assert header["architecture"]["head"] == 5 and header["training"]["start_from"] == "start.safetensors"
    for key, value in network.state_dict().items():
        if "norm" not in key:
            torch.testing.assert_close(state[key], value.half().float(), rtol=1e-2, atol=1e-5)
    resumed = run(folder, tmp_path / "w", replace(short, start_from=str(start), steps=2), resume=True)
    assert [event.step for event in steps(resumed)] == [2]


def test_going_on_keeps_batch_statistics_and_the_coarse_part_and_has_one_phase(
    tmp_path: Path, pair: TrainSettings
) -> None:
    folder, out = folder_of(tmp_path / "photos", side=64), tmp_path / "w.safetensors"
    run(folder, out, pair)
    further = replace(going_on(RECIPES["default"], str(out)), **shortened(pair))
    events = run(folder, tmp_path / "v.safetensors", further)
    rates = [step.rate for step in steps(events)]
    assert rates == pytest.approx([further.second_rate * i / loop.WARM_UP for i in range(1, 7)])  # one phase
    before, after = (store.read(path)[1] for path in (out, tmp_path / "v.safetensors"))
    kept = [key for key in before if "running" in key or key.startswith("coarse.")]
    assert any("running" in key for key in kept) and all(torch.equal(before[key], after[key]) for key in kept)
    assert not torch.equal(before["out.weight"], after["out.weight"])


def shortened(settings: TrainSettings) -> dict[str, Any]:
    names = ("steps", "batch_size", "size", "every", "held_out", "perceptual", "device", "precision")
    return {name: getattr(settings, name) for name in names} | {"adversarial_share": 0.0, "falling": False}


@pytest.mark.parametrize("coarse", [0.0, 0.25])
def test_going_on_leaves_out_the_phases_that_would_shake_what_is_learned(coarse: float) -> None:
    further = going_on(RECIPES["default"], "w", coarse)
    assert (further.coarse_share, further.second_share) == (coarse, 1 - coarse) and further.fixed_norms
    assert not further.small_first and further.second_rate < RECIPES["default"].second_rate
    paper = going_on(RECIPES["paper"], "w")
    assert paper == replace(RECIPES["paper"], start_from="w", rate=RECIPES["paper"].second_rate)


def test_going_on_takes_any_share_for_the_coarse_part() -> None:
    for hundredths in range(101):
        loop._check(going_on(RECIPES["default"], "w", hundredths / 100))
    with pytest.raises(UsageError, match=r"--coarse 0\.6: from 0 to 0\.45"):
        loop._check(replace(RECIPES["default"], coarse_share=0.6))


def test_the_loss_tells_a_recipe_from_the_others() -> None:
    assert len({recipe.loss for recipe in RECIPES.values()}) == len(RECIPES)
    assert all(going_on(recipe, "w").loss == recipe.loss for recipe in RECIPES.values())


def test_one_crop_is_enough_where_batch_statistics_stay(short: TrainSettings) -> None:
    alone = replace(short, batch_size=1, size=2 ** len(TINY.encoder))
    with pytest.raises(UsageError, match="--batch-size 1"):
        loop._refuse_single_values(TINY, alone)
    loop._refuse_single_values(TINY, replace(alone, fixed_norms=True))


def test_a_folder_of_masks_is_used(tmp_path: Path, short: TrainSettings) -> None:
    folder, marks = folder_of(tmp_path / "photos"), tmp_path / "masks"
    marks.mkdir()
    mask = np.zeros((40, 40), np.uint8)
    mask[:20] = 255
    Image.fromarray(mask).save(marks / "a.png")
    Image.fromarray(mask * 0).save(marks / "empty.png")
    plain = run(folder, tmp_path / "v", replace(short, steps=1))
    events = run(folder, tmp_path / "w", replace(short, steps=1, masks=str(marks)))
    assert notices(events)[0] == f"{marks / 'empty.png'}: marks everything or nothing as damaged; leave it out"
    assert steps(plain)[0].loss != steps(events)[0].loss
    (marks / "a.png").unlink()
    with pytest.raises(UsageError, match="no mask in it"):
        run(folder, tmp_path / "x", replace(short, masks=str(marks)))


def test_a_run_with_masks_resumes_bit_for_bit_and_says_when_they_have_changed(
    tmp_path: Path, short: TrainSettings
) -> None:
    folder, marks = folder_of(tmp_path / "photos"), tmp_path / "photos" / "masks"
    marks.mkdir()
    mask = np.zeros((40, 40), np.uint8)
    mask[:20] = 255
    Image.fromarray(mask).save(marks / "a.png")
    masked = replace(short, masks=str(marks))
    whole, parts = tmp_path / "a" / "w", tmp_path / "b" / "w"
    unbroken = run(folder, whole, masked)
    begun = run(folder, parts, masked, after=3)
    kept = loop.settings_of(parts)
    assert kept == masked
    resumed = run(folder, parts, kept, resume=True)
    assert steps(begun) + steps(resumed) == steps(unbroken)
    assert [text for text in notices(resumed) if "trained on (" in text] == []
    header = store.read_header(parts)["training"]
    assert header["photographs"] == 5 and header["masks"] == "masks"
    assert str(tmp_path) not in str(header)
    Image.fromarray(255 - mask).save(marks / "b.png")
    more = run(folder, parts, replace(kept, steps=7), resume=True)
    (said,) = [text for text in notices(more) if "trained on (" in text]
    assert said.startswith(f"{marks}: not the masks that the checkpoint was trained on (1 files then, 2 now")
    marks.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="not a folder of masks; say with --masks where they are"):
        run(folder, parts, replace(kept, steps=8), resume=True)
    found = run(folder, parts, replace(kept, steps=8, masks=str(tmp_path / "elsewhere")), resume=True)
    assert steps(found)[-1].step == 8 and [text for text in notices(found) if "trained on (" in text] == []


def test_what_lies_beyond_a_tile_s_edge_is_not_asked_for(tmp_path: Path, short: TrainSettings) -> None:
    """Whatever the photograph holds there, loss and gradient are the same."""
    network, truth = PartialConvUNet(TINY), torch.rand(1, 3, 32, 32)
    nn.init.normal_(network.out.weight, std=0.1)
    known, beyond = torch.ones(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    known[..., 10:20, 10:20] = 0
    known[..., 24:] = 0
    beyond[..., 24:] = 1
    other = torch.where(beyond > 0, 1 - truth, truth)
    found = []
    for image in (truth, other):
        twin = PartialConvUNet(TINY)
        twin.load_state_dict(network.state_dict())
        state = loop._fresh(twin, short, torch.device("cpu"))
        moment = loop._Moment(loop.FIRST, share=0.0, begun=0)
        settings = replace(short, loss=LossWeights(tv=0.0))
        loss, _, _ = loop._step(
            state, settings, moment, Batch(image, known, beyond), loop._passes(twin), None, torch.float32
        )
        found.append((float(loss), twin.out.weight.detach()))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_a_training_that_comes_to_nothing_says_so_and_keeps_the_checkpoint(
    tmp_path: Path, short: TrainSettings
) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    run(folder, out, replace(short, steps=2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for weight in (math.nan, math.inf):
        events: list[Event] = []
        settings = replace(short, steps=3, loss=LossWeights(hole=weight))
        with pytest.raises(UsageError, match=r"come to nothing by step 3.*lower --rate; the last checkpoint is kept$"):
            train(folder, out, settings, events.append, resume=True)
        assert steps(events) == [], "what is no number is no event either"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_training_that_comes_to_nothing_before_its_first_checkpoint_speaks_of_none(
    tmp_path: Path, short: TrainSettings
) -> None:
    settings = replace(short, loss=LossWeights(hole=math.nan))
    with pytest.raises(UsageError, match=r"come to nothing by step 1.*lower --rate; nothing was written$"):
        run(folder_of(tmp_path / "photos"), tmp_path / "w", settings)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("option", ["rate", "second_rate"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_rate_that_is_not_finite_is_refused(tmp_path: Path, short: TrainSettings, option: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"^--{option.replace('_', '-')} {value:g}: must be a finite number$"):
        run(tmp_path, tmp_path / "w", replace(short, **{option: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".checkpoint", "", ".sheet.png", ".log.jsonl"])
def test_a_disk_that_is_full_costs_nothing_that_was_saved(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    run(folder, out, replace(short, steps=2))
    before = (tmp_path / f"w{ending}").read_bytes()
    whole = files.whole

    def full(target: Path, **options: Any) -> Any:
        if target == tmp_path / f"w{ending}":
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(target, **options)

    monkeypatch.setattr(files, "whole", full)
    with pytest.raises(OutputError, match=f"w{ending}.*No space left.*--resume") as caught:
        run(folder, out, replace(short, steps=3), resume=True)
    assert "\n" not in str(caught.value) and (tmp_path / f"w{ending}").read_bytes() == before
    monkeypatch.setattr(files, "whole", whole)
    assert steps(run(folder, out, replace(short, steps=4), resume=True))[-1].step == 4


def test_bfloat16_trains_to_finite_weights(tmp_path: Path, short: TrainSettings) -> None:
    events = run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, steps=2, precision="bf16"))
    assert all(math.isfinite(event.loss) for event in steps(events))
    assert all(bool(value.isfinite().all()) for value in store.read(tmp_path / "w")[1].values())


@pytest.mark.parametrize("held_out", [0, 1, 3, 8])
def test_held_out_photographs_are_not_trained_on(tmp_path: Path, held_out: int) -> None:
    photos = folder_of(tmp_path / "photos", count=24, side=32)
    cpu = torch.device("cpu")
    kept, held = take_photos(photos, 32, None, held_out, lambda event: None, cpu)
    count = min(held_out, 2)  # a tenth of the folder at most
    assert len(kept) == 24 - count
    if count:
        assert len(held) == count
        assert not any(torch.equal(a, b) for a in kept for b in held if a.shape == b.shape)


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize(
    ("photos", "asked", "kept", "why"),
    [(10, 0, 0, "--held-out 0: none"), (9, 20, 0, "fewer than 10 photographs: none"), (10, 20, 1, None)],
)
def test_how_many_are_held_out_is_told_and_that_figures_without_any_are_of_one_trained_on(
    tmp_path: Path, short: TrainSettings, photos: int, asked: int, kept: int, why: str | None
) -> None:
    folder = folder_of(tmp_path / "photos", count=photos)
    events = run(folder, tmp_path / "w", replace(short, steps=1, held_out=asked))
    assert isinstance(events[0], TrainStarted) and (events[0].photos, events[0].held_out) == (photos - kept, kept)
    said = [f"{why} is held out, so the figures are of one that is trained on"] if why else []
    assert notices(events) == said


def test_a_run_that_goes_on_with_other_photographs_says_so(tmp_path: Path, short: TrainSettings) -> None:
    folder, out = folder_of(tmp_path / "photos", count=10), tmp_path / "w"
    run(folder, out, replace(short, steps=1))
    moved = folder.rename(tmp_path / "moved")
    assert notices(run(moved, out, replace(short, steps=2), resume=True)) == []
    Image.new("RGB", (50, 50)).save(moved / "9.png")  # as many as before
    (said,) = notices(run(moved, out, replace(short, steps=3), resume=True))
    assert said.startswith(f"{moved}: not the photographs that the checkpoint was trained on (10 files then, 10 now")
    assert notices(run(moved, out, replace(short, steps=4), resume=True)) == []
    tensors, metadata = store.read_tensors(tmp_path / "w.checkpoint")
    del metadata["folder"]  # as earlier versions wrote it
    store.write_tensors(tmp_path / "w.checkpoint", tensors, metadata)
    assert notices(run(folder_of(folder, count=12), out, replace(short, steps=5), resume=True)) == []


def test_pictures_that_cannot_be_used_are_said_in_few_lines(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    for i in range(5):
        (folder / f"x{i}.png").write_bytes(b"broken")
    events = run(folder, tmp_path / "w", replace(short, steps=1))
    said = notices(events)
    assert len(said) == 5 and "x0.png" in said[0] and said[3].startswith("2 more") and "none is held out" in said[4]


def test_pictures_that_are_broken_are_said_before_those_that_are_small(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    for i in range(5):
        Image.new("RGB", (8, 8)).save(folder / f"a{i}.png")
    (folder / "z.png").write_bytes(b"broken")
    events = run(folder, tmp_path / "w", replace(short, steps=1))
    assert "z.png" in notices(events)[0]


def test_the_settings_of_a_training_stand_in_its_checkpoint(tmp_path: Path, short: TrainSettings) -> None:
    settings = replace(short, steps=1, loss=LossWeights(hole=3.0), start_from="photo-3", network="paper")
    run(folder_of(tmp_path / "photos"), tmp_path / "w", settings)
    assert loop.settings_of(tmp_path / "w") == settings
    with pytest.raises(UsageError, match="no checkpoint to resume from"):
        loop.settings_of(tmp_path / "v")


def refused(tmp_path: Path, short: TrainSettings, error: type[Exception], words: str, **keywords: object) -> None:
    """Training is refused and has written nothing."""
    resume = bool(keywords.pop("resume", False))
    folder = keywords.pop("folder", tmp_path / "photos")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words):
        run(folder, tmp_path / "w", replace(short, **keywords), resume=resume)  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == before


def test_settings_that_make_no_sense_are_refused(tmp_path: Path, short: TrainSettings) -> None:
    folder_of(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, short, UsageError, "no checkpoint to resume from", resume=True)
    deepest = len(loop.NETWORKS[short.network].encoder)
    refused(tmp_path, short, UsageError, "--batch-size 1: at --size", batch_size=1, size=2**deepest)
    refused(tmp_path, short, UsageError, "there are deep, compact, paper", network="huge")
    refused(tmp_path, short, UsageError, "--minutes 0", minutes=0.0)
    refused(tmp_path, short, UsageError, "--from none", start_from="none")
    refused(tmp_path, short, WeightsError, "neither a weights file nor a name", start_from="nowhere")
    refused(tmp_path, short, UsageError, "not a folder", folder=tmp_path / "nowhere")
    refused(tmp_path, short, NothingToDo, "no picture", folder=tmp_path / "empty")
    refused(tmp_path, short, NothingToDo, "64 px", size=64)
    refused(tmp_path, short, DeviceError, "--device meta", device="meta")
    refused(tmp_path, short, DeviceError, "--precision fp8", precision="fp8")
    refused(tmp_path, short, WeightsError, "cannot be read", perceptual=str(tmp_path / "photos" / "0.png"))


def test_a_device_without_memory_ends_training_with_what_to_make_smaller(
    tmp_path: Path, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "photos")

    def failing(error: Exception) -> Callable[..., Any]:
        def step(*_: Any) -> Any:
            raise error

        return step

    monkeypatch.setattr(loop, "_step", failing(torch.OutOfMemoryError("CUDA out of memory.\nMore of it")))
    refused(tmp_path, short, DeviceError, r"--batch-size or --size.*\(torch: CUDA out of memory\.\)$")
    monkeypatch.setattr(loop, "_step", failing(RuntimeError("shapes do not fit")))
    refused(tmp_path, short, RuntimeError, "^shapes do not fit$")


def without(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [state.pop(key) for key in list(state) if key != "features.0.weight"],
        without("features.10.bias"),
        lambda state: state.update({"features.0.bias": torch.zeros(3)}),
        lambda state: state.update({"features.2.weight": torch.zeros(16, 64)}),
        lambda state: state.update({"features.3.squeeze.weight": torch.zeros(16, 64, 1, 1)}),
    ],
    ids=["almost nothing there", "one missing", "short bias", "flat weight", "half of another"],
)
def test_other_weights_than_those_of_a_feature_network_are_refused(
    tmp_path: Path, short: TrainSettings, change: Callable[[dict[str, Tensor]], object]
) -> None:
    folder_of(tmp_path / "photos")
    state = vgg_state()
    change(state)
    store.write_tensors(tmp_path / "features", state, {})
    refused(tmp_path, short, UsageError, r"neither SqueezeNet 1\.1 nor VGG-16", perceptual=str(tmp_path / "features"))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    run(folder, tmp_path / "w", replace(short, steps=1))
    refused(tmp_path, short, UsageError, "is of the network compact, not of paper", network="paper", resume=True)
    (tmp_path / "w.checkpoint").write_bytes(b"broken")
    refused(tmp_path, short, WeightsError, "cannot be read", resume=True)
    store.write_tensors(tmp_path / "w.checkpoint", {"a": torch.zeros(1)}, {"step": "3"})
    refused(tmp_path, short, UsageError, "not a checkpoint that this version wrote", resume=True)
