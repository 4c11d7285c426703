"""Measure methods on somebody's own damaged pictures: what happens, in order.

Nobody knows what stood where a picture is damaged, so the damage is moved: shapes of the user's own masks, shifted,
mirrored and turned, are punched into places that are undamaged, every method fills them, and what they make is compared
with what was there. Knows every step and none of their workings, and what follows from the figures in words. Does not
know: the terminal, options' spelling, exit codes.

The damage that a picture has stays unknown to the methods, as it will be when it is restored; only what was punched is
measured. Means are those of an evaluation.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli import __version__, evaluation
from pconv_cli.bench import Reader, RestoreSettings
from pconv_cli.engine import precision_name
from pconv_cli.errors import ItemError, NothingToDo, UsageError
from pconv_cli.evaluation import MEASURES, Bench, EvaluateSettings, Measure, Measured, Measurements, mean_of, write
from pconv_cli.events import (
    EvaluationFinished,
    EvaluationStarted,
    ItemFailed,
    Listener,
    Notice,
    PairMeasured,
    ReportWritten,
)
from pconv_cli.jobs import Job, JobList
from pconv_cli.layers import View
from pconv_cli.masks import dilate
from pconv_cli.metrics import EXACT
from pconv_cli.nn import squeeze
from pconv_cli.page import Entry, Failure, Folder, Grid, Page, Sheet, common_folder, counted, duration, share
from pconv_cli.page import View as Shown
from pconv_cli.pairs import BUCKETS, at_border, bucket_of, shuffled
from pconv_cli.regions import Damage, Window
from pconv_cli.report import collecting

KEEP_OFF = 8
"""Pixels between what is punched and what is damaged: damage often reaches further than its mask."""
RIM = 16
"""Pixels of a place that stay known all round."""
MOST_HIDDEN = 0.6
"""Share of a place that may be unknown, punched and damaged together."""
SMALLEST_HOLE = 16
"""Pixels that must be punched for a place to count."""
TRIES = 24  # of a place for a hole, of which the one that keeps most of its shapes is taken
GOOD = 0.8  # share of the shapes that makes further tries idle
SHAPES = 8  # masks that are remembered, for pictures whose own marks nothing
LEVEL_TONE, LEVEL_LOOK = 0.2, 0.05
"""What is as good as the best: PSNR so many dB below it, a perceptual distance by such a share above it."""

TITLES = {"telea": "Telea", "ns": "Navier-Stokes", "biharmonic": "biharmonic", "fillnodata": "GDAL fill"}
SHOWN = ("psnr_hole", "ssim_hole", "perceptual", "seconds")
SMALL = "0-0.01"  # the bucket below those of `pairs.BUCKETS`

Hole = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

FOOTNOTES = (
    "How: shapes of your own masks were moved to undamaged places of your own pictures, filled by every method, and "
    "compared with what was there. All methods filled the very same holes.",
    "PSNR and SSIM: of the punched pixels alone; higher is closer. They reward right tones and forgive blur. In means "
    f"a fill without any error counts as {EXACT:g} dB.",
    "Perceptual distance: how far the picture looks from the true one, by features of a network; lower is closer. It "
    "punishes blur and seams.",
    "Seconds: for one fill, on the device named under How it was made; classical methods always run on the CPU.",
    f"As good as the best is what is within {LEVEL_TONE} dB and {LEVEL_LOOK:.0%} of its perceptual distance. A lead "
    "counts as certain where its mean, over the places, is more than two standard errors.",
)


@dataclass(frozen=True)
class CompareSettings:
    """What to compare, and how.

    Attributes:
        weights: As in `EvaluateSettings`.
        methods: Likewise.
        places: How many holes are punched, at most.
        side: Side of the place round a hole that the methods see, pixels.
        seed: Of the places.
        size: Longest side of a tile, pixels, as in `restore`.
        device: As in `restore`.
        precision: As in `restore`.
        csv: File for one row a fill, or None.
        overwrite: Replace such a file if it exists.
    """

    weights: tuple[str | None, ...] = (None,)
    methods: tuple[str, ...] | None = None
    places: int = 24
    side: int = 512
    seed: int = 0
    size: int = 512
    device: str = "auto"
    precision: str = "auto"
    csv: Path | None = None
    overwrite: bool = False

    @property
    def evaluated(self) -> EvaluateSettings:
        """As an evaluation takes them."""
        return EvaluateSettings(
            self.weights, self.methods, seed=self.seed, size=self.size, device=self.device, precision=self.precision,
            csv=self.csv, overwrite=self.overwrite,
        )  # fmt: skip


@dataclass(frozen=True)
class Advice:
    """What follows from the figures: the method, and why, in one sentence."""

    method: str
    sentence: str


@dataclass(frozen=True)
class Comparison(Measurements):
    """What was measured, and what follows from it."""

    @property
    def advice(self) -> Advice | None:
        """What to use; None where nothing was measured."""
        return advise(self.items, self.methods, self.weights) if self.items else None

    def mean(self, measure: str, method: str) -> float | None:
        """See `mean_of`, of one method."""
        return mean_of(measure, (item for item in self.items if item.method == method))

    def table(self) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
        """Columns, rows of texts, and the cells of the best: methods down, measures across."""
        measures = [measure for name in SHOWN for measure in MEASURES if measure.name == name]
        columns = ["method", *(f"{measure.title} {'↑' if measure.higher else '↓'}" for measure in measures)]
        rows, bold = [], set()
        for column, measure in enumerate(measures, 1):
            means = [self.mean(measure.name, method) for method in self.methods]
            told = [None if mean is None else round(mean, measure.digits) for mean in means]
            known = [mean for mean in told if mean is not None]
            best = (max if measure.higher else min)(known) if known else None
            bold |= {(row, column) for row, mean in enumerate(told) if mean is not None and mean == best}
        for method in self.methods:
            means = [self.mean(measure.name, method) for measure in measures]
            cells = [_figure(mean, measure) for mean, measure in zip(means, measures, strict=True)]
            rows.append([title(method), *cells])
        return columns, rows, bold

    def document(self) -> dict[str, Any]:
        """All of it for JSON; an infinite PSNR of a fill is null."""
        advice = self.advice
        return {
            "type": "comparison",
            "pconv": __version__,
            "recommendation": None if advice is None else asdict(advice),
            "settings": dict(self.settings),
            "weights": dict(self.weights),
            "methods": list(self.methods),
            "summary": {
                "places": self.measured,
                "failed": len(self.failures),
                "seconds": round(self.seconds, 3),
                "interrupted": self.interrupted,
            },
            "means": {
                method: {measure.name: self.mean(measure.name, method) for measure in MEASURES}
                for method in self.methods
            },
            "failures": [asdict(failure) for failure in self.failures],
            "notices": list(self.notices),
            "items": self.documents(),
        }

    def as_json(self) -> str:
        """One JSON object, indented."""
        return json.dumps(self.document(), ensure_ascii=False, indent=2)


def title(method: str) -> str:
    """What people call a method."""
    return TITLES.get(method, f"pconv {method}")


def _figure(mean: float | None, measure: Measure) -> str:
    return "-" if mean is None else f"{mean:.{measure.digits}f}"


# ---------------------------------------------------------------- the run


def compare(
    todo: JobList,
    reading: RestoreSettings,
    settings: CompareSettings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
    folder: Folder | None = None,
) -> Comparison:
    """Punch holes into undamaged places, have every method fill them, and measure.

    What cannot be read is reported and the others go on. When `stop` turns true, the place in hand is finished.

    Args:
        todo: Pictures and their masks, as `restore.plan` found them; nothing is written to their outputs.
        reading: How masks are read.
        settings: What to compare, and how.
        emit: Hears what happens.
        stop: Asked before each place.
        folder: Where a page of it goes, or None.

    Raises:
        UsageError: If the settings make no sense, or a package is missing.
        NothingToDo: If no picture has a mask, or no hole found a place.
        RunError: As in `evaluation.evaluate`.
    """
    started = time.monotonic()
    notices, emit = collecting(emit)
    if settings.places < 1:
        raise UsageError(f"--places {settings.places}: must be 1 or more")
    if settings.side < 2 * squeeze.SMALLEST + 2 * RIM:
        raise UsageError(f"--side {settings.side}: must be {2 * squeeze.SMALLEST + 2 * RIM} or more")
    inputs = [path for job in todo.jobs for path in (job.image, job.mask) if path is not None]
    evaluation.refuse(settings.evaluated, inputs)
    run = _Run(reading, settings, emit, folder)
    jobs = run.in_order(todo)
    emit(EvaluationStarted(settings.places, tuple(run.bench.methods), str(run.bench.device), run.precision))
    owed = 0
    for number, job in enumerate(jobs):
        if stop():
            break
        owed += settings.places // len(jobs) + (number < settings.places % len(jobs))
        if owed:
            owed -= run.punch(job, owed, stop)  # what finds no place here, the next ones get
    found = Comparison(
        {
            "places": run.done, "place_side": settings.side, "seed": settings.seed, "tile_size": settings.size,
            "device": str(run.bench.device), "precision": run.precision, "mask_polarity": reading.polarity,
            "dilate": reading.dilate, "mask_from": str(reading.mask_from or ""),
        },
        run.bench.weights, tuple(run.bench.methods), tuple(run.items), tuple(run.failures), time.monotonic() - started,
        stop(), (),
    )  # fmt: skip
    if not run.done and not stop() and not run.failures:
        raise NothingToDo("no hole found an undamaged place: the pictures are too small, or damaged all over")
    run.say_what_was_left_out()
    emit(
        EvaluationFinished(
            run.done, len(run.failures), max(0, settings.places - run.done) if stop() else 0, found.seconds
        )
    )
    found = replace(found, notices=tuple(notices))
    if folder is not None and found.items:
        _show(found, run.trials, folder, todo, emit)
    return found


def save(found: Comparison, settings: CompareSettings) -> None:
    """Write the table that the settings ask for, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    text = found.as_csv().encode("utf-8", "backslashreplace")
    write(settings.csv, settings.overwrite, lambda stream: stream.write(text))


