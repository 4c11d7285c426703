"""What is written beside a result, for those who must be able to tell what was restored, how sure that is, by what.

Knows what maps say, which pixels count as restored, and what goes into the provenance of a picture. Does not know file
formats, XML, networks, or when a picture is read and written: `restore` and `tile` ask.

*Restored* are the pixels that hold what the tool has made up: the damage as it was filled in the end, grown and all,
without what could not be filled and without what a format keeps transparent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pconv_cli import files, provenance
from pconv_cli.confidence import steps_in_block
from pconv_cli.errors import ItemError, UsageError, unwritable
from pconv_cli.regions import Window
from pconv_cli.settings import Settings

if TYPE_CHECKING:
    from pconv_cli.filling import Filling

_GAP = 512  # columns without damage that are worth jumping over


def folders(settings: Settings) -> list[Path]:
    """Where maps are to be saved."""
    return [folder for _, folder in _options(settings)]


def check(settings: Settings) -> None:
    """Make sure that maps can be told apart, and that the date of the provenance can be told.

    Raises:
        UsageError: They cannot.
    """
    for option, folder in _options(settings):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{option} {folder}: is a file: give a folder")
    filled, confidence = settings.save_filled, settings.save_confidence
    if filled is not None and confidence is not None and os.path.realpath(filled) == os.path.realpath(confidence):
        raise UsageError(f"--save-filled and --save-confidence are both {filled}: their files have the same names")
    if settings.provenance:
        provenance.now()


def prepare(settings: Settings) -> None:
    """Make the folders of maps, and find out before hours of work whether they can be written.

    Raises:
        OutputError: They cannot.
    """
    for option, folder in _options(settings):
        files.prepare(folder, option, "folder")


def _options(settings: Settings) -> list[tuple[str, Path]]:
    both = ("--save-filled", settings.save_filled), ("--save-confidence", settings.save_confidence)
    return [(option, folder) for option, folder in both if folder is not None]


# ---------------------------------------------------------------- maps


def restored(fillings: Iterable[Filling], window: Window) -> NDArray[np.bool_]:
    """Which pixels of a window were restored, `(h, w)`; of several layers, in any of them."""
    found = np.zeros((window.height, window.width), np.bool_)
    for filling in _apart(fillings):
        found |= filling.restored(window)
    return found


def white(plane: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask as it stands in a file: 255 where True, 0 elsewhere."""
    return np.asarray(plane.astype(np.uint8) * np.uint8(255))


def confidence(fillings: Iterable[Filling], window: Window, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Steps of a 3 x 3 partial convolution from what is known to each restored pixel, `(h, w)`.

    Args:
        fillings: Of all layers of the picture, all rounds landed. Of layers that have damage of their own the one
            counts in which a pixel is farthest away.
        window: Which part of the picture.
        size: Height and width of the picture.

    Returns:
        1 beside what is known, 255 from 255 steps on; 0 where nothing was restored.
    """
    found = np.zeros((window.height, window.width), np.uint8)
    for filling in _apart(fillings):
        hole = filling.restored(window)
        for left, right in _stretches(hole):
            part = Window(window.x + left, window.y, right - left, window.height)
            steps = steps_in_block(part, size, lambda around, of=filling: of.known(around, of.plan.damage))  # type: ignore[misc]
            place = found[:, left:right]
            np.maximum(place, np.where(hole[:, left:right], steps, 0), out=place)
    return found


def in_strips(
    plane: Callable[[Window], NDArray[np.uint8]], damaged: Callable[[Window], bool], size: tuple[int, int], rows: int
) -> Iterator[NDArray[np.uint8]]:
    """Give a map from top to bottom, 0 where nothing is damaged.

    Args:
        plane: Gives it for a window.
        damaged: Whether a window holds damage.
        size: Height and width of the picture.
        rows: Rows of a strip.
    """
    height, width = size
    for y in range(0, height, rows):
        strip = Window(0, y, width, min(rows, height - y))
        yield plane(strip) if damaged(strip) else np.zeros((strip.height, width), np.uint8)


def _apart(fillings: Iterable[Filling]) -> Sequence[Filling]:
    """One filling of those that share their damage; raw layers each have values of their own that may be missing."""
    return list({(id(filling.plan), id(filling) if filling.raw else 0): filling for filling in fillings}.values())


def _stretches(hole: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Ranges of columns that hold all damage, wide gaps left out."""
    columns = np.flatnonzero(hole.any(axis=0))
    if len(columns):
        for stretch in np.split(columns, np.flatnonzero(np.diff(columns) > _GAP) + 1):
            yield int(stretch[0]), int(stretch[-1]) + 1


# ---------------------------------------------------------------- provenance


def entry(
    weights: tuple[str, str], mask: Path | None, told_by: str, pixels: int, size: tuple[int, int], dilate: int = 0
) -> provenance.Entry:
    """Put together what the provenance of a picture says.

    Args:
        weights: Name and SHA-256 of the network, as `weights.told` gives them.
        mask: The mask's file; None where the picture shows its damage itself.
        told_by: How it does that.
        pixels: How many were restored.
        size: Height and width of the picture.
        dilate: Pixels by which the damage was grown.

    Raises:
        ItemError: The mask's file cannot be read.
    """
    digest = None
    if mask is not None:
        try:
            digest = provenance.digest(mask)
        except OSError as error:
            raise ItemError(mask, f"cannot be read ({error.strerror}): check the path") from error
    name = told_by if mask is None else mask.name
    return provenance.Entry(*weights, name, digest, pixels, pixels / (size[0] * size[1]), provenance.now(), dilate)


def sidecar(output: Path) -> Path:
    """Where the provenance of a result goes whose file has no place for it: `NAME.EXT.xmp`."""
    return output.with_name(f"{output.name}.xmp")


def write_sidecar(packet: bytes, output: Path, *, overwrite: bool, ready: Callable[[Path], None] | None = None) -> None:
    """Write the sidecar of a result, all of it or nothing; `ready` is told of the finished file before it has its name.

    Raises:
        ItemError: It exists, or the disk says no.
    """
    target = sidecar(output)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target, overwrite=overwrite) as stream:
            stream.write(packet)
            stream.flush()
            if ready is not None:
                ready(Path(stream.name))
    except OSError as error:
        why = files.why_unwritable(error) or f"cannot be written ({error})"
        raise unwritable(target, error, why) from error
