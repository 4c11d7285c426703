"""Measure how close methods come to the truth: what happens, in order.

Pairs undamaged pictures with masks, paints the holes over, lets every method fill the very same ones, measures, sums
up. Knows every step and none of their workings. Does not know: the terminal, options' spelling, exit codes.

Means are over the pairs that every method has filled. A PSNR is infinite where a fill is the truth itself; in a mean no
PSNR counts as more than `metrics.EXACT`, so that such a fill counts for its method.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from pconv_cli import __version__, classical, curves, files
from pconv_cli import weights as store
from pconv_cli.engine import Engine, choose_device, choose_precision, precision_name
from pconv_cli.errors import ItemError, NothingToDo, OutputError, UsageError
from pconv_cli.events import EvaluationFinished, EvaluationStarted, ItemFailed, Listener, Notice, PairMeasured
from pconv_cli.filling import ArraySurface, Filling, fill
from pconv_cli.images import READ_SUFFIXES, probe, read_mask, read_picture
from pconv_cli.layers import View
from pconv_cli.metrics import EXACT, l1, perceptual_distance, psnr, ssim
from pconv_cli.nn import squeeze
from pconv_cli.pairs import (
    BORDER,
    BUCKETS,
    EDGES,
    Hole,
    Pair,
    Pixels,
    Size,
    at_border,
    buckets_over,
    common_centre,
    draw_pairs,
    find_files,
)
from pconv_cli.report import collecting
from pconv_cli.tiles import SMALLEST_TILE, plan_tiles

NETWORK = "pconv"
"""The method's name that stands for all `weights`."""
METHODS: tuple[str, ...] = (NETWORK, *classical.METHODS)

PAINT = 255  # stands in the holes that the methods see

PLOTTED = ("psnr_hole", "ssim", "l1", "perceptual")

T = TypeVar("T")
About = tuple[str, str, float, str, bool]  # the first fields of `Measured`
Method = Callable[[Pixels, Hole, bool], Pixels]  # the last says that the picture is grey


@dataclass(frozen=True)
class Measure:
    """One figure of a fill.

    Attributes:
        name: The field of `Measured`.
        title: For people, with the unit.
        higher: Whether more is better.
        digits: Worth showing behind the point.
    """

    name: str
    title: str
    higher: bool
    digits: int


MEASURES = (
    Measure("psnr_hole", "PSNR inside the holes, dB", True, 2),
    Measure("psnr", "PSNR, dB", True, 2),
    Measure("ssim_hole", "SSIM inside the holes", True, 4),
    Measure("ssim", "SSIM", True, 4),
    Measure("l1_hole", "L1 inside the holes, %", False, 2),
    Measure("l1", "L1, %", False, 3),
    Measure("perceptual", "Perceptual distance", False, 4),
    Measure("seconds", "Seconds for one fill", False, 3),
)


@dataclass(frozen=True)
class EvaluateSettings:
    """What to measure, and how.

    Attributes:
        weights: Names or files of networks, `none` for the pyramid, None for the default: the method `pconv`.
        methods: Of `METHODS`; None takes all, and leaves out with a note what has no package installed.
        per_bucket: Most pairs in a bucket.
        seed: Of the pairing.
        size: Longest side of a tile, pixels, as in `restore`.
        device: As in `restore`, for the networks; all else runs on the CPU.
        precision: As in `restore`.
        csv: File for one row a fill, or None.
        plot: PNG file for the curves, or None.
        overwrite: Replace such files if they exist.
    """

    weights: tuple[str | None, ...] = (None,)
    methods: tuple[str, ...] | None = None
    per_bucket: int = 20
    seed: int = 0
    size: int = 512
    device: str = "auto"
    precision: str = "auto"
    csv: Path | None = None
    plot: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Measured:
    """One fill, measured against the true picture.

    Attributes:
        picture: Name, relative to the folder.
        mask: Likewise.
        ratio: Share of the pixels that are damaged, of the mask as it was cut.
        bucket: One of `BUCKETS`.
        border: Whether a pixel of the hole lies within 50 px of the border.
        method: Who filled it: the weights' name, or one of `classical.METHODS`.
        l1: Mean absolute difference of the whole picture, %, the hole filled and all else true.
        psnr: Of the whole picture, dB; infinite where there is no difference.
        ssim: Of the whole picture.
        l1_hole: As `l1`, of the damaged pixels alone.
        psnr_hole: Likewise.
        ssim_hole: Likewise; its windows reach out of the hole.
        perceptual: Distance of the whole picture, see `metrics.perceptual_distance`.
        seconds: That the fill took.
    """

    picture: str
    mask: str
    ratio: float
    bucket: str
    border: bool
    method: str
    l1: float
    psnr: float
    ssim: float
    l1_hole: float
    psnr_hole: float
    ssim_hole: float
    perceptual: float
    seconds: float