@dataclass
class _Trial:
    """One place: what was measured there, and what shows it."""

    name: str
    where: Window
    ratio: float
    measured: list[Measured]
    views: dict[str, Shown] = field(default_factory=dict)
    mask: str | None = None


class _Run:
    """What a run has in hand."""

    def __init__(
        self, reading: RestoreSettings, settings: CompareSettings, emit: Listener, folder: Folder | None
    ) -> None:
        self._settings, self._emit, self._folder = settings, emit, folder
        self._own = reading.mask_from is not None  # pictures show their damage themselves
        self._reader = Reader(replace(reading, overwrite=True, resume=False), View())
        self.bench = Bench(settings.evaluated, emit)
        self.precision = precision_name(self.bench.precision)
        self.items: list[Measured] = []
        self.trials: list[_Trial] = []
        self.failures: list[ItemFailed] = []
        self._maskless = 0
        self._placeless: list[str] = []
        self._shapes: list[Damage] = []
        self._order: list[Job] = []
        self._searched = False

    @property
    def done(self) -> int:
        """Places measured."""
        return len(self.trials)

    def in_order(self, todo: JobList) -> list[Job]:
        """Pictures as they take turns: the same for the same names and seed."""
        marked = {job.name: job for job in todo.jobs if job.mask is not None or self._own}
        self._maskless = len(todo.jobs) - len(marked)
        if not marked:
            raise NothingToDo("no picture has a mask: compare moves the shapes of masks, so it needs some")
        self._order = [marked[name] for name in shuffled(marked, self._settings.seed)]
        return self._order

    def punch(self, job: Job, count: int, stop: Callable[[], bool]) -> int:
        """Punch some holes into one picture; how many found a place."""
        settings, before = self._settings, self.done
        try:
            self._reader.cost(job)
            work = self._reader.read(job)
            damage = work.hole
            truth = work.picture.known_outside(damage).rgb()  # places lie beside what is seen of it when it is filled
            shapes = self._shapes_for(job, damage) if min(damage.shape) >= squeeze.SMALLEST else None
            random = np.random.default_rng(_number(f"{settings.seed} {job.name}"))
            for number in range(count):
                if stop():
                    break
                found = None if shapes is None else place(damage, shapes, settings.side, random)
                if found is None:
                    self._placeless += [job.name] if number == 0 else []
                    break
                self._measure(job, truth, damage, *found, grey=work.picture.mode in ("L", "LA"))
        except ItemError as error:
            self._fail(job, error)
        except MemoryError:
            reason = "too big for the memory of this machine: choose fewer --methods, or a smaller --side"
            self._fail(job, ItemError(job.image, reason))
        return self.done - before

    def _shapes_for(self, job: Job, damage: Hole) -> Damage | None:
        """A mask whose shapes are moved: the picture's own, or that of another where it marks nothing."""
        if damage.any():
            shapes = Damage.of(damage)
            if len(self._shapes) < SHAPES:
                self._shapes.append(shapes)
            return shapes
        if not self._shapes and not self._searched:
            self._find_shapes()
        return self._shapes[_number(job.name) % len(self._shapes)] if self._shapes else None

    def _find_shapes(self) -> None:
        """Look for the first mask that marks something."""
        self._searched = True
        for job in self._order:
            try:
                hole = self._reader.read(job).hole
            except ItemError:  # reported when its turn comes
                continue
            if hole.any():
                self._shapes.append(Damage.of(hole))
                return

    def _measure(self, job: Job, truth: Pixels, damage: Hole, where: Window, hole: Hole, *, grey: bool) -> None:
        true, unseen = truth[where.slices], damage[where.slices]
        ratio = float(hole.mean())
        bucket = bucket_of(ratio)
        mask = str(job.mask.name if job.mask is not None else "")
        trial = _Trial(f"{job.name}, at {where.x}, {where.y}", where, ratio, [])
        folder, count = self._folder, self.done + 1

        def keep(method: str, picture: Pixels) -> None:
            if folder is not None:
                trial.views[method] = folder.view(count, f"method-{len(trial.views)}", title(method), picture)

        about = (job.name, mask, ratio, SMALL if bucket is None else BUCKETS[bucket], at_border(hole))
        trial.measured = self.bench.fills(about, true, hole, grey=grey, unseen=unseen, each=keep)
        if folder is not None:
            holed = np.where(hole[..., None], np.uint8(255), true)
            trial.views = {
                "": folder.view(count, "holed", "punched", holed), **trial.views,
                "true": folder.view(count, "true", "as it was", np.ascontiguousarray(true)),
            }  # fmt: skip
            trial.mask = folder.layer(count, "mask", hole)
        self.items += trial.measured
        self.trials.append(trial)
        self._emit(PairMeasured(job.name, mask, about[3], ratio))

    def say_what_was_left_out(self) -> None:
        """Say what was not measured, and why."""
        if self._maskless:
            what = counted(self._maskless, ("picture has", "pictures have"))
            self._emit(Notice(f"{what} no mask, so it is not known where they are undamaged: left out"))
        if self._placeless:
            what = counted(len(self._placeless), ("picture has", "pictures have"))
            named = ", ".join(self._placeless[:3]) + (", ..." if len(self._placeless) > 3 else "")
            self._emit(Notice(f"{what} no undamaged place for a hole: left out ({named})"))

    def _fail(self, job: Job, error: ItemError) -> None:
        self.failures.append(ItemFailed(job.name, str(job.image), error.path, error.reason))
        self._emit(self.failures[-1])


