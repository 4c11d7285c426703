"""What happens during a run, as frozen values. Whoever wants to know passes a `Listener`; nobody here prints.

This module does not know what is done with an event: a bar, a line, JSON, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RunStarted:
    """The run begins: what runs where, why in this precision, and how many pictures there are."""

    items: int
    weights: str
    device: str
    precision: str
    precision_reason: str


@dataclass(frozen=True)
class ItemStarted:
    """A picture was read and planned."""

    name: str
    tiles: int


@dataclass(frozen=True)
class TilesDone:
    """Some tiles left the device, or were `done_before`: computed by an earlier run."""

    tiles: int
    pixels: int
    done_before: bool = False


@dataclass(frozen=True)
class ItemDone:
    """A picture is finished: `status` is `restored`, `copied` (no damage) or `done_before` (by an earlier run)."""

    name: str
    output: str
    status: str
    hole_share: float
    tiles: int
    notices: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class ProcessesStarting:
    """So many processes are going to read and write pictures; it takes some seconds until they do."""

    processes: int


@dataclass(frozen=True)
class AllThere:
    """Every result is there before anything has begun, and must not be replaced: all items are going to fail."""

    items: int
    output: str


@dataclass(frozen=True)
class ItemFailed:
    """A picture could not be restored: `path` is the file at fault, `reason` says why, and the way out."""

    name: str
    image: str
    path: str
    reason: str


@dataclass(frozen=True)
class Notice:
    """Something the user should know that is no failure."""

    text: str


@dataclass(frozen=True)
class RunFinished:
    """The run is over: counts, the wall-clock time in seconds, and where the results are."""

    restored: int
    copied: int
    failed: int
    not_done: int
    done_before: int
    tiles: int
    seconds: float
    output: str = ""


@dataclass(frozen=True)
class TrainStarted:
    """Training begins, at the step `first`; `steps` is None where it goes by the clock.

    `photos` are trained on, and `held_out` more are kept for validation; where that is 0, the first of the former is
    what is measured on.
    """

    photos: int
    steps: int | None
    first: int
    device: str
    precision: str
    held_out: int = 0


@dataclass(frozen=True)
class TrainStep:
    """A step of training is done; `losses` are the terms, unweighted, `progress` the share of the training."""

    step: int
    loss: float
    rate: float
    losses: dict[str, float]
    progress: float


@dataclass(frozen=True)
class TrainFinished:
    """Weights, and a sheet of fills, are saved; `complete` tells whether all that was asked for was done."""

    out: str
    sheet: str
    step: int
    complete: bool


@dataclass(frozen=True)
class Validated:
    """The network was measured on held-out pictures, and beside it the pyramid alone (`floor_`).

    Attributes:
        step: After which step.
        seconds: Of training so far.
        psnr: In the holes, dB; here and below, a crop counts as 100 dB at most, since one filled exactly has infinitely
            many.
        ssim: In the holes.
        perceptual: Distance of whole pictures, see `metrics.perceptual_distance`.
        scratch: PSNR in the holes, dB, where only thin scratches and hairs are damaged.
        coarse: PSNR in the holes of reduced pictures, dB, of a network's coarse part; None without one, or
            where no damage is large enough for it.
    """

    step: int
    seconds: float
    psnr: float
    ssim: float
    perceptual: float
    scratch: float
    floor_psnr: float
    floor_ssim: float
    floor_perceptual: float
    floor_scratch: float
    coarse: float | None = None
    floor_coarse: float | None = None


@dataclass(frozen=True)
class CheckStarted:
    """Pictures are about to be looked at."""

    items: int


@dataclass(frozen=True)
class ItemChecked:
    """A picture and its mask were read: `reason` says what is wrong with them, if anything is."""

    name: str
    reason: str | None


@dataclass(frozen=True)
class MasksStarted:
    """Masks are about to be made: of how many pictures, and what marks or shows damage."""

    items: int
    how: str


@dataclass(frozen=True)
class MaskMade:
    """A mask is written: the share of the picture that it marks, and how many places were found."""

    name: str
    output: str
    share: float
    components: int
    notices: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class MasksFinished:
    """All masks are made: counts, the wall-clock time in seconds, and where they are."""

    made: int
    failed: int
    not_done: int
    seconds: float
    output: str = ""
    done_before: int = 0


@dataclass(frozen=True)
class EvaluationStarted:
    """Holes are about to be filled and measured: how many pairs of a picture and a mask, by which methods."""

    pairs: int
    methods: tuple[str, ...]
    device: str
    precision: str


@dataclass(frozen=True)
class PairMeasured:
    """Every method has filled one hole and was measured: `ratio` is the share of the picture that is damaged."""

    name: str
    mask: str
    bucket: str
    ratio: float


@dataclass(frozen=True)
class EvaluationFinished:
    """The evaluation is over: counts of pairs and files, and the wall-clock time in seconds."""

    measured: int
    failed: int
    not_done: int
    seconds: float


@dataclass(frozen=True)
class ReportStarted:
    """The run is over, and a page is made of it: how many pictures it is going to show."""

    items: int


@dataclass(frozen=True)
class ItemShown:
    """A picture is on the page."""

    name: str


@dataclass(frozen=True)
class ReportWritten:
    """The page is there; the time it took in seconds."""

    path: str
    seconds: float


Event = (
    RunStarted | ProcessesStarting | AllThere | ItemStarted | TilesDone | ItemDone | ItemFailed | Notice | RunFinished
    | TrainStarted | TrainStep | Validated | TrainFinished
    | MasksStarted | MaskMade | MasksFinished
    | CheckStarted | ItemChecked | EvaluationStarted | PairMeasured | EvaluationFinished
    | ReportStarted | ItemShown | ReportWritten
)  # fmt: skip
Listener = Callable[[Event], None]