def mean_of(measure: str, items: Iterable[Measured]) -> float | None:
    """Mean of a measure, no PSNR above `EXACT`; None where there is no value."""
    most = EXACT if measure in ("psnr", "psnr_hole") else math.inf
    values = [min(getattr(item, measure), most) for item in items]
    return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Measurements:
    """What was measured.

    Attributes:
        settings: Those that matter, by name.
        weights: SHA-256 of the weights behind a method, or None for the pyramid.
        methods: In the order that was asked for.
        items: Every fill, hole by hole.
        failures: What could not be read or filled.
        seconds: Of the whole run.
        interrupted: Whether it was stopped.
        notices: What the user should know that is no failure.
    """

    settings: Mapping[str, Any]
    weights: Mapping[str, str | None]
    methods: tuple[str, ...]
    items: tuple[Measured, ...]
    failures: tuple[ItemFailed, ...]
    seconds: float
    interrupted: bool
    notices: tuple[str, ...]

    @property
    def measured(self) -> int:
        """Holes that all methods have filled."""
        return len(self.items) // max(1, len(self.methods))

    def as_csv(self) -> str:
        """CSV, one row a fill under a row of names; an infinite PSNR is `inf`, `border` is 1 or 0."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(Measured))
        writer.writerows({**asdict(item), "border": int(item.border)}.values() for item in self.items)
        return text.getvalue()

    def documents(self) -> list[dict[str, Any]]:
        """Each fill for JSON; an infinite PSNR is null."""
        return [
            {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row}
            for row in (asdict(item).items() for item in self.items)
        ]


@dataclass(frozen=True)
class Evaluation(Measurements):
    """What was measured, in which bucket; of `pairs` that were to be."""

    pairs: int

    @property
    def buckets(self) -> tuple[str, ...]:
        """Those of `BUCKETS` in which a pair was measured."""
        return tuple(bucket for bucket in BUCKETS if self.count(bucket))

    def count(self, bucket: str, border: bool | None = None) -> int:
        """Pairs measured in a bucket: all, or those whose hole is, or is not, at the border."""
        return len(self._of(self.methods[0], bucket, border))

    def mean(self, measure: str, method: str, bucket: str, border: bool | None = None) -> float | None:
        """See `mean_of`, in a bucket."""
        return mean_of(measure, self._of(method, bucket, border))

    def best(self, measure: Measure, bucket: str, border: bool | None = None) -> tuple[str, ...]:
        """The methods with the best mean, as it is shown: several where they are level."""
        shown = {method: self.mean(measure.name, method, bucket, border) for method in self.methods}
        rounded = {method: round(mean, measure.digits) for method, mean in shown.items() if mean is not None}
        if not rounded:
            return ()
        best = (max if measure.higher else min)(rounded.values())
        return tuple(method for method, mean in rounded.items() if mean == best)

    def mostly_best(self, measure: Measure) -> tuple[tuple[str, ...], int]:
        """The methods that are best in the most buckets, and in how many; none and 0 where no bucket has a best."""
        wins = Counter(method for bucket in self.buckets for method in self.best(measure, bucket))
        most = max(wins.values(), default=0)
        return tuple(method for method in self.methods if most and wins[method] == most), most

    def as_json(self) -> str:
        """One JSON object, indented, UTF-8 as it is; an infinite PSNR of a fill is null."""
        document = {
            "pconv": __version__,
            "settings": dict(self.settings),
            "weights": dict(self.weights),
            "methods": list(self.methods),
            "summary": {
                "pairs": self.pairs,
                "measured": self.measured,
                "failed": len(self.failures),
                "seconds": round(self.seconds, 3),
                "interrupted": self.interrupted,
            },
            "buckets": {
                bucket: {
                    **self._summed(bucket),
                    "border": self._summed(bucket, True),
                    "clear": self._summed(bucket, False),
                }
                for bucket in BUCKETS
            },
            "failures": [asdict(failure) for failure in self.failures],
            "notices": list(self.notices),
            "items": self.documents(),
        }
        return json.dumps(document, ensure_ascii=False, indent=2)

    def _summed(self, bucket: str, border: bool | None = None) -> dict[str, Any]:
        means = {
            method: {measure.name: self.mean(measure.name, method, bucket, border) for measure in MEASURES}
            for method in self.methods
        }
        return {"n": self.count(bucket, border), "means": means}

    def _of(self, method: str, bucket: str, border: bool | None) -> list[Measured]:
        parts = (True, False) if border is None else (border,)
        return [item for part in parts for item in self._groups[method, bucket, part]]

    @cached_property
    def _groups(self) -> Mapping[tuple[str, str, bool], list[Measured]]:
        groups: defaultdict[tuple[str, str, bool], list[Measured]] = defaultdict(list)
        for item in self.items:
            groups[item.method, item.bucket, item.border].append(item)
        return groups


# ---------------------------------------------------------------- the run


def evaluate(
    photos: Path,
    masks: Path,
    settings: EvaluateSettings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Fill holes in known pictures by several methods, and measure them.

    What cannot be read is reported and the others go on. When `stop` turns true, the pair in hand is finished.

    Args:
        photos: A folder of undamaged pictures (searched recursively), or one. Transparency is not looked at.
        masks: A folder of masks, white = hole, or one. Where picture and mask differ in size both are cut to their
            common centre; nothing is stretched.
        settings: What to measure, and how.
        emit: Hears what happens.
        stop: Asked before each pair.

    Raises:
        UsageError: If the settings make no sense, or a package is missing.
        NothingToDo: If there is no picture, no mask, or no mask in any bucket.
        WeightsError: If weights cannot be loaded.
        OutputError: If the files for the results cannot be written.
        DeviceError: If the device is not there.
    """
    started = time.monotonic()
    notices, emit = collecting(emit)
    pictures, holes = find_files(photos, masks, READ_SUFFIXES)
    refuse(settings, [*pictures.values(), *holes.values()])
    run = _Run(settings, emit, pictures, holes)
    pairs = run.pairs(stop)
    emit(EvaluationStarted(len(pairs), tuple(run.methods), str(run.device), precision_name(run.precision)))
    items: list[Measured] = []
    done = 0
    for pair in pairs:
        if stop():
            break
        items += run.measure(pair)
        done += 1
    described = {
        "device": str(run.device),
        "precision": precision_name(run.precision),
        "tile_size": settings.size,
        "per_bucket": settings.per_bucket,
        "seed": settings.seed,
        "border_px": BORDER,
    }
    evaluation = Evaluation(
        described, run.weights, tuple(run.methods), tuple(items), tuple(run.failures),
        time.monotonic() - started, stop(), tuple(notices), len(pairs),
    )  # fmt: skip
    emit(EvaluationFinished(evaluation.measured, len(run.failures), len(pairs) - done, evaluation.seconds))
    return evaluation