def _number(text: str) -> int:
    """A number that looks random and is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big")


# ---------------------------------------------------------------- where holes are punched


def place(damage: Hole, shapes: Damage, side: int, random: np.random.Generator) -> tuple[Window, Hole] | None:
    """Find a hole of given shapes, and an undamaged place for it.

    Shapes are moved as they are, mirrored and turned by quarters; one that would come within `KEEP_OFF` of damage is
    left out, and where that leaves none, they are cut there instead. Round the place, `RIM` pixels stay as they are.

    Args:
        damage: `(h, w)`, True where the picture is damaged.
        shapes: What a mask of any size marks; it must mark something.
        side: Of the place, pixels; a smaller picture is a place as a whole, cut square.
        random: Where from.

    Returns:
        The place, and `(place.height, place.width)`, True where it is to be punched; None where there is no room.
    """
    side = min(side, *damage.shape)
    rim = min(RIM, side // 8)
    near = dilate(damage, KEEP_OFF)
    best: tuple[float, Window, Hole] | None = None
    for attempt in range(2 * TRIES):
        if attempt == TRIES and best is not None:
            break
        mark = int(random.integers(len(shapes)))
        middle = int(shapes.rows[mark]), int(shapes.starts[mark] + shapes.stops[mark]) // 2
        moved = np.rot90(_cut_out(shapes, middle, side), int(random.integers(4)))
        moved = moved[:, ::-1] if random.integers(2) else moved
        top, left = (int(random.integers(limit - side + 1)) for limit in damage.shape)
        where = Window(left, top, side, side)
        hole = np.zeros((side, side), np.bool_)
        hole[rim : side - rim, rim : side - rim] = moved[rim : side - rim, rim : side - rim]
        whole = int(hole.sum())
        blocked = near[where.slices]
        hole = _clear_of(hole, blocked) if attempt < TRIES else hole & ~blocked
        area = int(hole.sum())
        if area < SMALLEST_HOLE or float((hole | damage[where.slices]).mean()) > MOST_HIDDEN:
            continue
        kept = area / whole
        if best is None or kept > best[0]:
            best = kept, where, hole
        if kept >= GOOD:
            break
    return None if best is None else best[1:]


def _cut_out(shapes: Damage, middle: tuple[int, int], side: int) -> Hole:
    """A square of a mask with a pixel in its middle; beyond the mask nothing is marked."""
    down, across = (at - side // 2 for at in middle)
    top, left, bottom, right = (
        max(down, 0),
        max(across, 0),
        min(down + side, shapes.height),
        min(across + side, shapes.width),
    )
    out = np.zeros((side, side), np.bool_)
    inside = shapes.window(Window(left, top, right - left, bottom - top))
    out[top - down : bottom - down, left - across : right - across] = inside
    return out


def _clear_of(hole: Hole, blocked: Hole) -> Hole:
    """The shapes of a hole that touch nothing that is blocked, each as a whole."""
    if not hole.any():
        return hole
    runs = Damage.of(hole)
    labels, _ = runs.components()
    before = np.pad(np.cumsum(blocked, axis=1, dtype=np.int64), ((0, 0), (1, 0)))
    touched = np.unique(labels[before[runs.rows, runs.stops] > before[runs.rows, runs.starts]])
    return runs.take(~np.isin(labels, touched)).window(Window(0, 0, hole.shape[1], hole.shape[0]))


# ---------------------------------------------------------------- what follows


def advise(items: Sequence[Measured], methods: Sequence[str], networks: Collection[str]) -> Advice:
    """Say in one sentence what the figures speak for.

    PSNR in the holes and perceptual distance decide. What is within `LEVEL_TONE` and `LEVEL_LOOK` of the best is as
    good, and of those the fastest is recommended, whoever made it. Where the two measures speak for different methods,
    the perceptual one decides, for pictures are looked at, and the sentence says so. It also says where the places are
    too few to exclude chance: where a lead is within two standard errors of its mean.

    Args:
        items: Every fill; all methods filled the same holes, in the same order.
        methods: Their names; at least one.
        networks: Those that are networks.
    """
    by = {method: [item for item in items if item.method == method] for method in methods}
    seconds = {method: float(np.mean([item.seconds for item in of])) for method, of in by.items()}
    tones = {method: [min(item.psnr_hole, EXACT) for item in of] for method, of in by.items()}
    looks = {method: [item.perceptual for item in of] for method, of in by.items()}
    tone, look = ({method: float(np.mean(values)) for method, values in of.items()} for of in (tones, looks))
    in_tone = [method for method in methods if tone[method] >= max(tone.values()) - LEVEL_TONE]
    in_look = [method for method in methods if look[method] <= min(look.values()) * (1 + LEVEL_LOOK)]
    both = [method for method in in_tone if method in in_look]
    chosen = min(both or in_look, key=seconds.__getitem__)
    nearest = min(both or in_tone, key=seconds.__getitem__)
    if len(methods) == 1:
        return Advice(chosen, f"{title(chosen)} is the only method that was measured, so there is nothing to choose.")
    rest = [method for method in methods if method not in both]
    pace = f"{_time(seconds[chosen])} a place"
    if not both:
        says = (
            f"The measures disagree: {title(chosen)} looks closest to what was there (perceptual distance "
            f"{look[chosen]:.4f}; {title(nearest)} {look[nearest]:.4f}), while {title(nearest)} is closest in tone "
            f"({tone[nearest]:.2f} dB; {title(chosen)} {tone[chosen]:.2f}): use {title(chosen)} for pictures that are "
            f"looked at, {title(nearest)} where values count"
        )
    elif len(both) > 1:
        slower = [f"{title(m)} ({_times(seconds[m], seconds[chosen])} the time)" for m in both if m != chosen]
        says = (
            f"Use {title(chosen)}: it is as good as the best by both measures ({tone[chosen]:.2f} dB in the holes, "
            f"perceptual distance {look[chosen]:.4f}) and the fastest of them, {pace}; as good: {', '.join(slower)}"
        )
    else:
        second = min(rest, key=look.__getitem__)
        ahead = look[chosen] <= look[second] and tone[chosen] >= max(tone.values())
        it = "it" if ahead else "on the whole it"
        says = (
            f"Use {title(chosen)}: {it} comes closest to what was there ({tone[chosen]:.2f} dB in the holes, "
            f"perceptual distance {look[chosen]:.4f}; {title(second)}, the next by its looks, {tone[second]:.2f} dB "
            f"and {look[second]:.4f}), {pace}"
        )
        quick = min(rest, key=seconds.__getitem__)
        if seconds[quick] * 2 < seconds[chosen]:
            says += f", {_times(seconds[chosen], seconds[quick])} the time of {title(quick)}"
    if both and chosen not in networks and any(method in networks for method in methods):
        says += "; on these pictures no network is needed"
    behind = [method for method in methods if method not in (both or (chosen, nearest))]
    if not all(
        _certain([own - best for own, best in zip(looks[method], looks[chosen], strict=True)])
        or _certain([best - own for own, best in zip(tones[method], tones[nearest], strict=True)])
        for method in behind
    ):
        count = len(by[chosen])
        says += f"; {counted(count, ('place leaves', 'places leave'))} room for chance, and more --places tell more"
    return Advice(chosen, says + ".")


def _certain(ahead: Sequence[float]) -> bool:
    """Whether a lead, hole by hole, is more than chance: its mean more than two standard errors."""
    if len(ahead) < 2:
        return False
    return float(np.mean(ahead)) > 2 * float(np.std(ahead, ddof=1)) / math.sqrt(len(ahead))


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"


def _times(one: float, other: float) -> str:
    ratio = one / max(other, 1e-9)
    return f"{ratio:.1f} times" if ratio < 9.95 else f"{ratio:,.0f} times"


# ---------------------------------------------------------------- the page


def _show(found: Comparison, trials: Sequence[_Trial], folder: Folder, todo: JobList, emit: Listener) -> None:
    started = time.monotonic()
    advice = found.advice
    assert advice is not None
    columns, rows, bold = found.table()
    now = datetime.now().astimezone()
    where = Path(common_folder([str(job.image.parent if len(todo.jobs) > 1 else job.image) for job in todo.jobs]))
    figures = (
        ("places", f"{found.measured:,}"),
        ("pictures", f"{len({item.picture for item in found.items}):,}"),
        ("methods", str(len(found.methods))),
        ("punched", share(float(np.mean([trial.ratio for trial in trials])))),
        ("time", duration(found.seconds)),
    )
    page = Page(
        "Comparison of methods", where.absolute().name,
        f"{now.day} {now:%B %Y, %H:%M %Z} · pconv {__version__}", advice.sentence, figures,
        (Grid(f"Means over {counted(found.measured, ('place', 'places'))}; the best are bold.", tuple(columns),
              tuple(map(tuple, rows)), tuple(sorted(bold))),),
        tuple(Failure(one.name, one.path, one.reason) for one in found.failures), found.notices, "Places",
        (("lost", "where the recommended method loses most"), ("far", "largest distance first"),
         ("damage", "largest holes first")),
        tuple(_entry(trial, advice.method) for trial in trials),
        {**found.settings, **{f"sha256 of {name}": digest or "–" for name, digest in found.weights.items()},
         "seconds": round(found.seconds, 3)},
        FOOTNOTES,
    )  # fmt: skip
    path = folder.write(page, found.document(), found.as_csv())
    emit(ReportWritten(str(path), round(time.monotonic() - started, 3)))


def _entry(trial: _Trial, chosen: str) -> Entry:
    """One place: what was punched beside what the recommended method made of it, then the others and the truth."""
    first = [trial.views[""], trial.views[chosen]]
    views = (*first, *(view for name, view in trial.views.items() if name not in ("", chosen)))
    own = {one.method: one for one in trial.measured}
    facts = [("punched", share(trial.ratio))]
    facts += [(title(name), f"{one.psnr_hole:.1f} dB, {one.perceptual:.3f}") for name, one in own.items()]
    far = own[chosen].perceptual
    order = {"lost": far - min(one.perceptual for one in own.values()), "far": far, "damage": trial.ratio}
    sheet = Sheet("place", trial.where.width, trial.where.height, 1.0, views, trial.mask)
    return Entry(trial.name, "", tuple(facts), order, (), tuple(first), (sheet,))
