"""Photographs to train on, and masks: which files of a folder count, read once, on the device.

Knows: folders, what in them is none of theirs, what cannot be used and how that is told. Does not know: networks,
batches, settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pconv_cli.errors import ItemError, NothingToDo, UsageError
from pconv_cli.events import Listener, Notice
from pconv_cli.images import READ_SUFFIXES, read_mask, read_picture

SHEET = ".sheet.png"  # what the name of a training's sheet adds to that of its weights


def take_photos(
    folder: Path, smallest: int, masks: Path | None, held_out: int, emit: Listener, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Photographs to train on and to measure with, on the device; of too few, the first serves for both."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder of photographs")
    photos, unused = load_photos(folder, smallest, masks)
    _tell(unused, emit)
    count = min(held_out, len(photos) // 10)
    held = {round(i * len(photos) / max(1, count)) for i in range(count)}
    moved = [torch.tensor(photo, device=device).permute(2, 0, 1).contiguous() for photo in photos]
    return [p for i, p in enumerate(moved) if i not in held], [moved[i] for i in sorted(held)] or moved[:1]


def take_masks(folder: Path, photos: Path, emit: Listener, device: torch.device) -> list[Tensor]:
    """The masks of a folder that may lie in that of the photographs, on the device, True where damaged."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder of masks; say with --masks where they are")

    def load(path: Path) -> NDArray[np.bool_] | ItemError:
        try:
            hole = read_mask(path).hole
        except ItemError as error:
            return error
        if hole.any() and not hole.all():
            return hole
        return ItemError(path, "marks everything or nothing as damaged; leave it out")

    found, unused = _loaded(_pictures(folder, photos), load)
    _tell(unused, emit)
    if not found:
        raise UsageError(f"{folder}: no mask in it that can be used; white = damaged")
    return [torch.tensor(mask, device=device) for mask in found]


def load_photos(
    folder: Path, smallest: int, masks: Path | None = None
) -> tuple[list[NDArray[np.uint8]], list[ItemError]]:
    """Decode every picture of a folder, once.

    Args:
        folder: Searched recursively, in the order of names.
        smallest: Pictures with a shorter side (pixels) are left out.
        masks: A folder whose pictures are masks; it may lie in the other.

    Returns:
        The pictures, `(h, w, 3)` RGB, and what could not be used.

    Raises:
        NothingToDo: If no picture can be used.
    """

    def load(path: Path) -> NDArray[np.uint8] | ItemError:
        try:
            photo = read_picture(path).as_a_whole().rgb()
        except ItemError as error:
            return error
        if min(photo.shape[:2]) < smallest:
            return ItemError(path, f"smaller than the {smallest} px crops; choose a smaller --size")
        return photo

    photos, unused = _loaded(_pictures(folder, masks), load)
    broken = [error for error in unused if not _is_small(error)]
    if broken and not photos:
        more = f" (and {len(unused) - 1} more that cannot be used)" if len(unused) > 1 else ""
        raise NothingToDo(f"{folder}: no picture to train on: {broken[0]}{more}")
    if not photos:
        raise NothingToDo(f"{folder}: no picture with a short side of {smallest} px or more to train on")
    return photos, unused


def told_apart(
    folder: Path, other: Path | None, what: str, before: dict[str, Any] | None, emit: Listener
) -> dict[str, Any]:
    """Tell a folder's pictures from others: how many files, and a digest of their names and sizes in bytes.

    The folder's own place is no part of it, so it may move. Where a training began with others, `before`, that is said.
    """
    found = [(path.relative_to(folder).as_posix(), path.lstat().st_size) for path in _pictures(folder, other)]
    now = {"files": len(found), "digest": hashlib.sha256(json.dumps(found).encode()).hexdigest()}
    if before is not None and before != now:
        counts = f"{before['files']} files then, {now['files']} now, or others"
        emit(Notice(f"{folder}: not the {what} that the checkpoint was trained on ({counts}); goes on with these"))
    return now


def _loaded(
    paths: list[Path], load: Callable[[Path], NDArray[Any] | ItemError]
) -> tuple[list[NDArray[Any]], list[ItemError]]:
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(load, paths))
    errors = [result for result in results if isinstance(result, ItemError)]
    return [result for result in results if not isinstance(result, ItemError)], errors


def _pictures(folder: Path, other: Path | None) -> list[Path]:
    """Find a folder's pictures: without what is hidden, sheets of ours, and another folder in it that holds others."""
    root, apart = folder.resolve(), other and other.resolve()
    found = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in READ_SUFFIXES or path.is_dir() or path.name.endswith(f".safetensors{SHEET}"):
            continue
        if any(part.startswith(".") for part in inside.parts):
            continue
        if apart and root in apart.parents and (root / inside).is_relative_to(apart):
            continue
        found.append(path)
    return sorted(found)


def _is_small(error: ItemError) -> bool:
    return error.reason.startswith("smaller")


def _tell(unused: Sequence[ItemError], emit: Listener) -> None:
    unused = sorted(unused, key=_is_small)  # what is broken first
    for error in unused[:3]:
        emit(Notice(str(error)))
    if len(unused) > 3:
        emit(Notice(f"{len(unused) - 3} more cannot be used for the like reasons"))
