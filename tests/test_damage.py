"""Random damage: shares, edges and independence of masks, and what drawing them may not cost."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pconv_cli.training import damage
from pconv_cli.training.damage import LARGEST, SMALLEST, Damage, random_damage, thin_damage

KINDS = ("_folds_and_tears", "_dust", "_hairs", "_scratches", "_blocks", "_strokes")


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def shares(made: Damage) -> Tensor:
    """`(n)`: the share that is damaged of what is not beyond an edge."""
    within = ~made.beyond.flatten(1)
    return (made.hole.flatten(1) & within).sum(1) / within.sum(1)


def ask_for(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "SMALLEST", share)
    monkeypatch.setattr(damage, "LARGEST", share)


def drawn(name: str, share: float, n: int = 16, size: int = 128) -> Tensor:
    """`(n, 1, size, size)`: shapes of one kind, for a share."""
    dice, budget, low = damage._Dice(seeded(8), n), torch.full((n,), share), torch.zeros(n, 2)
    arguments = {"_hairs": (4,), "_scratches": (6,), "_blocks": (budget,), "_strokes": (budget,)}.get(name, ())
    shapes = getattr(damage, name)(dice, size, *arguments)
    return damage._drawn([shapes], [budget], damage._Window(low, low + size), size)


def thick(hole: Tensor, side: int) -> Tensor:
    """`(n)`: the share of what is damaged that has nothing but damage in the square about it."""
    heart = -F.max_pool2d(-hole.float(), side, 1, side // 2)
    return heart.sum((1, 2, 3)) / hole.sum((1, 2, 3)).clamp(min=1)


# Masks


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(32, 300), st.sampled_from([random_damage, thin_damage])
)
def test_damage_is_decided_by_the_state_of_its_source(seed: int, count: int, size: int, draw: Any) -> None:
    untouched = torch.get_rng_state()
    first, second = seeded(seed), seeded(seed)
    made, again = draw(count, size, first), draw(count, size, second)
    for plane, other in ((made.hole, again.hole), (made.beyond, again.beyond)):
        assert plane.shape == (count, 1, size, size) and plane.dtype == torch.bool and plane.device == first.device
        assert torch.equal(plane, other)
    assert torch.equal(first.get_state(), second.get_state())
    assert torch.equal(untouched, torch.get_rng_state())
    assert not bool((made.beyond & ~made.hole).any())
    within = ~made.beyond
    assert bool((made.hole & within).flatten(1).any(1).all())
    assert bool((~made.hole).flatten(1).any(1).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("draw", [random_damage, thin_damage])
def test_on_cuda_damage_is_drawn_there_without_waiting_for_it(draw: Any) -> None:
    generators = seeded(1, "cuda"), seeded(1, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        made, again = (draw(40, 99, generator) for generator in generators)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.hole.device == made.beyond.device == generators[0].device
    assert torch.equal(made.hole, again.hole) and torch.equal(made.beyond, again.beyond)
    assert float(shares(made).min()) > 0 and float(shares(made).max()) < 0.7


@pytest.mark.parametrize("size", [16, 33, 128])
def test_no_mask_is_like_another(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "_AT_ONCE_ON_CPU", 7 * size**2)  # not even where they are not drawn at once
    masks = random_damage(40, size, seeded(4)).hole.flatten(1)
    assert len({bytes(mask.byte().tolist()) for mask in masks}) == 40


def test_masks_know_nothing_of_one_another_and_spare_no_place() -> None:
    made = random_damage(600, 48, seeded(0))
    mean = made.hole.float().mean(0)
    assert float(mean.min()) > 0.15 and float(mean.max()) < 0.75
    masks = made.hole.flatten(1).double()
    masks = F.normalize(masks - masks.mean(1, keepdim=True))
    alike = masks @ masks.T - torch.eye(600)
    assert abs(float(alike.mean())) < 0.01  # all masks together would be alike if some places were likelier than others
    assert abs(float(alike.diagonal(1).mean())) < 0.03


@pytest.mark.parametrize("draw", [random_damage, thin_damage])
def test_none_are_none(draw: Any) -> None:
    made = draw(0, 40, seeded(0))
    assert made.hole.shape == made.beyond.shape == (0, 1, 40, 40) and made.hole.dtype == torch.bool


@pytest.mark.parametrize("size", [15, 2049])
@pytest.mark.parametrize("draw", [random_damage, thin_damage])
def test_sizes_that_cannot_be_drawn_are_refused(draw: Any, size: int) -> None:
    with pytest.raises(ValueError, match=f"masks of {size} pixels"):
        draw(1, size, seeded(0))


# Shares


def test_shares_are_uniform_over_the_whole_range() -> None:
    reached = shares(random_damage(2000, 64, seeded(7)))
    sixths = torch.histc(reached.clamp(SMALLEST, LARGEST), 6, SMALLEST, LARGEST)
    deviation = (2000 * 1 / 6 * 5 / 6) ** 0.5
    assert float((sixths - 2000 / 6).abs().max()) < 4 * deviation, sixths
    assert float(reached.min()) < 0.01 and float(reached.max()) > 0.59


@pytest.mark.parametrize(("share", "closely"), [(0.005, 0.001), (0.05, 0.002), (0.3, 0.004), (0.6, 0.005)])
def test_shares_are_met_also_beside_an_edge(share: float, closely: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(share, monkeypatch)
    made = random_damage(96, 128, seeded(2))
    cut = made.beyond.flatten(1).any(1)
    for group in (cut, ~cut):
        assert float((shares(made)[group] - share).abs().mean()) < closely


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("size", [16, 70])
def test_damage_never_takes_all_or_nothing(share: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(share, monkeypatch)
    made = random_damage(60, size, seeded(3))
    within = ~made.beyond
    assert bool((made.hole & within).flatten(1).any(1).all()) and bool((~made.hole).flatten(1).any(1).all())


@pytest.mark.parametrize("size", [16, 33, 64])
def test_the_smallest_masks_of_thin_damage_hold_some(size: int) -> None:
    reached = shares(thin_damage(400, size, seeded(3)))
    assert float(reached.min()) > 0 and float(reached.max()) < 0.15


# Edges


def test_three_masks_in_ten_lie_at_a_straight_edge() -> None:
    size = 50
    beyond = random_damage(1000, size, seeded(5)).beyond[:, 0]
    columns, rows = beyond.all(1), beyond.all(2)
    assert torch.equal(beyond, columns[:, None, :] | rows[:, :, None])
    ends = torch.stack([columns[:, 0], columns[:, -1], rows[:, 0], rows[:, -1]], 1)
    sides = ends.sum(1)
    assert int(sides.max()) == 2 and not bool((ends[:, 0] & ends[:, 1] | ends[:, 2] & ends[:, 3]).any())
    assert 0.24 < float((sides > 0).float().mean()) < 0.36 and 0.02 < float((sides == 2).float().mean()) < 0.15
    assert int(ends.sum(0).min()) > 50
    for across, far in ((columns, ends[:, 1]), (rows, ends[:, 3])):
        inwards = torch.where(far[:, None], across.flip(1), across)
        depth = inwards.sum(1)
        assert torch.equal(inwards, torch.arange(size) < depth[:, None]), "one piece, from a side"
        assert int(depth.max()) <= 0.4 * size and len(set(depth.tolist())) > 15


# Kinds


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_shape_stops_at_its_share(name: str) -> None:
    for share in (0.005, 0.03):
        reached = drawn(name, share).float().mean((1, 2, 3))
        assert float(reached.max()) < 1.3 * share + 0.002  # discs of a chain overlap by more or less than was reckoned
        assert float(reached.mean()) > 0.3 * share


@pytest.mark.parametrize("name", ["_folds_and_tears", "_hairs", "_scratches"])
def test_thin_things_stay_thin_whatever_share_is_asked_for(name: str) -> None:
    hole = drawn(name, 0.6, 32, 256)
    widest = 17 if name == "_folds_and_tears" else 9
    assert float(thick(hole, widest).mean()) < 0.01
    assert float(hole.float().mean((1, 2, 3)).max()) < 0.35


@pytest.mark.parametrize("size", [64, 181, 256])
def test_thin_damage_is_thin_and_little_and_nothing_lies_beyond(size: int) -> None:
    made = thin_damage(200, size, seeded(6))
    reached = shares(made)
    assert not bool(made.beyond.any())
    assert float(reached.min()) > 0.0015 and float(reached.max()) <= 0.05
    assert float(reached.median()) < 0.02
    assert float(thick(made.hole, 7).mean()) < 0.01


def test_every_field_has_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shapes, one mask is a large blotch or border, another is made of little pieces all over."""
    monkeypatch.setattr(damage, "_drawn", lambda kinds, budgets, window, size: torch.zeros(60, 1, size, size).bool())
    ask_for(0.3, monkeypatch)
    hearts = thick(random_damage(60, 128, seeded(9)).hole, 25)
    assert float(hearts.min()) < 0.05 and float(hearts.max()) > 0.4


