"""What happens during a run, as frozen values. Whoever wants to know passes a `Listener`; nobody here prints.

This module does not know what is done with an event: a bar, a line, JSON, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RunStarted:
    """The run begins: what runs where, and how many pictures there are."""

    items: int
    weights: str
    device: str
    precision: str


@dataclass(frozen=True)
class ItemStarted:
    """A picture was read and planned."""

    name: str
    tiles: int


@dataclass(frozen=True)
class TilesDone:
    """Some tiles left the device."""

    tiles: int
    pixels: int


@dataclass(frozen=True)
class ItemDone:
    """A picture is finished: `status` is `restored` or `copied` (no damage)."""

    name: str
    output: str
    status: str
    hole_share: float
    tiles: int
    notices: tuple[str, ...] = ()


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
    """The run is over: counts and the wall-clock time in seconds."""

    restored: int
    copied: int
    failed: int
    not_done: int
    tiles: int
    seconds: float


@dataclass(frozen=True)
class TrainStarted:
    """Training begins."""

    photos: int
    steps: int
    first: int
    device: str
    precision: str


@dataclass(frozen=True)
class TrainStep:
    """One step of training is done; `losses` are the terms, unweighted."""

    step: int
    loss: float
    rate: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Validated:
    """The network was measured on held-out pictures: PSNR in the holes, dB, and that of the pyramid alone."""

    step: int
    psnr: float
    floor: float


Event = (
    RunStarted | ItemStarted | TilesDone | ItemDone | ItemFailed | Notice | RunFinished
    | TrainStarted | TrainStep | Validated
)  # fmt: skip
Listener = Callable[[Event], None]