def save(evaluation: Evaluation, settings: EvaluateSettings) -> None:
    """Write the files that the settings ask for, each whole or not at all.

    Raises:
        OutputError: If one cannot be written.
    """
    text = evaluation.as_csv().encode("utf-8", "backslashreplace")
    write(settings.csv, settings.overwrite, lambda stream: stream.write(text))
    write(settings.plot, settings.overwrite, lambda stream: _draw(evaluation, stream))


class Bench:
    """Methods that are ready to fill, and what measures what they make.

    Attributes:
        device: Where the networks are.
        precision: In which they compute.
        methods: By name, in the order that was asked for.
        weights: SHA-256 of the weights behind a method, or None for the pyramid.
    """

    def __init__(self, settings: EvaluateSettings, emit: Listener) -> None:
        self._settings, self._emit = settings, emit
        self.device = choose_device(settings.device)
        self.precision, _ = choose_precision(settings.precision, self.device)
        self.methods: dict[str, Method] = {}
        self.weights: dict[str, str | None] = {}
        for name in METHODS if settings.methods is None else dict.fromkeys(settings.methods):
            if name == NETWORK:
                self._add_networks()
            else:
                self._add_classical(name)
        self._features = squeeze.SqueezeFeatures(store.feature_state(), squeeze.STAGES)

    def _add_networks(self) -> None:
        taken: set[Path | None] = set()
        for given in self._settings.weights:
            path = store.find(given)
            if path in taken:
                continue
            taken.add(path)
            name = store.NONE if path is None else path.stem
            if name in self.methods or name in METHODS:
                name = str(path)
            network, view = store.load_network(given), store.colour_view(given)
            engine = Engine(network, self.device, self.precision, self._emit)
            self.methods[name] = _by_network(engine, view, self._settings.size)
            self.weights[name] = None if path is None else files.sha256(path)

    def _add_classical(self, name: str) -> None:
        try:
            method = classical.load(name)
        except UsageError as error:
            if self._settings.methods is not None:
                raise
            self._emit(Notice(f"left out: {error}"))
        else:
            self.methods[name] = lambda picture, hole, _: method(picture, hole)

    def fills(
        self, about: About, truth: Pixels, hole: Hole, *, grey: bool,
        unseen: Hole | None = None, each: Callable[[str, Pixels], None] = lambda method, picture: None,
    ) -> list[Measured]:  # fmt: skip
        """Fill one hole by every method and measure.

        Args:
            about: Picture, mask, share, bucket, whether at the border: see `Measured`.
            truth: The picture, `(h, w, 3)`.
            hole: `(h, w)`, True where it is to be filled and measured.
            grey: Whether the picture is.
            unseen: `(h, w)`, True where the picture is not known either: filled with the hole, and not measured.
            each: Given every method's name and the picture with the hole filled.
        """
        hidden = hole if unseen is None else hole | unseen
        holed = np.where(hidden[..., None], np.uint8(PAINT), truth)
        with torch.inference_mode():
            wanted = self._features(_tensor(truth))
        measured = []
        for name, method in self.methods.items():
            seen = holed.copy()  # whatever one does to it, the next begins with the same
            started = time.perf_counter()
            filled = method(seen, hidden, grey)
            seconds = time.perf_counter() - started
            composite = np.where(hole[..., None], filled, truth)
            with torch.inference_mode():
                distance = perceptual_distance(self._features(_tensor(composite)), wanted)
                figures = _figures(composite, truth, hole)
            measured.append(Measured(*about, name, **figures, perceptual=float(distance), seconds=seconds))
            each(name, composite)
        return measured