# What drawing may not cost


class Nosy(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of all operations, and the most bytes that were alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()
        self.most = self.now = 0
        self.users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        if func.overloadpacket.__name__ == "index":
            assert not [index for index in args[1] if index is not None and index.dtype == torch.bool]
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.use(storage.data_ptr(), storage.nbytes(), 1)
                weakref.finalize(tensor, self.use, storage.data_ptr(), storage.nbytes(), -1)
        return result

    def use(self, address: int, size: int, by: int) -> None:
        known = self.users[address] > 0
        self.users[address] += by
        self.now += size * ((self.users[address] > 0) - known)
        self.most = max(self.most, self.now)


@pytest.mark.parametrize("draw", [random_damage, thin_damage])
def test_nothing_is_read_back_from_the_device(draw: Any) -> None:
    with Nosy() as nosy:
        draw(3, 64, seeded(0))
    reading = {
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique_dim",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
    }
    assert not nosy.names & reading
    assert {"scatter_add_", "rand", "randn"} <= nosy.names, "the test itself should see what is done"


@pytest.mark.parametrize("device", ["cpu", "any other"])
def test_memory_is_bounded_however_many_masks_are_drawn(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device != "cpu":
        monkeypatch.setattr(damage, "_AT_ONCE_ON_CPU", damage._AT_ONCE)
    with Nosy() as nosy:
        random_damage(140, 256, seeded(0))
    results = 140 * 256 * 256 * 2
    assert results < nosy.most < 2 * results + 200 * 2**20  # parts and the whole of the results, and what made them
