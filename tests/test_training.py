"""Training: damage and crops that a seed decides, losses by hand, and a run that can be broken off anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor

from pconv_cli import weights as store
from pconv_cli.errors import DeviceError, NothingToDo, UsageError, WeightsError
from pconv_cli.events import Event, Notice, TrainStarted, TrainStep, Validated
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig
from pconv_cli.training import damage, loop
from pconv_cli.training.damage import LARGEST, SMALLEST, random_damage
from pconv_cli.training.data import Photo, batches, make_batch
from pconv_cli.training.loop import TrainSettings, load_photos, train
from pconv_cli.training.losses import (
    LossWeights,
    SqueezeFeatures,
    inpainting_loss,
    perceptual_loss,
    style_loss,
    total_variation,
)

TINY = UNetConfig(encoder=((4, 5), (6, 3)), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), floor=1, head=3)
OTHER = UNetConfig(encoder=((4, 3), (6, 3)))

# Damage


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(16, 72))
def test_damage_is_decided_by_the_state_of_its_source(seed: int, size: int) -> None:
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    hole = random_damage(size, first)
    assert hole.shape == (size, size) and hole.dtype == np.bool_
    assert hole.any() and not hole.all()
    assert np.array_equal(hole, random_damage(size, second))
    assert first.bit_generator.state == second.bit_generator.state
    assert hole.flags.writeable


def test_the_shares_of_damage_spread_over_the_whole_range() -> None:
    rng = np.random.default_rng(7)
    shares = np.array([random_damage(64, rng).mean() for _ in range(80)])
    # A uniform share: a third of the draws in each third of the range; drawing stops a stroke after the share is met.
    counts, _ = np.histogram(np.minimum(shares, LARGEST), bins=np.linspace(0, LARGEST, 4))
    assert counts.min() >= 12, counts
    assert shares.min() < 0.05 and shares.max() > 0.5
    assert 0.2 < shares.mean() < 0.45
    assert SMALLEST < LARGEST


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_damage_never_takes_all_or_nothing(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(damage, "SMALLEST", share)
    monkeypatch.setattr(damage, "LARGEST", share)
    sums = [int(random_damage(16, np.random.default_rng(seed)).sum()) for seed in range(12)]
    assert (min(sums) if share == 0 else 256 - max(sums)) == 1


def test_damage_is_not_always_the_same_damage() -> None:
    rng = np.random.default_rng(0)
    holes = np.array([random_damage(48, rng) for _ in range(40)])
    mean = holes.mean(0)
    assert mean.min() > 0 and mean.max() < 0.9  # no place is spared, none is always hit


# Batches


def photos_of(*sides: tuple[int, int]) -> list[Photo]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sides]


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    photos = photos_of((40, 70), (64, 33))
    image, known = make_batch(photos, 5, 11, 3, 32)
    np.random.default_rng(0).random(100)
    torch.rand(5)
    again, known_again = make_batch(photos, 5, 11, 3, 32)
    assert torch.equal(image, again) and torch.equal(known, known_again)
    for seed, step in ((5, 12), (6, 11), (11, 5)):
        other, other_known = make_batch(photos, seed, step, 3, 32)
        assert not torch.equal(image, other) and not torch.equal(known, other_known)


@pytest.mark.parametrize("size", [32, 33])
def test_a_batch_has_the_shapes_and_ranges_that_the_network_takes(size: int) -> None:
    photos = photos_of((size, size), (size, 3 * size), (5 * size, 2 * size))
    before = [photo.copy() for photo in photos]
    for step in range(6):
        image, known = make_batch(photos, 0, step, 4, size)
        assert image.shape == (4, 3, size, size) and image.dtype == torch.float32
        assert known.shape == (4, 1, size, size) and known.dtype == torch.float32
        assert float(image.min()) >= 0 and float(image.max()) <= 1 and float(image.std()) > 0.05
        assert set(known.unique().tolist()) == {0.0, 1.0}
        assert bool((known.mean((1, 2, 3)) > 0.05).all())  # 1 = known
    assert all(np.array_equal(a, b) for a, b in zip(before, photos, strict=True))


def test_a_crop_of_the_whole_photograph_is_the_photograph_or_its_mirror_or_its_grey() -> None:
    (photo,) = photos_of((32, 32))
    truth = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    kinds = {"as it is": truth, "mirrored": truth.flip(-1)}
    kinds |= {f"{name}, grey": image.mean(0, keepdim=True).expand(3, -1, -1) for name, image in list(kinds.items())}
    seen = []
    for image in make_batch([photo], 0, 0, 80, 32)[0]:
        seen += [name for name, candidate in kinds.items() if torch.allclose(image, candidate, atol=1e-6)]
    assert len(seen) == 80
    assert 20 < sum("mirrored" in name for name in seen) < 60
    assert 0 < sum("grey" in name for name in seen) < 25


def test_every_photograph_is_used() -> None:
    photos = [np.full((32, 32, 3), 40 * i, np.uint8) for i in range(6)]
    values = {round(float(image.mean()) * 255) for image in make_batch(photos, 0, 0, 60, 32)[0]}
    assert values == {0, 40, 80, 120, 160, 200}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("steps", "workers"),
    [(range(0), 0), (range(0), 1), (range(1), 0), (range(3, 5), 1), (range(2, 11), 0), (range(2, 11), 1)],
)
def test_batches_come_in_the_order_of_their_steps_whoever_makes_them(steps: range, workers: int) -> None:
    photos = photos_of((16, 16), (20, 20))
    made = list(batches(photos, 9, steps, 1, 16, workers))
    assert len(made) == len(steps)
    for step, (image, known) in zip(steps, made, strict=True):
        expected, expected_known = make_batch(photos, 9, step, 1, 16)
        assert torch.equal(image, expected) and torch.equal(known, expected_known)


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
    weights = LossWeights(valid=2.0, hole=3.0, tv=5.0, perceptual=1e9, style=1e9, by_area=by_area)
    total, terms = inpainting_loss(output, truth, known, weights)
    assert set(terms) == {"valid", "hole", "tv"}
    assert float(terms["valid"]) == pytest.approx(valid)
    assert float(terms["hole"]) == pytest.approx(hole)
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


def test_perceptual_term_is_relative_and_counts_output_and_composite() -> None:
    truth = torch.full((1, 3, 2, 2), 0.5)
    known = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    output = truth + 0.2
    _, terms = inpainting_loss(output, truth, known, LossWeights(), ladder)
    # Output: off by 0.2 everywhere, both scales. Composite: by 0.2 in one pixel of four. Relative to 0.5; their mean.
    assert float(terms["perceptual"]) == pytest.approx(2 * (0.2 + 0.05) / 2 / 0.5)
    scaled = perceptual_loss([7 * f for f in ladder(output)], [7 * f for f in ladder(truth)])
    assert float(scaled) == pytest.approx(2 * 0.2 / 0.5)


def test_style_term_compares_gram_matrices() -> None:
    wanted = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # channels (1, 2) and (3, 0)
    made = torch.tensor([[[[1.0, 1.0]], [[1.0, 1.0]]]])
    # Grams, times 4: (5, 3, 3, 9) and (2, 2, 2, 2). The number of values cancels.
    assert float(style_loss([made], [wanted])) == pytest.approx((3 + 1 + 1 + 7) / (5 + 3 + 3 + 9))
    # Where things lie does not matter, only what occurs together.
    assert float(style_loss([wanted.flip(-1)], [wanted])) == 0
    assert float(style_loss([wanted.flip(1)], [wanted])) > 0
    both = style_loss([torch.cat([made, wanted])], [wanted])
    assert float(both) == pytest.approx((3 + 1 + 1 + 7) / (5 + 3 + 3 + 9) / 2)


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
    total, terms = inpainting_loss(truth, truth, known, replace(LossWeights(), tv=0.0), ladder)
    assert float(total) == 0
    assert {name for name, term in terms.items() if float(term)} == {"tv"}  # of the true picture itself
    flat = torch.full((2, 3, 4, 4), 0.3)
    assert float(inpainting_loss(flat, flat, known, LossWeights(), ladder)[0]) == 0


def test_features_that_are_all_0_do_not_make_the_loss_nan() -> None:
    black = torch.zeros(1, 3, 4, 4)
    total, _ = inpainting_loss(black, black, torch.ones(1, 1, 4, 4), LossWeights(), ladder)
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
    _, terms = inpainting_loss(output, truth, known, LossWeights(), features, twice=twice)
    wanted, made = seen
    torch.testing.assert_close(wanted, truth)
    torch.testing.assert_close(made, torch.cat([output, composite]) if twice else composite)
    _, whole = inpainting_loss(composite, truth, known, LossWeights(), ladder)
    for name in ("perceptual", "style"):
        assert torch.isclose(terms[name], whole[name]) != torch.tensor(twice)


def test_the_known_part_of_the_composite_passes_no_gradient() -> None:
    output, truth, known = corner()
    output.requires_grad_()
    inpainting_loss(output, truth, known, LossWeights(valid=0, hole=0, tv=1))[0].backward()
    assert output.grad is not None
    assert torch.equal(output.grad != 0, (1 - known).expand_as(output) > 0)


# The feature network


def squeeze_state() -> dict[str, Tensor]:
    """Random weights in the shapes of SqueezeNet 1.1's first stages, with a few keys that are not needed."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"features.0": (64, 3, 3), "classifier.1": (1000, 512, 1)}
    for index, incoming, squeezed, expanded in (
        (3, 64, 16, 64),
        (4, 128, 16, 64),
        (6, 128, 32, 128),
        (7, 256, 32, 128),
    ):
        shapes[f"features.{index}.squeeze"] = (squeezed, incoming, 1)
        shapes[f"features.{index}.expand1x1"] = (expanded, squeezed, 1)
        shapes[f"features.{index}.expand3x3"] = (expanded, squeezed, 3)
    state = {}
    for name, (out, incoming, kernel) in shapes.items():
        state[f"{name}.weight"] = torch.randn(out, incoming, kernel, kernel, generator=rng) / (incoming * kernel)
        state[f"{name}.bias"] = torch.rand(out, generator=rng)
    return state


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 57)])
def test_squeeze_features_lie_at_a_half_a_quarter_and_an_eighth(height: int, width: int) -> None:
    features = SqueezeFeatures(squeeze_state())
    taps = features(torch.rand(2, 3, height, width))
    assert [tap.shape[:2] for tap in taps] == [(2, 64), (2, 128), (2, 256)]
    for tap, scale in zip(taps, (2, 4, 8), strict=True):
        assert abs(tap.shape[2] - height / scale) <= 1 and abs(tap.shape[3] - width / scale) <= 1
        assert float(tap.min()) >= 0 and float(tap.max()) > 0
    assert not any(p.requires_grad for p in features.parameters())


