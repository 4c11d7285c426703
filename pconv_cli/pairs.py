"""Which mask is laid over which undamaged picture, and where both are cut.

Knows: names, sizes and holes as values; what a kind of masks is; the buckets. Does not know: what is inside a file,
which formats exist (the caller says which suffixes are readable), methods, measures.

**Buckets.** A mask counts by the share of the picture that it marks: more than 1 and up to 10 %, ... up to 60 %.
Each bucket is split once more: *border* are holes of which any pixel lies within 50 px of the picture's border, *clear*
those that keep 50 px away from it. Table 1 of arXiv 1804.07723 has two such halves: *clear* is what it calls "with
border constraint"; its other half knows no such condition.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli.errors import NothingToDo, UsageError

EDGES = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
BUCKETS: tuple[str, ...] = tuple(f"{EDGES[i]:g}-{EDGES[i + 1]:g}" for i in range(len(EDGES) - 1))
"""Shares of damaged pixels; the lower end does not belong to a bucket, the upper does."""

BORDER = 50
"""Pixels from the border within which a hole is one at the border."""

Pixels = NDArray[np.uint8]
Hole = NDArray[np.bool_]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Pair:
    """A picture and the mask that is laid over it, by name, and the bucket that they fall into (its number)."""

    bucket: int
    picture: str
    mask: str


def find_files(photos: Path, masks: Path, suffixes: Collection[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Find pictures and masks, each in a folder (searched recursively; hidden files are left alone) or a single file.

    Args:
        photos: Where the pictures are. Masks that lie there too are not taken for pictures.
        masks: Where the masks are.
        suffixes: Those that can be read, lower case, with the dot.

    Returns:
        Pictures and masks by their name relative to the folder, with forward slashes, sorted.

    Raises:
        UsageError: If there is no such folder or file.
        NothingToDo: If there is no picture or no mask.
    """
    pictures, found = _found(photos, "pictures", suffixes), _found(masks, "masks", suffixes)
    apart = set(map(os.path.realpath, found.values()))
    pictures = {name: path for name, path in pictures.items() if os.path.realpath(path) not in apart}
    if not pictures:
        raise NothingToDo("no pictures but the masks: PHOTOS and MASKS must be two places")
    return pictures, found


def draw_pairs(
    pictures: Mapping[str, Size], masks: Mapping[str, Mapping[Size, int | None]], per_bucket: int, seed: int
) -> tuple[Pair, ...]:
    """Choose which mask is laid over which picture.

    In each bucket the kinds of masks take turns (a kind is what stands before the first "_" of a file's name), and
    pictures take turns over all buckets. No pair comes twice; a mask may come again, with another picture.

    Args:
        pictures: Size of each picture, by name.
        masks: For each mask the number of the bucket that it falls into when it is laid over a picture of a given
            size, or None where there is none: see `buckets_over`.
        per_bucket: Most pairs in a bucket; there are fewer only where there are no more.
        seed: Which of the possible pairs.

    Returns:
        The pairs, bucket by bucket. The same for the same names, sizes and seed, in whatever order they are given.
    """
    order = shuffled(pictures, seed)
    turn = 0
    drawn: list[Pair] = []
    for bucket in range(len(BUCKETS)):
        kinds: dict[str, list[str]] = {}
        for mask in shuffled((name for name, of in masks.items() if bucket in of.values()), seed):
            kinds.setdefault(_kind(mask), []).append(mask)
        turns: Counter[str] = Counter()
        times: Counter[str] = Counter()
        used: set[tuple[str, str]] = set()
        passed = 0
        while len(used) < per_bucket and passed < len(order):
            picture = order[turn % len(order)]
            turn += 1
            for kind in sorted(kinds, key=turns.__getitem__):
                fits = [m for m in kinds[kind] if masks[m][pictures[picture]] == bucket and (picture, m) not in used]
                if fits:
                    mask = min(fits, key=times.__getitem__)
                    turns[kind] += 1
                    times[mask] += 1
                    used.add((picture, mask))
                    drawn.append(Pair(bucket, picture, mask))
                    passed = -1
                    break
            passed += 1  # all pictures in a row without a mask: there is no other pair
    return tuple(drawn)


def buckets_over(hole: Hole, sizes: Iterable[Size]) -> dict[Size, int | None]:
    """Numbers of the buckets that a hole, `(h, w)`, falls into over pictures of each size, cut to the common centre."""
    return {size: bucket_of(float(_centre(hole, size).mean())) for size in sizes}


def bucket_of(ratio: float) -> int | None:
    """Number of the bucket of a share of damaged pixels, or None where it is in none."""
    number = bisect_left(EDGES, ratio) - 1
    return number if 0 <= number < len(BUCKETS) else None


def at_border(hole: Hole) -> bool:
    """Tell whether a pixel of a hole, `(h, w)`, lies within 50 px of the border."""
    return bool(hole.sum() > hole[BORDER:-BORDER, BORDER:-BORDER].sum())


def common_centre(picture: Pixels, hole: Hole) -> tuple[Pixels, Hole]:
    """Cut a picture, `(h, w, 3)`, and a hole, `(h, w)`, of any other size, to their common centre; views, no copies."""
    return _centre(picture, hole.shape), _centre(hole, picture.shape)


def _centre(array: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """The centre of a picture, no larger than a size on each side."""
    height, width = min(array.shape[0], size[0]), min(array.shape[1], size[1])
    top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
    return array[top : top + height, left : left + width]


def _found(root: Path, what: str, suffixes: Collection[str]) -> dict[str, Path]:
    if root.is_file():
        return {root.name: root}
    if not root.is_dir():
        raise UsageError(f"{root}: not found; {what} are looked for there: check the path")
    named = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    found = {
        name: named[name]
        for name in sorted(named)
        if named[name].suffix.lower() in suffixes
        and not any(part.startswith(".") for part in name.split("/"))
        and not named[name].is_dir()
    }
    if not found:
        raise NothingToDo(f"no {what} in {root}: looked for {', '.join(sorted(suffixes))}")
    return found


def _kind(mask: str) -> str:
    return PurePosixPath(mask).stem.partition("_")[0]


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Bring names into an order that looks random, and stays as it is when names are added or a library changes."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest())