class _Run(Bench):
    """What a run has in hand: files, and what has failed."""

    def __init__(
        self, settings: EvaluateSettings, emit: Listener, pictures: Mapping[str, Path], masks: Mapping[str, Path]
    ) -> None:
        super().__init__(settings, emit)
        self._pictures, self._masks = pictures, masks
        self.failures: list[ItemFailed] = []

    def pairs(self, stop: Callable[[], bool]) -> tuple[Pair, ...]:
        """Look at all sizes and masks, and draw the pairs."""
        sizes = self._looked_at(self._pictures, _size)
        different = set(sizes.values())
        found = self._looked_at(self._masks, lambda path: {} if stop() else _buckets(path, different))
        if stop():
            return ()
        outside = [name for name, seen in found.items() if not any(bucket is not None for bucket in seen.values())]
        if outside:
            more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
            share = f"{EDGES[0]:.0%} or less, or more than {EDGES[-1]:.0%}"
            self._emit(Notice(f"{outside[0]}{more}: marks {share} of the picture, so not used"))
        pairs = draw_pairs(sizes, found, self._settings.per_bucket, self._settings.seed)
        if not pairs and not self.failures:
            raise NothingToDo(f"no mask marks between {EDGES[0]:.0%} and {EDGES[-1]:.0%} of a picture, white = hole")
        return pairs

    def _looked_at(self, paths: Mapping[str, Path], look: Callable[[Path], T]) -> dict[str, T]:
        """Look at many files at once; those that cannot be read are reported and left out."""
        found = {}
        with ThreadPoolExecutor() as pool:
            for (name, path), seen in zip(paths.items(), pool.map(partial(_tried, look), paths.values()), strict=True):
                if isinstance(seen, ItemError):
                    self._fail(name, path, seen)
                else:
                    found[name] = seen
        return found

    def measure(self, pair: Pair) -> list[Measured]:
        """Fill one hole by every method and measure; nothing where one fails, so that all means are over one set."""
        photo, mask = self._pictures[pair.picture], self._masks[pair.mask]
        try:
            picture, hole = read_picture(photo).as_a_whole(), read_mask(mask).hole
            truth, hole = common_centre(picture.rgb(), hole)
            about = (pair.picture, pair.mask, float(hole.mean()), BUCKETS[pair.bucket], at_border(hole))
            measured = self.fills(about, truth, hole, grey=picture.mode in ("L", "LA"))
        except ItemError as error:
            self._fail(pair.picture, photo, error)
            return []
        except MemoryError:
            reason = "too big for the memory of this machine: choose fewer --methods, or a smaller picture"
            self._fail(pair.picture, photo, ItemError(photo, reason))
            return []
        except ValueError as error:
            self._fail(pair.mask, mask, ItemError(mask, str(error)))
            return []
        self._emit(PairMeasured(pair.picture, pair.mask, BUCKETS[pair.bucket], float(hole.mean())))
        return measured

    def _fail(self, name: str, path: Path, error: ItemError) -> None:
        self.failures.append(ItemFailed(name, str(path), error.path, error.reason))
        self._emit(self.failures[-1])