def test_squeeze_features_take_bgr_bytes_minus_the_mean() -> None:
    state = squeeze_state()
    state["features.0.weight"].zero_()
    state["features.0.bias"].zero_()
    for channel in range(3):
        state["features.0.weight"][channel, channel, 1, 1] = 1
    image = torch.tensor([0.9, 0.8, 0.7])[None, :, None, None].expand(1, 3, 16, 16)
    first = SqueezeFeatures(state)(image)[0]
    assert first[0, :4, 0, 0].tolist() == pytest.approx(
        [0.7 * 255 - 103.939, 0.8 * 255 - 116.779, 0.9 * 255 - 123.68, 0]
    )


def test_squeeze_features_pass_gradients_to_the_picture() -> None:
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    sum(tap.sum() for tap in SqueezeFeatures(squeeze_state())(image)).backward()  # type: ignore[union-attr]
    assert image.grad is not None and float(image.grad.abs().sum()) > 0


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


def test_a_folder_without_a_picture_large_enough_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingToDo, match="no picture"):
        load_photos(tmp_path, 32)
    folder_of(tmp_path, side=31)
    with pytest.raises(NothingToDo, match="32 px"):
        load_photos(tmp_path, 32)


# The loop


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """Six steps of a tiny network; the second phase begins after four."""
    monkeypatch.setitem(loop.NETWORKS, "compact", TINY)
    monkeypatch.setitem(loop.NETWORKS, "paper", OTHER)
    return TrainSettings(
        steps=6,
        batch_size=2,
        size=32,
        second_share=0.34,
        every=100,
        held_out=8,
        workers=0,
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
    assert all(set(event.losses) == {"valid", "hole", "tv"} and math.isfinite(event.loss) for event in steps(events))
    (measured,) = [event for event in events if isinstance(event, Validated)]
    assert measured.step == 6 and 0 < measured.psnr < 60 and 0 < measured.floor < 60
    assert abs(measured.psnr - measured.floor) < 3  # six steps from the floor
    network = store.load_network(str(out))
    assert isinstance(network, PartialConvUNet) and network.config == TINY
    header = store.read_header(out)
    assert header["name"] == "w"
    assert header["training"]["photographs"] == 5 and header["training"]["step"] == 6
    assert header["metrics"]["validation"]["psnr"] == measured.psnr
    assert {path.name for path in out.parent.iterdir()} == {"w.safetensors", "w.safetensors.checkpoint"}
    assert str(tmp_path) not in str(header)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path, short: TrainSettings, first: int) -> None:
    folder = folder_of(tmp_path / "photos")
    whole, parts = tmp_path / "a" / "w.safetensors", tmp_path / "b" / "w.safetensors"
    unbroken = run(folder, whole, short)
    begun = run(folder, parts, short, after=first)
    assert [event.step for event in steps(begun)] == list(range(1, first + 1))
    resumed = run(folder, parts, short, resume=True)
    assert isinstance(resumed[0], TrainStarted) and resumed[0].first == first
    assert steps(begun) + steps(resumed) == steps(unbroken)
    for name in ("w.safetensors", "w.safetensors.checkpoint"):
        mine, my_header = store.read_tensors(parts.with_name(name))
        theirs, their_header = store.read_tensors(whole.with_name(name))
        assert my_header == their_header and mine.keys() == theirs.keys()
        assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []


