"""Does partial-convolution padding train better networks than zeros do? The padding paper's table, on a small scale.

    python benchmarks/padding.py [--seeds 8] [--tasks digits textures mosaics] [--jobs 1] [--device cpu]

Within a seed, all paddings start from the same weights and see the same batches; `pconv_cli.nn.convert_padding` is all
that differs. Real data that packages carry inside themselves, nothing is downloaded:

digits    handwritten digits, 8 x 8 (scikit-learn): 400 to train on, 1397 to measure on; a residual network.
textures  which of 12 photographs (scikit-image) a patch of 24 x 24 was cut from: train and test patches from blocks of
          64 px that alternate, brightness and contrast taken out; a VGG-like network.
mosaics   the same for each pixel of a mosaic of 6 textures, 40 x 40, dilated convolutions: what is near a border is
          judged by windows that are mostly padding. Train from left halves of photographs, test from right ones.

For each task and padding: best and last epoch (mean and standard deviation over the seeds), epochs until a fixed
accuracy, the paired difference to zeros (mean, seeds that gain and lose, p of a paired t test), and what becomes of the
trained network when its padding is changed without training (`run_with`: trained with the row's, run with each), and
when batch norm's statistics are then taken anew, for which pictures are enough (`run_refreshed`). Needs the
`bench` extra. Progress on stderr, one JSON object last.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from skimage import color, data
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pconv_cli.nn import convert_padding
from pconv_cli.nn.partial_conv import PaddingMode

MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)
Batch = tuple[Tensor, Tensor]
PHOTOS = (
    "brick", "grass", "gravel", "immunohistochemistry", "hubble_deep_field", "page", "astronaut", "camera", "chelsea",
    "coffee", "coins", "rocket",
)  # fmt: skip
BLOCK, PATCH, MOSAIC, TEXTURES, RIM = 64, 24, 40, 6, 4


def layer(inside: int, out: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inside, out, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class Residual(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*layer(inside, out, stride), *layer(out, out)[:2])
        self.short = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x))


def resnet() -> nn.Module:
    blocks = (Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2))
    return nn.Sequential(*layer(1, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg() -> nn.Module:
    widths = ((1, 12), (12, 24), (24, 48))
    stages = (nn.Sequential(*layer(a, b), *layer(b, b), nn.MaxPool2d(2)) for a, b in widths)
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, len(PHOTOS)))


def dilated() -> nn.Module:
    layers = (nn.Sequential(*layer(16, 16, dilation=far)) for far in (1, 2, 4, 8))
    return nn.Sequential(*layer(1, 16), *layers, nn.Conv2d(16, TEXTURES, 1))


@cache
def photo(name: str) -> NDArray[np.float32]:
    image = getattr(data, name)()
    grey = color.rgb2gray(image[..., :3]) if image.ndim == 3 else image / 255
    return np.asarray(grey, np.float32)


def standardised(patch: NDArray[np.float32]) -> NDArray[np.float32]:
    return (patch - patch.mean()) / (patch.std() + 1e-4)


def texture_patch(rng: np.random.Generator, label: int, test: bool) -> NDArray[np.float32]:
    """Cut a patch from one of the blocks of a checkerboard: the white ones train, the black ones test."""
    image = photo(PHOTOS[label])
    rows, columns = (side // BLOCK for side in image.shape)
    while True:
        row, column = int(rng.integers(rows)), int(rng.integers(columns))
        if (row + column) % 2 == test:
            y, x = np.array((row, column)) * BLOCK + rng.integers(BLOCK - PATCH + 1, size=2)
            return standardised(image[y : y + PATCH, x : x + PATCH])


def mosaic(rng: np.random.Generator, test: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cut textures out along the borders between a few random points, and say which is where."""
    points, labels = rng.uniform(0, MOSAIC, (4, 2)), rng.integers(TEXTURES, size=4)
    grid = np.stack(np.mgrid[:MOSAIC, :MOSAIC], -1)[..., None, :]
    where = labels[np.square(grid - points).sum(-1).argmin(-1)]
    picture = np.empty((MOSAIC, MOSAIC), np.float32)
    for label in np.unique(where):
        image = photo(PHOTOS[label])
        half = image.shape[1] // 2
        y, x = rng.integers(image.shape[0] - MOSAIC + 1), rng.integers(half - MOSAIC + 1) + test * half
        picture[where == label] = standardised(image[y : y + MOSAIC, x : x + MOSAIC])[where == label]
    return picture, where


def tensors(pictures: Any, labels: Any) -> Batch:
    return torch.from_numpy(np.stack(pictures))[:, None].float(), torch.from_numpy(np.stack(labels)).long()


@cache
def digits(test: bool) -> Batch:
    pictures, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[400:] if test else order[:400]
    return tensors(pictures[chosen].reshape(-1, 8, 8) / 8 - 1, labels[chosen])


def digits_epoch(rng: np.random.Generator) -> Iterator[Batch]:
    pictures, labels = digits(test=False)
    for part in np.split(rng.permutation(len(labels))[:384], 12):
        yield pictures[part], labels[part]


def draw_textures(rng: np.random.Generator, count: int, test: bool) -> Batch:
    labels = rng.integers(len(PHOTOS), size=count)
    return tensors([texture_patch(rng, int(label), test) for label in labels], labels)


def draw_mosaics(rng: np.random.Generator, count: int, test: bool) -> Batch:
    return tensors(*zip(*(mosaic(rng, test) for _ in range(count)), strict=True))