def _by_network(engine: Engine, view: View, size: int) -> Method:
    """The road that `restore` takes, for one picture."""

    def filled(picture: Pixels, hole: Hole, grey: bool) -> Pixels:
        surface = ArraySurface(picture.copy(), grey=grey)
        fill(Filling.of(surface, plan_tiles(hole, size, whole=view.whole), view), engine)
        return np.asarray(surface.pixels)

    return filled


def _figures(image: Pixels, truth: Pixels, hole: Hole) -> dict[str, Any]:
    """Measures of one picture, and of its hole alone."""
    a, b = _tensor(image), _tensor(truth)
    where = torch.from_numpy(hole.copy())[None, None]
    figures = {"ssim": float(ssim(a, b)), "ssim_hole": float(ssim(a, b, where))}
    a, b = a.double(), b.double()  # long sums; for similarity it would take seven times as long and change nothing
    figures |= {"l1": 100 * float(l1(a, b)), "l1_hole": 100 * float(l1(a, b, where))}
    return figures | {"psnr": float(psnr(a, b)), "psnr_hole": float(psnr(a, b, where))}


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


# ---------------------------------------------------------------- files in


def _tried(look: Callable[[Path], T], path: Path) -> T | ItemError:
    try:
        return look(path)
    except ItemError as error:
        return error


def _size(path: Path) -> Size:
    width, height = probe(path)
    _large_enough(path, height, width)
    return height, width


def _buckets(path: Path, sizes: Iterable[Size]) -> dict[Size, int | None]:
    """The bucket of a mask over pictures of each size."""
    hole = read_mask(path).hole
    _large_enough(path, *hole.shape)
    return buckets_over(hole, sizes)


def _large_enough(path: Path, height: int, width: int) -> None:
    if min(height, width) < squeeze.SMALLEST:
        smallest = f"at least {squeeze.SMALLEST} px a side are needed"
        raise ItemError(path, f"{width} x {height}: too small to be measured, {smallest}; leave it out")


# ---------------------------------------------------------------- files out


def refuse(settings: EvaluateSettings, inputs: Iterable[Path]) -> None:
    """Refuse before any work what makes no sense or could not be written after it."""
    if settings.size < SMALLEST_TILE:
        raise UsageError(f"--size {settings.size}: must be {SMALLEST_TILE} or more")
    if settings.per_bucket < 1:
        raise UsageError(f"--per-bucket {settings.per_bucket}: must be 1 or more")
    methods = METHODS if settings.methods is None else settings.methods
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        named = f"{unknown[0]} is no method" if unknown else "none is named"
        raise UsageError(f"--methods: {named}; there are {', '.join(METHODS)}")
    if NETWORK not in methods and settings.weights != (None,):
        raise UsageError(f"--weights are given, but --methods has no {NETWORK}: add it")
    if settings.plot is not None:
        if settings.plot.suffix.lower() != ".png":
            raise UsageError(f"--plot {settings.plot}: curves are written as PNG; choose a name that ends in .png")
        curves.load()
    targets = [path for path in (settings.csv, settings.plot) if path is not None]
    for target in targets:
        if not target.parent.is_dir() or target.is_dir():
            raise OutputError(f"{target}: not a file in a folder that is there: make the folder first, or name another")
        try:
            files.refuse_taken(target, overwrite=settings.overwrite)
            for path in inputs if target.exists() else ():
                files.refuse_same(path, target)
        except files.Refused as error:
            raise OutputError(f"{target}: {error}") from error
    if len(targets) == 2 and targets[0].absolute() == targets[1].absolute():
        raise OutputError(f"{targets[0]}: cannot hold both the table and the plot: choose two names")


def write(target: Path | None, overwrite: bool, put: Callable[[BinaryIO], object]) -> None:
    """Write a table or a plot, if one is asked for, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    if target is None:
        return
    try:
        with files.whole(target, overwrite=overwrite) as stream:
            put(stream)
    except OSError as error:
        raise OutputError(f"{target}: {files.why_unwritable(error) or error}") from error


def _draw(evaluation: Evaluation, stream: BinaryIO) -> None:
    buckets = evaluation.buckets
    panels = {
        f"{measure.title} ({'higher' if measure.higher else 'lower'} is better)": {
            method: [evaluation.mean(measure.name, method, bucket) for bucket in buckets]
            for method in evaluation.methods
        }
        for measure in MEASURES
        if measure.name in PLOTTED
    }
    curves.draw(stream, panels, buckets, evaluation.weights)