def test_stopping_saves_what_was_done(tmp_path: Path, short: TrainSettings) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w.safetensors"
    events = run(folder, out, short, after=2)
    assert len(steps(events)) == 2 and isinstance(events[-1], Validated) and events[-1].step == 2
    assert store.read_header(out)["training"]["step"] == 2
    tensors, metadata = store.read_tensors(tmp_path / "w.safetensors.checkpoint")
    assert metadata["step"] == "2"
    assert {key.split(".")[0] for key in tensors} == {"network", "averaged", "adam"}
    store.load_network(str(out))


def test_checkpoints_come_at_their_steps(tmp_path: Path, short: TrainSettings) -> None:
    events = run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, every=2, steps=5))
    assert [event.step for event in events if isinstance(event, Validated)] == [2, 4, 5]


def test_another_seed_trains_another_network(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    brief = replace(short, steps=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(folder, tmp_path / name, replace(brief, seed=seed))
    a, b, c = (store.read(tmp_path / name)[1]["encoder.0.conv.weight"] for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_second_phase_freezes_the_encoder_s_statistics_and_lowers_the_rate(
    tmp_path: Path, short: TrainSettings
) -> None:
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    assert short.first_steps == 4
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


def test_the_rate_warms_up_and_falls_in_each_phase() -> None:
    settings = TrainSettings(steps=4000, rate=1e-3, second_rate=2e-4, second_share=0.25)
    assert settings.first_steps == 3000
    rates = [loop._rate(settings, step) for step in range(4000)]
    assert rates[0] == pytest.approx(1e-3 / 200)
    assert max(rates[:3000]) == pytest.approx(1e-3, rel=0.02) and rates.index(max(rates)) == 199
    assert rates[2999] == pytest.approx(5e-5, rel=0.01)
    assert max(rates[3000:]) == pytest.approx(2e-4, rel=0.1)
    assert rates[3999] == pytest.approx(1e-5, rel=0.01)
    for begin, end in ((199, 3000), (3199, 4000)):
        assert all(a > b for a, b in zip(rates[begin : end - 1], rates[begin + 1 : end], strict=True))
    assert all(rate > 0 for rate in rates)


def test_the_rate_of_a_step_is_the_rate_that_is_said(tmp_path: Path, short: TrainSettings) -> None:
    events = run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, steps=3))
    assert [event.rate for event in steps(events)] == [loop._rate(replace(short, steps=3), step) for step in range(3)]


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


def test_feature_terms_join_in_the_second_phase_where_their_network_is_given(
    tmp_path: Path, short: TrainSettings
) -> None:
    squeeze = tmp_path / "squeeze.safetensors"
    store.write_tensors(squeeze, squeeze_state(), {})
    folder, out = folder_of(tmp_path / "photos"), tmp_path / "w"
    events = run(folder, out, replace(short, steps=2, second_share=0.5, perceptual=squeeze))
    first, second = ({*event.losses} for event in steps(events))
    assert first == {"valid", "hole", "tv"} and second == first | {"perceptual", "style"}
    assert store.read_header(out)["training"]["perceptual"] == "squeeze.safetensors"


def test_the_first_phase_sees_many_small_crops_the_second_few_large_ones(short: TrainSettings) -> None:
    photos = photos_of((40, 40))
    shapes = [tuple(image.shape) for image, _ in loop._batches(photos, short, 2)]
    assert shapes == [(8, 3, 16, 16)] * 2 + [(2, 3, 32, 32)] * 2
    assert [tuple(image.shape) for image, _ in loop._batches(photos, short, 5)] == [(2, 3, 32, 32)]
    other = next(loop._batches(photos, replace(short, seed=1), 5))
    assert not torch.equal(other[0], next(loop._batches(photos, short, 5))[0])
    late = [image for image, _ in loop._batches(photos, short, 3)]
    assert all(
        torch.equal(a, b) for a, b in zip(late, [x for x, _ in loop._batches(photos, short, 0)][3:], strict=True)
    )


def test_bfloat16_trains_to_finite_weights(tmp_path: Path, short: TrainSettings) -> None:
    events = run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, steps=2, precision="bf16"))
    assert all(math.isfinite(event.loss) for event in steps(events))
    assert all(bool(value.isfinite().all()) for value in store.read(tmp_path / "w")[1].values())


