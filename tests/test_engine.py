"""Batches on a device: what goes in, what comes out, and what happens when memory runs out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn

from pconv_cli import engine as module
from pconv_cli.engine import Engine, Filled, Tile, choose_device, choose_devices, choose_precision, precision_name
from pconv_cli.errors import DeviceError, ExitCode
from pconv_cli.events import Event, Notice
from pconv_cli.masks import dilate
from pconv_cli.nn.pyramid import PyramidFill
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig

CPU = torch.device("cpu")


class Fake(nn.Module):
    """A network of known behaviour that keeps what it was given."""

    def __init__(self, behaviour: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((image.clone(), known.clone()))
        return self.behaviour(image, known)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Batch, height and width of every pass."""
        return [(image.shape[0], image.shape[2], image.shape[3]) for image, _ in self.seen]


def copy(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    return image, known


def start(network: nn.Module, precision: torch.dtype = torch.float32) -> tuple[Engine, list[Event]]:
    events: list[Event] = []
    engine = Engine(network, CPU, precision, events.append)
    engine._cores = 0  # batches as on a GPU
    return engine, events


def tile(height: int, width: int, seed: int = 0, dtype: str = "uint8", share: float = 0.6) -> Tile:
    rng = np.random.default_rng((seed, height, width))
    known = rng.random((height, width)) < share
    known[0, 0] = True
    if dtype == "uint8":
        return Tile(rng.integers(0, 256, (height, width, 3), np.uint8), known)
    return Tile(rng.random((height, width, 3), np.float32), known)


def test_tiles_of_reduced_pictures_go_to_the_coarse_part() -> None:
    fine, coarse = Fake(copy), Fake(copy)
    fine.coarse = coarse
    engine, _ = start(fine)
    ones = [tile(64, 64, seed) for seed in range(3)]
    engine.fill(ones, (64, 64))
    assert (len(fine.seen), len(coarse.seen)) == (1, 0)
    engine.fill([replace(one, reduced=True) for one in ones], (64, 64))
    assert (len(fine.seen), len(coarse.seen)) == (1, 1)
    alone, _ = start(Fake(copy))
    alone.fill([replace(ones[0], reduced=True)], (64, 64))  # without a coarse part the network does it all


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (torch.float32, {(512, 512): 1, (256, 256): 1, (128, 128): 16, (96, 64): 42, (2048, 2048): 1}),
        (torch.bfloat16, {(512, 512): 1, (256, 256): 4, (128, 128): 16, (96, 64): 42, (2048, 2048): 1}),
    ],
)
def test_a_core_takes_small_tiles_together(precision: torch.dtype, expected: dict[tuple[int, int], int]) -> None:
    engine = Engine(Fake(copy), CPU, precision, lambda _: None)
    assert {canvas: engine.batch_size(canvas) for canvas in expected} == expected
    asked = Engine(Fake(copy), CPU, precision, lambda _: None, 3 * engine.lanes)
    assert {canvas: asked.batch_size(canvas) for canvas in expected} == {c: min(3, n) for c, n in expected.items()}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [32, 96, 128, 192])
def test_on_a_cpu_a_tile_gives_the_same_bytes_whoever_keeps_it_company(precision: torch.dtype, side: int) -> None:
    torch.manual_seed(0)
    learned = PartialConvUNet(
        UNetConfig(
            encoder=((16, 5), (32, 3), (64, 3), (128, 3), (192, 3), (192, 3)), mean=(0.5,) * 3, std=(0.25,) * 3,
            floor=1, head=16, upsample="bilinear",
        )
    ).folded()  # fmt: skip
    nn.init.normal_(learned.out.weight, 0, 0.3)
    engine = Engine(learned, CPU, precision, lambda _: None)
    tiles = [tile(side, side, seed=i, dtype="float32") for i in range(min(5, engine.batch_size((side, side))))]
    alone = [engine.fill([one], (side, side))[0] for one in tiles]
    for company in (tiles, tiles[:2], tiles[::-1]):
        together = engine.fill(company, (side, side))
        for one, filled in zip(company, together, strict=True):
            assert same(filled, alone[next(i for i, other in enumerate(tiles) if other is one)])