def rim(right: Tensor) -> Tensor:
    inner = torch.zeros_like(right)
    inner[:, RIM:-RIM, RIM:-RIM] = 1
    return inner == 0


@dataclass(frozen=True)
class Task:
    """One question: a network, its epochs of batches, and pictures to measure on (the same for all)."""

    network: Callable[[], nn.Module]
    epoch: Callable[[np.random.Generator], Iterator[Batch]]
    test: Callable[[], Batch]
    epochs: int
    target: float  # accuracy, %
    dense: bool = False


TASKS = {
    "digits": Task(resnet, digits_epoch, lambda: digits(test=True), 25, 95.0),
    "textures": Task(
        vgg,
        lambda rng: (draw_textures(rng, 32, False) for _ in range(20)),
        cache(lambda: draw_textures(np.random.default_rng(7), 1200, True)),
        15,
        65.0,
    ),
    "mosaics": Task(
        dilated,
        lambda rng: (draw_mosaics(rng, 8, False) for _ in range(20)),
        cache(lambda: draw_mosaics(np.random.default_rng(7), 64, True)),
        15,
        70.0,
        dense=True,
    ),
}


@torch.no_grad()
def measured(network: nn.Module, task: Task, device: torch.device) -> dict[str, float]:
    """Accuracy, %; of pixels also by whether they lie within `RIM` of the border."""
    network.eval()
    pictures, labels = task.test()
    out = torch.cat([network(part.to(device)).argmax(1).cpu() for part in pictures.split(64)])
    right = (out == labels).float() * 100
    found = {"accuracy": float(right.mean())}
    if task.dense:
        found |= {"at_border": float(right[rim(right)].mean()), "inside": float(right[~rim(right)].mean())}
    return found


@torch.no_grad()
def refreshed(network: nn.Module, task: Task, device: torch.device) -> nn.Module:
    """The same network with batch norm's statistics taken anew from an epoch of pictures."""
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    for pictures, _ in task.epoch(np.random.default_rng(99)):
        network(pictures.to(device))
    return network


def trained(name: str, seed: int, mode: PaddingMode, device_name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    task, device, rng = TASKS[name], torch.device(device_name), np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = convert_padding(task.network().to(device), mode)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 0.02 + 0.98 * (1 - epoch / task.epochs))
    course = []
    for _ in range(task.epochs):
        network.train()
        for pictures, labels in task.epoch(rng):
            loss = F.cross_entropy(network(pictures.to(device)), labels.to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        schedule.step()
        course.append(measured(network, task, device))
    changed: dict[str, dict[str, float]] = {"run_with": {}, "run_refreshed": {}}
    for other in MODES:
        convert_padding(network, other)
        changed["run_with"][other] = measured(network, task, device)["accuracy"]
        changed["run_refreshed"][other] = measured(refreshed(network, task, device), task, device)["accuracy"]
    print(f"{name}, seed {seed}, {mode}: {course[-1]}", file=sys.stderr, flush=True)
    return {"task": name, "seed": seed, "mode": mode, "course": course, "changed": changed}


def summary(values: list[float], zero: list[float]) -> dict[str, Any]:
    """Over the seeds; `zero` holds the same seeds' values with zeros."""
    differences = [a - b for a, b in zip(values, zero, strict=True)]
    found: dict[str, Any] = {"mean": round(statistics.mean(values), 3), "sigma": round(statistics.stdev(values), 3)}
    if any(differences):
        found["to_zero"] = {
            "mean": round(statistics.mean(differences), 3),
            "gain": sum(d > 0 for d in differences),
            "lose": sum(d < 0 for d in differences),
            "p": float(f"{ttest_rel(values, zero).pvalue:.2g}"),
        }
    return found | {"seeds": [round(value, 3) for value in values]}


def report(runs: list[dict[str, Any]], task: Task) -> dict[str, Any]:
    """The figures of one task, by padding."""
    by_mode = {mode: sorted((r for r in runs if r["mode"] == mode), key=lambda r: int(r["seed"])) for mode in MODES}
    rows: dict[str, Any] = {}
    for mode, own in by_mode.items():
        row: dict[str, Any] = {}
        for part in own[0]["course"][0]:
            courses, zeros = ([[e[part] for e in r["course"]] for r in rs] for rs in (own, by_mode["zero"]))
            prefix = "" if part == "accuracy" else f"{part}_"
            row[f"{prefix}best"] = summary([max(c) for c in courses], [max(c) for c in zeros])
            row[f"{prefix}last"] = summary([c[-1] for c in courses], [c[-1] for c in zeros])
        when = [next((i + 1 for i, e in enumerate(r["course"]) if e["accuracy"] >= task.target), None) for r in own]
        there = [epoch for epoch in when if epoch is not None]
        row["epochs_to_target"] = {"median": statistics.median(there) if there else None, "reached": len(there)}
        for way in own[0]["changed"]:
            row[way] = {m: round(statistics.mean(r["changed"][way][m] for r in own), 2) for m in MODES}
        rows[mode] = row
    return {"epochs": task.epochs, "target": task.target, "paddings": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, on one thread each")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    wanted = [(name, seed, mode) for name in options.tasks for seed in seeds for mode in MODES]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        runs = list(pool.map(trained, *zip(*wanted, strict=True), repeat(options.device)))
    found = {name: report([run for run in runs if run["task"] == name], TASKS[name]) for name in options.tasks}
    print(json.dumps({"benchmark": "padding", "torch": torch.__version__, "settings": vars(options), "tasks": found}))


if __name__ == "__main__":
    main()