@pytest.mark.parametrize("held_out", [0, 1, 3, 8])
def test_held_out_photographs_are_not_trained_on(tmp_path: Path, short: TrainSettings, held_out: int) -> None:
    photos = folder_of(tmp_path / "photos", count=24, side=32)
    kept, held = loop._photos(photos, replace(short, held_out=held_out), lambda event: None)
    count = min(held_out, 2)  # a tenth of the folder at most
    assert len(kept) == 24 - count
    if count:
        assert len(held) == count
        assert not any(np.array_equal(a, b) for a in kept for b in held if a.shape == b.shape)


def test_nothing_held_out_still_trains(tmp_path: Path, short: TrainSettings) -> None:
    run(folder_of(tmp_path / "photos"), tmp_path / "w", replace(short, steps=1, held_out=0))


def test_pictures_that_cannot_be_used_are_said_in_few_lines(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    for i in range(5):
        (folder / f"x{i}.png").write_bytes(b"broken")
    events = run(folder, tmp_path / "w", replace(short, steps=1))
    said = [event.text for event in events if isinstance(event, Notice)]
    assert len(said) == 4 and "x0.png" in said[0] and said[3].startswith("2 more")


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
    refused(tmp_path, short, UsageError, "there are compact, paper", network="huge")
    refused(tmp_path, short, UsageError, "not a folder", folder=tmp_path / "nowhere")
    refused(tmp_path, short, NothingToDo, "no picture", folder=tmp_path / "empty")
    refused(tmp_path, short, NothingToDo, "64 px", size=64)
    refused(tmp_path, short, DeviceError, "--device meta", device="meta")
    refused(tmp_path, short, DeviceError, "--precision fp8", precision="fp8")
    refused(tmp_path, short, WeightsError, "cannot be read", perceptual=tmp_path / "photos" / "0.png")


def without(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [state.pop(key) for key in list(state) if key != "classifier.1.weight"],
        without("features.6.expand3x3.bias"),
        lambda state: state.update({"features.0.bias": torch.zeros(3)}),
        lambda state: state.update({"features.3.squeeze.weight": torch.zeros(16, 64)}),
    ],
    ids=["almost nothing there", "one missing", "short bias", "flat weight"],
)
def test_other_weights_than_squeezenet_s_are_refused(
    tmp_path: Path, short: TrainSettings, change: Callable[[dict[str, Tensor]], object]
) -> None:
    folder_of(tmp_path / "photos")
    state = squeeze_state()
    change(state)
    store.write_tensors(tmp_path / "squeeze", state, {})
    refused(tmp_path, short, UsageError, r"not SqueezeNet 1\.1", perceptual=tmp_path / "squeeze")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, short: TrainSettings) -> None:
    folder = folder_of(tmp_path / "photos")
    run(folder, tmp_path / "w", replace(short, steps=1))
    refused(tmp_path, short, WeightsError, "do not fit", network="paper", resume=True)
    (tmp_path / "w.checkpoint").write_bytes(b"broken")
    refused(tmp_path, short, WeightsError, "cannot be read", resume=True)