@pytest.mark.parametrize(("cores", "asked", "lanes"), [(1, None, 1), (4, None, 4), (4, 1, 1), (4, 3, 3), (2, 64, 2)])
def test_a_cpu_has_a_lane_for_each_core_or_as_many_as_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, asked: int | None, lanes: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    engine = Engine(Fake(copy), CPU, torch.float32, lambda _: None, asked)
    assert engine.lanes == engine.units == lanes and engine.batch_size((512, 512)) == 1


def test_lanes_that_compute_at_once_share_the_cores() -> None:
    used: list[int] = []

    def behaviour(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        used.append(torch.get_num_threads())
        return image, known

    engine = Engine(Fake(behaviour), CPU, torch.float32, lambda _: None)
    engine._cores = 6
    for beside in (1, 2, 6, 9):
        engine.fill([tile(4, 4)], (4, 4), 0, beside)
    engine.fill([tile(4, 4)], (4, 4))
    torch.set_num_threads(1)
    assert used == [6, 3, 1, 1, 1]


def test_tiles_side_by_side_are_what_they_are_alone() -> None:
    engine = Engine(PyramidFill(), CPU, torch.float32, lambda _: None)
    tiles = [tile(20 + i, 33 - i, seed=i) for i in range(9)]
    alone = [engine.fill([one], (40, 40))[0] for one in tiles]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda i: engine.fill([tiles[i]], (40, 40), i % 3, 3)[0], range(9)))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_devices_share_the_work_with_a_copy_of_the_network_each_and_agree() -> None:
    torch.manual_seed(0)
    network = PartialConvUNet(UNetConfig(encoder=((4, 3),), mean=(0.5,) * 3, std=(0.25,) * 3, floor=1, head=3)).eval()
    nn.init.normal_(network.out.weight, 0, 0.3)
    engine = Engine(network, (CPU, CPU, CPU), torch.float32, lambda _: None)
    assert len({id(one._network) for one in engine._copies}) == 3
    one = tile(30, 30)
    first, *others = (engine.fill([one], (32, 32), lane)[0] for lane in range(3))
    assert all(same(first, other) for other in others)
    engine._copies[1].largest = 7  # what one learns of its memory does not concern the others
    assert [copy.largest for copy in engine._copies] == [None, 7, None]


class FakeGpu:
    """Numbers of a GPU's memory, and a network that takes some of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, per_pixel: int) -> None:
        self.most = 0
        self.per_pixel = per_pixel
        self.fixed = 0  # whatever the batch
        self.stored = 0  # by others before
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free - self.stored, free))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.most)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: setattr(self, "most", 0))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(self, "stored", 0))
        self.engine = Engine(Fake(copy), CPU, torch.float32, lambda _: None)
        self.engine._cores = 0
        (self.copy,) = self.engine._copies
        self.copy.device = torch.device("cuda")
        self.copy._forward = self._forward  # type: ignore[method-assign]

    def _forward(self, tiles: Sequence[Tile], canvas: tuple[int, int]) -> list[Filled]:
        self.most = max(self.most, self.fixed + self.per_pixel * len(tiles) * canvas[0] * canvas[1])
        return [Filled(one.pixels, one.known) for one in tiles]


@pytest.mark.parametrize(
    ("free", "per_pixel", "expected"),
    [
        (100 << 30, 650, {(512, 512): 32, (64, 64): 2048, (2048, 2048): 2}),
        (1 << 30, 650, {(512, 512): 2, (64, 64): 161, (2048, 2048): 1}),
        (1 << 20, 650, {(512, 512): 1, (64, 64): 1}),
    ],
)
def test_on_a_gpu_the_first_tile_shows_what_fits_and_no_batch_is_tried_in_vain(
    monkeypatch: pytest.MonkeyPatch, free: int, per_pixel: int, expected: dict[tuple[int, int], int]
) -> None:
    gpu = FakeGpu(monkeypatch, free, per_pixel)
    assert all(gpu.engine.batch_size(canvas) == 1 for canvas in expected)
    gpu.engine.fill([tile(64, 64)], (64, 64))
    assert {canvas: gpu.engine.batch_size(canvas) for canvas in expected} == expected
    for canvas, count in expected.items():
        assert count == 1 or 2 * count * canvas[0] * canvas[1] * per_pixel <= free  # two are under way


def test_memory_in_store_from_engines_before_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, 1 << 30, 650)
    gpu.stored = 900 << 20
    gpu.engine.fill([tile(64, 64)], (64, 64))
    assert gpu.engine.batch_size((64, 64)) == 161


def test_a_first_tile_that_is_small_does_not_make_batches_small_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, 4 << 30, 650)
    gpu.fixed = 256 << 20
    sizes = []
    for _ in range(6):
        sizes.append(gpu.engine.batch_size((64, 64)))
        gpu.engine.fill([tile(64, 64)] * sizes[-1], (64, 64))
    assert sizes[:2] == [1, 6] and sizes == sorted(sizes) and sizes[-1] > 400
    measured = gpu.copy._per_pixel
    gpu.engine.fill([tile(64, 64)], (64, 64))
    assert gpu.copy._per_pixel == measured  # by the largest


def test_on_a_gpu_fp32_is_fp32_and_not_rounded_to_10_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(module, "_Copy", lambda *_: None)
    Engine(Fake(copy), CPU, torch.float32, lambda _: None)
    assert torch.backends.cudnn.allow_tf32
    Engine(Fake(copy), torch.device("cuda", 0), torch.float32, lambda _: None)
    assert not torch.backends.cudnn.allow_tf32


def test_a_batch_size_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, 1 << 40, 650)
    gpu.engine._asked = 5
    assert gpu.engine.batch_size((512, 512)) == gpu.engine.batch_size((32, 32)) == 5


def same(a: Filled, b: Filled) -> bool:
    return np.array_equal(a.pixels, b.pixels) and np.array_equal(a.reached, b.reached)


# Devices and precisions


def test_cpu_is_always_there() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(2, True, "cuda:1"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_takes_the_fastest_device_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("cuda", 0, ["--device cuda", "no CUDA device", "--device auto or cpu"]),
        ("cuda:0", 0, ["--device cuda:0", "no CUDA device", "--device auto or cpu"]),
        ("cuda:1", 1, ["--device cuda:1", "only cuda:0", "--device auto or cpu"]),
        ("cuda:4", 3, ["--device cuda:4", "cuda:0 to cuda:2", "--device auto or cpu"]),
        ("mps", 0, ["--device mps", "Metal", "--device auto"]),
        ("gpu", 0, ["--device gpu", "not a device", "auto, cpu, cuda, cuda:N or mps"]),
        ("", 0, ["not a device", "auto, cpu"]),
        ("cuda:x", 1, ["--device cuda:x", "not a device", "auto, cpu"]),
        ("meta", 0, ["--device meta", "not supported", "auto, cpu"]),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, words: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError) as caught:
        choose_device(name)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.exit_code == ExitCode.DEVICE


@pytest.mark.parametrize(("name", "index"), [("cuda", 1), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_cuda_device_that_is_there_is_taken_by_its_number(
    monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    device = choose_device(name)
    assert (device.type, device.index) == ("cuda", index)


def test_auto_precision_is_half_where_the_device_computes_in_it_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, mps = torch.device("cuda"), torch.device("mps")
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):
        major = 8 if supported else 7
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, major=major: (major, 5))
        precision, reason = choose_precision("auto", cuda)
        assert precision == expected and ("computes in it" in reason) == supported
        assert choose_precision("auto", cuda, training=True)[0] == (torch.bfloat16 if supported else torch.float32)
    for unit in ("avx512_bf16", "amx_tile", "neither"):
        for name in ("avx512_bf16", "amx_tile"):
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda there=name == unit: there, raising=False)
        precision, reason = choose_precision("auto", CPU)
        assert precision == (torch.float32 if unit == "neither" else torch.bfloat16)
        assert reason == ("half precision is not faster here" if unit == "neither" else "this CPU computes in it")
        assert choose_precision("auto", CPU, training=True)[0] == torch.float32
        assert choose_precision("fp32", CPU) == (torch.float32, "as asked for")
    for name in ("avx512_bf16", "amx_tile"):  # another build of torch
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported")
    assert choose_precision("auto", CPU)[0] == choose_precision("auto", mps)[0] == torch.float32


def test_auto_precision_of_several_gpus_is_one_that_all_of_them_compute_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((9, 0), (7, 5))[device.index])
    new, old = (torch.device("cuda", index) for index in range(2))
    for devices, expected in (((new, old), torch.float16), ((old, new), torch.float16), ((new,), torch.bfloat16)):
        assert choose_precision("auto", devices)[0] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cuda:all", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:0,cuda:2", ["cuda:0", "cuda:2"]),
        ("cuda:2, cuda:1,cuda:2", ["cuda:2", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda", ["cuda:0"]),
        ("cuda,cuda:1", ["cuda:0", "cuda:1"]),
        ("cpu", ["cpu"]),
        ("cpu,cpu", ["cpu"]),
        ("auto", ["cuda:0"]),
    ],
)
def test_several_gpus_are_named_with_commas_or_all_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert [str(device) for device in choose_devices(name)] == expected


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("cuda:all", 0, ["--device cuda:all", "no CUDA device", "auto or cpu"]),
        ("cuda:0,cuda:3", 2, ["cuda:3", "cuda:0 to cuda:1"]),
        ("cuda:0,cpu", 1, ["only GPUs", "cuda:0,cuda:1 or cuda:all"]),
        ("cuda:0,", 1, ["not a device"]),
    ],
)
def test_several_devices_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, words: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(DeviceError) as caught:
        choose_devices(name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_precisions_have_names() -> None:
    for name, dtype in (
        ("fp64", torch.float64),
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
    ):
        assert choose_precision(name, CPU)[0] == dtype
        assert precision_name(dtype) == name
    with pytest.raises(DeviceError, match=r"--precision fp8: .*auto, fp64, fp32, bf16 or fp16"):
        choose_precision("fp8", CPU)
    with pytest.raises(DeviceError, match=r"--precision fp64: .*use auto or fp32"):
        choose_precision("fp64", torch.device("mps"))
    assert choose_precision("auto", CPU, exact=True)[0] == torch.float64
    assert choose_precision("auto", torch.device("mps"), exact=True)[0] == torch.float32


@pytest.mark.parametrize("name", ["fp64", "fp16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_weights_are_trained_in_fp32_or_bf16_alone(name: str, device: str) -> None:
    with pytest.raises(DeviceError, match=rf"--precision {name}: .*use auto, fp32 or bf16"):
        choose_precision(name, torch.device(device), training=True)


# What goes in and what comes out


def test_bytes_come_back_as_the_same_bytes() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, 2)
    engine, _ = start(Fake(copy))
    filled = engine.fill([Tile(pixels, np.ones((16, 16), np.bool_))], (16, 16))[0]
    assert filled.pixels.dtype == np.uint8 and np.array_equal(filled.pixels, pixels)
    assert filled.reached.dtype == np.bool_ and filled.reached.all()


def test_floats_come_back_as_floats_unclamped() -> None:
    pixels = np.random.default_rng(0).normal(0.5, 1, (5, 4, 3)).astype(np.float32)
    engine, _ = start(Fake(copy))
    filled = engine.fill([Tile(pixels, np.ones((5, 4), np.bool_))], (4, 5))[0]
    assert filled.pixels.dtype == np.float32 and np.array_equal(filled.pixels, pixels)


@pytest.mark.parametrize(
    ("value", "byte"), [(0.0, 0), (1.0, 255), (-3.0, 0), (7.0, 255), (0.4 / 255, 0), (0.6 / 255, 1), (100.4 / 255, 100)]
)
def test_bytes_are_clamped_and_rounded_to_the_nearest(value: float, byte: int) -> None:
    engine, _ = start(Fake(lambda image, known: (torch.full_like(image, value), known)))
    filled = engine.fill([tile(3, 4)], (4, 3))[0]
    assert (filled.pixels == byte).all()
    engine, _ = start(Fake(lambda image, known: (torch.full_like(image, value), known)))
    assert (engine.fill([tile(3, 4, dtype="float32")], (4, 3))[0].pixels == np.float32(value)).all()


def test_colours_and_axes_arrive_in_their_places() -> None:
    network = Fake(copy)
    engine, _ = start(network)
    one = tile(3, 5)
    engine.fill([one], (5, 3))
    image, known = network.seen[0]
    assert image.shape == (1, 3, 3, 5) and known.shape == (1, 1, 3, 5)
    assert image.dtype == known.dtype == torch.float32
    np.testing.assert_allclose(image[0].permute(1, 2, 0).numpy(), one.pixels / 255, rtol=1e-6)
    assert np.array_equal(known[0, 0].numpy() > 0, one.known)


def test_what_a_tile_leaves_of_the_canvas_is_a_hole() -> None:
    network = Fake(copy)
    engine, _ = start(network)
    tiles = [tile(3, 5, share=1.0), tile(6, 2, share=1.0)]
    filled = engine.fill(tiles, (8, 6))
    assert network.shapes == [(2, 6, 8)]
    known = network.seen[0][1][:, 0]
    expected = torch.zeros(2, 6, 8)
    expected[0, :3, :5] = expected[1, :, :2] = 1
    assert torch.equal(known, expected)
    for before, after in zip(tiles, filled, strict=True):
        assert np.array_equal(before.pixels, after.pixels) and after.reached.shape == before.known.shape


def test_the_returned_mask_says_what_was_reached() -> None:
    engine, _ = start(Fake(copy))
    one = tile(4, 4)
    assert np.array_equal(engine.fill([one], (5, 5))[0].reached, one.known)


def test_gradients_are_not_kept() -> None:
    network = Fake(lambda image, known: (image, known + 0 * float(torch.is_grad_enabled())))
    engine, _ = start(network)
    engine.fill([tile(2, 2)], (2, 2))
    assert network.seen[0][0].is_inference()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_result_does_not_depend_on_its_company(dtype: str) -> None:
    torch.manual_seed(0)
    learned = PartialConvUNet(
        UNetConfig(encoder=((4, 3), (4, 3)), mean=(0.5,) * 3, std=(0.25,) * 3, floor=1, head=3)
    ).eval()
    nn.init.normal_(learned.out.weight, 0, 0.3)
    tiles = [tile(*size, dtype=dtype, seed=i) for i, size in enumerate([(9, 12), (16, 3), (16, 16), (1, 1), (5, 16)])]
    for network in (PyramidFill(), learned):
        together = start(network)[0].fill(tiles, (16, 16))
        backwards = start(network)[0].fill(tiles[::-1], (16, 16))[::-1]
        for i, one in enumerate(tiles):
            alone = start(network)[0].fill([one], (16, 16))[0]
            for other in (together[i], backwards[i]):
                assert np.array_equal(alone.reached, other.reached)
                tolerance = 1 if dtype == "uint8" else 1e-5
                assert np.abs(alone.pixels.astype(np.float64) - other.pixels).max() <= tolerance


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_reaches_the_network_s_convolutions_only(precision: torch.dtype) -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(conv.weight)
    types: list[torch.dtype] = []

    def behaviour(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        types.append(image.dtype)
        out = conv(image)
        types.append(out.dtype)
        return out, known

    engine, _ = start(Fake(behaviour), precision)
    one = tile(4, 4)
    filled = engine.fill([one], (4, 4))[0]
    assert types == [torch.float32, precision]
    assert filled.pixels.dtype == np.uint8
    assert np.abs(filled.pixels.astype(int) - one.pixels).max() <= (1 if precision == torch.bfloat16 else 0)


def test_a_network_whose_values_are_too_large_for_half_precision_is_computed_with_its_own_weights() -> None:
    config = UNetConfig(encoder=((8, 3), (8, 3)), norm=False)
    torch.manual_seed(0)
    network = PartialConvUNet(config).eval().requires_grad_(False)
    network.encoder[0].conv.weight.mul_(3e5)  # beyond what fp16 holds, and not what it would be rounded to
    network.out.weight.mul_(1e-5)
    one = tile(32, 32)
    wide = start(deepcopy(network), torch.float32)[0].fill([one], (32, 32))[0]
    engine, events = start(network, torch.float16)
    assert np.array_equal(engine.fill([one], (32, 32))[0].pixels, wide.pixels)
    assert [text for text in texts(events) if "fp16 was too narrow" in text]


def test_what_half_precision_cannot_hold_is_computed_again_in_fp32_and_said_once() -> None:
    seen: list[torch.dtype] = []

    class Narrow(nn.Module):
        def forward(self, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
            half = torch.is_autocast_enabled("cpu")
            seen.append(torch.bfloat16 if half else torch.float32)
            bright = image.amax(dim=(1, 2, 3), keepdim=True) > 0.9
            return torch.where(bright & half, torch.nan, image), known

    engine, events = start(Narrow(), torch.bfloat16)
    dark, bright = Tile(np.full((4, 4, 3), 9, np.uint8), np.ones((4, 4), bool)), tile(4, 4)
    bright.pixels[0, 0] = 255
    for _ in range(2):
        assert np.array_equal(engine.fill([dark], (4, 4))[0].pixels, dark.pixels)
        assert np.array_equal(engine.fill([bright], (4, 4))[0].pixels, bright.pixels)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32] * 2
    assert texts(events) == ["bf16 was too narrow for a tile, which is computed in fp32; so are others like it"]


def test_an_empty_batch_is_an_empty_answer() -> None:
    assert start(Fake(copy))[0].fill([], (4, 4)) == []


# Memory


def short_of_memory(
    batch: int = 1 << 30, side: int = 1 << 30, error: type[Exception] = torch.OutOfMemoryError, text: str = "CUDA: full"
) -> Fake:
    """A copying network on a device that holds `batch` pictures, none of them with a side above `side`."""

    def behaviour(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        if len(image) > batch or max(image.shape[-2:]) > side:
            raise error(text)
        return image, known

    return Fake(behaviour)


def texts(events: list[Event]) -> list[str]:
    assert all(isinstance(event, Notice) for event in events)
    return [event.text for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError, "whatever"),
        (RuntimeError, "MPS backend out of memory (MPS allocated: 1 GB)"),
        (
            RuntimeError,
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes",
        ),
        (RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        (RuntimeError, "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        (RuntimeError, "GET was unable to find an engine to execute this computation"),
    ],
)
def test_out_of_memory_halves_the_batch_and_remembers(error: type[Exception], text: str) -> None:
    network = short_of_memory(batch=3, error=error, text=text)
    engine, events = start(network)
    tiles = [tile(4, 4, seed=i) for i in range(9)]
    filled = engine.fill(tiles, (4, 4))
    assert [shape[0] for shape in network.shapes] == [9, 4, 2, 2, 2, 2, 1]
    assert [np.array_equal(a.pixels, b.pixels) for a, b in zip(tiles, filled, strict=True)] == [True] * 9
    said = texts(events)
    assert len(said) == 2 and all("cpu ran out of memory" in line for line in said)
    assert said[0].endswith("batches of 4 tiles of 4 x 4 px") and said[1].endswith("batches of 2 tiles of 4 x 4 px")
    network.seen.clear()
    engine.fill(tiles, (4, 4))
    assert [shape[0] for shape in network.shapes] == [2, 2, 2, 2, 1]
    assert texts(events) == said


def test_what_is_remembered_are_pixels_so_that_small_tiles_keep_their_large_batches() -> None:
    network = short_of_memory(batch=3)
    engine, events = start(network)
    engine.fill([tile(16, 16, seed=i) for i in range(6)], (16, 16))
    assert [shape[0] for shape in network.shapes] == [6, 3, 3]
    network.seen.clear()
    network.behaviour = copy
    engine.fill([tile(8, 8, seed=i) for i in range(20)], (8, 8))
    engine.fill([tile(32, 32, seed=i) for i in range(2)], (32, 32))
    assert network.shapes == [(12, 8, 8), (8, 8, 8), (1, 32, 32), (1, 32, 32)]
    assert texts(events) == ["cpu ran out of memory: going on with batches of 3 tiles of 16 x 16 px"]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9))
def test_short_of_memory_no_tile_is_lost_doubled_or_swapped(count: int, batch: int) -> None:
    engine, events = start(short_of_memory(batch=batch))
    tiles = [tile(2, 1 + i % 3, seed=i) for i in range(count)]
    for _ in range(2):
        filled = engine.fill(tiles, (3, 2))
        assert len(filled) == count
        for before, after in zip(tiles, filled, strict=True):
            assert np.array_equal(before.pixels, after.pixels) and np.array_equal(before.known, after.reached)
    assert len(texts(events)) == len(set(texts(events)))


@pytest.mark.parametrize(("height", "width"), [(200, 150), (129, 257), (300, 1), (1, 300), (131, 400)])
@pytest.mark.parametrize(("dtype", "slack"), [("uint8", 0), ("float32", 5)])
def test_a_tile_too_large_is_filled_in_parts_that_lie_where_they_belong(
    height: int, width: int, dtype: str, slack: int
) -> None:
    network = short_of_memory(side=128)
    engine, events = start(network)
    one = tile(height, width, dtype=dtype)
    filled = engine.fill([one], (width + slack, height + slack))[0]
    assert filled.pixels.dtype == one.pixels.dtype
    assert np.array_equal(filled.pixels, one.pixels) and np.array_equal(filled.reached, one.known)
    assert any(f"{width} x {height} px" in text for text in texts(events))
    whole = network.seen[-1][1].shape[-2:]
    assert whole[0] <= 128 and whole[1] <= 128


def test_first_the_batch_is_halved_then_the_tile() -> None:
    network = short_of_memory(batch=2, side=128)
    engine, events = start(network)
    tiles = [tile(160, 160, seed=i) for i in range(4)]
    filled = engine.fill(tiles, (160, 160))
    for before, after in zip(tiles, filled, strict=True):
        assert np.array_equal(before.pixels, after.pixels) and np.array_equal(before.known, after.reached)
    assert [shape[0] for shape in network.shapes[:3]] == [4, 2, 1]
    kinds = ["batches" if "batches of" in text else "tiles" for text in texts(events)]
    assert kinds[:3] == ["batches", "batches", "tiles"]


def test_halving_tiles_is_said_once() -> None:
    engine, events = start(short_of_memory(side=128))
    engine.fill([tile(160, 160, seed=i) for i in range(3)], (160, 160))
    engine.fill([tile(160, 160, seed=9)], (160, 160))
    assert len([text for text in texts(events) if "halving tiles" in text]) == 1


def test_a_tile_that_lacks_memory_only_while_another_lane_computes_is_tried_again_alone() -> None:
    both, held = threading.Barrier(2, timeout=20), threading.Event()
    computing, lock = 0, threading.Lock()

    def behaviour(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal computing
        with lock:
            computing += 1
        try:
            if not held.is_set():
                both.wait()
                held.set()
            if image.shape[-1] == 200 and computing > 1:
                raise torch.OutOfMemoryError("full")
            if image.shape[-1] == 100:
                time.sleep(0.1)
            return image, known
        finally:
            with lock:
                computing -= 1

    network = Fake(behaviour)
    engine, events = start(network)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(engine.fill, [tile(200, 200)], (200, 200), 0)
        small = pool.submit(engine.fill, [tile(100, 100)], (100, 100), 1)
        assert np.array_equal(large.result(20)[0].pixels, tile(200, 200).pixels)
        small.result(20)
    assert not events and sorted(shape[1] for shape in network.shapes) == [100, 200, 200]
    engine.fill([tile(200, 200)], (200, 200))
    assert network.shapes[-1] == (1, 200, 200)


def test_who_wants_to_compute_alone_goes_before_those_who_come_later() -> None:
    (one,) = start(Fake(copy))[0]._copies
    order: list[str] = []

    def enter(name: str, alone: bool) -> None:
        with one._turn(alone=alone):
            order.append(name)

    def wait_for(count: int) -> None:
        while len(order) + len(one._change._waiters) < count:  # type: ignore[attr-defined]
            time.sleep(0.001)

    with ThreadPoolExecutor(2) as pool:
        with one._turn(alone=False):
            first = pool.submit(enter, "alone", True)
            wait_for(1)
            second = pool.submit(enter, "later", False)
            wait_for(2)
        first.result(20)
        second.result(20)
    assert order == ["alone", "later"]


def test_a_tile_that_cannot_be_halved_further_ends_the_run_with_the_way_out() -> None:
    engine, _ = start(short_of_memory(side=0, text="CUDA out of memory. Tried to allocate 2 GiB\nTraceback: at 0x1"))
    with pytest.raises(DeviceError, match="too little free memory") as caught:
        engine.fill([tile(200, 300)], (300, 200))
    assert str(caught.value).endswith("--device cpu (torch: CUDA out of memory. Tried to allocate 2 GiB)")
    with pytest.raises(DeviceError, match=f"{2 * module.SMALLEST_SPLIT - 1} x 10 px"):
        engine.fill([tile(10, 2 * module.SMALLEST_SPLIT - 1)], (128, 32))


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: Exception) -> None:
    def behaviour(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        raise error

    network = Fake(behaviour)
    engine, events = start(network)
    with pytest.raises(type(error)) as caught:
        engine.fill([tile(4, 4), tile(4, 4)], (4, 4))
    assert caught.value is error
    assert len(network.seen) == 1 and not events


# Masks


def grown(hole: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Every pixel looks for damage in the square about it."""
    out = np.zeros_like(hole)
    for y, x in np.ndindex(hole.shape):
        out[y, x] = hole[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].any()
    return out


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(0, 20),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.02, 0.2, 1.0]),
)
def test_dilation_is_a_square_about_each_damaged_pixel(
    height: int, width: int, radius: int, seed: int, share: float
) -> None:
    hole = np.random.default_rng(seed).random((height, width)) < share
    before = hole.copy()
    result = dilate(hole, radius)
    assert result.dtype == np.bool_ and np.array_equal(result, grown(hole, radius))
    assert np.array_equal(hole, before)


def test_dilation_takes_any_memory_layout() -> None:
    hole = np.random.default_rng(0).random((12, 9)) < 0.1
    for view in (hole.T, hole[::-1, ::2], np.asfortranarray(hole)):
        assert np.array_equal(dilate(view, 2), grown(view, 2))
