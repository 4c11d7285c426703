"""Directories of TIFF files as plain bytes: read their tags, give the first one further ones, look into JPEG tables.

It knows how a directory lies in a file, classic and BigTIFF, in both byte orders, which bytes are its blocks', and what
tags are about the layout of one file alone. It does not know GDAL, pixels, or how a file gets its place: the private
part of `tiff` and its kin.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

Value: TypeAlias = tuple[int, int, bytes]  # type, count, and bytes in the file's own order

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_REDUCED, _MASK = 1, 4  # what a page is, in tag 254
_MOST = 0xFFFF  # tags in a directory; GDAL takes no more either
_PIECE = 2**24  # bytes that are copied at once
_LETTERS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}
LAYOUT = frozenset(
    [*range(254, 260), *range(262, 267), 273, *range(277, 282), 284, 292, 293, 317, 320, *range(322, 326)]
) | frozenset([332, 334, *range(338, 342), 347, *range(512, 522), *range(529, 533), 50674])
"""Tags of how the pixels of one file lie in it: the writer of another decides these anew."""
# What points elsewhere in its own file, or shows the picture once more, with its damage.
POINTERS = {330: "embedded previews", 34665: "EXIF", 34853: "GPS", 37724: "Photoshop layers"}


@dataclass(frozen=True)
class Directory:
    """The first directory of a TIFF file, or one that it leads to.

    Attributes:
        path: The file.
        order: "<" or ">".
        big: Whether it is a BigTIFF.
        entries: Tag to the rest of its entry as stored: type, count, and value or position.
        places: Tag to where in the file that stands.
        following: Position of the next directory, 0 after the last.
    """

    path: Path
    order: str
    big: bool
    entries: dict[int, bytes] = field(repr=False)
    places: dict[int, int] = field(repr=False)
    following: int

    @classmethod
    def first(cls, path: Path) -> Directory:
        """Read it from a file that is known to be a TIFF.

        Raises:
            ValueError: It is damaged.
            OSError: The disk says no.
        """
        return cls._at(path, *_head(path))

    @classmethod
    def all(cls, path: Path) -> list[Directory]:
        """Read all that a file has, the first one first, with those below them. What is damaged is passed over.

        Raises:
            ValueError: The file's head is damaged.
            OSError: The disk says no.
        """
        order, big, at = _head(path)
        found, waiting, seen = [], [at], set[int]()
        while waiting:
            at = waiting.pop()
            if at and at not in seen:
                seen.add(at)
                with suppress(ValueError):
                    one = cls._at(path, order, big, at)
                    found.append(one)
                    waiting += [one.following, *(_all_numbers(one, 330).tolist() if 330 in one.entries else ())]
        return found

    @classmethod
    def _at(cls, path: Path, order: str, big: bool, at: int) -> Directory:
        counter, word, size = ("Q", "Q", 20) if big else ("H", "L", 12)
        with path.open("rb") as stream, _whole_or_damaged():
            stream.seek(at)
            (count,) = struct.unpack(order + counter, stream.read(struct.calcsize(order + counter)))
            if count > _MOST:
                raise OverflowError
            table = stream.read(count * size)
            (following,) = struct.unpack(order + word, stream.read(struct.calcsize(order + word)))
        entries: dict[int, bytes] = {}
        places: dict[int, int] = {}
        for start in range(0, count * size, size):
            (tag,) = struct.unpack_from(order + "H", table, start)
            entries.setdefault(tag, table[start + 2 : start + size])
            places.setdefault(tag, at + struct.calcsize(order + counter) + start + 2)
        return cls(path, order, big, entries, places, following)

    def previews(self) -> Iterator[Directory]:
        """Directories of smaller views of the picture: pages that follow and say that they are, and all below this one.

        Masks are none. What is damaged is passed over.
        """
        at, seen = self.following, set[int]()
        with suppress(ValueError):
            while at and at not in seen:
                seen.add(at)
                page = self._at(self.path, self.order, self.big, at)
                if not page.number(254, 0) & _REDUCED:
                    break
                if not page.number(254, 0) & _MASK:
                    yield page
                at = page.following
        for at in self.numbers(330) if 330 in self.entries else ():
            with suppress(ValueError):
                below = self._at(self.path, self.order, self.big, at)
                if not below.number(254, 0) & _MASK:
                    yield below

    def is_view_of(self, other: Directory) -> bool:
        """Whether it says that it is a smaller view, of as many values a pixel as another has, and of the same type."""
        types = [(tiff.number(277, 1), tiff.number(258, 1), tiff.number(339, 1)) for tiff in (self, other)]
        return bool(self.number(254, 0) & _REDUCED) and types[0] == types[1]

    def value(self, tag: int, most: int = 2**20) -> Value:
        """A tag's value; of a long one only the first `most` bytes, and no more than there are.

        Raises:
            ValueError: It is said to lie where no file reaches.
            OSError: The disk says no.
        """
        entry = self.entries[tag]
        kind, count = struct.unpack_from(self.order + ("HQ" if self.big else "HL"), entry)
        place = entry[10:] if self.big else entry[6:]
        length = count * _SIZES.get(kind, 1)
        if length <= len(place):
            return kind, count, place[:length]
        with self.path.open("rb") as stream, _whole_or_damaged():
            room = stream.seek(0, os.SEEK_END)
            at = stream.seek(struct.unpack(self.order + ("Q" if self.big else "L"), place)[0])
            return kind, count, stream.read(max(min(length, most, room - at), 0))

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The first values of a tag of integers."""
        kind, _, data = self.value(tag, 64)
        letter = _LETTERS.get(kind, "B")
        whole, rest = divmod(len(data), struct.calcsize(self.order + letter))  # the last may be cut
        return struct.unpack(f"{self.order}{whole}{letter}", data[: len(data) - rest])

    def number(self, tag: int, default: int | None = None) -> int:
        """The first value of a tag of integers, or what stands for it where the tag is missing or empty.

        Raises:
            ValueError: Nothing stands for it.
        """
        values = self.numbers(tag) if tag in self.entries else ()
        if not values and default is None:
            raise ValueError(f"tag {tag} is missing")
        return values[0] if values else default or 0


def cut_short(tiff: Directory) -> bool:
    """Whether any block of a file would lie beyond its end, and so where others will be put as soon as it grows."""
    end = tiff.path.stat().st_size
    starts, lengths = _extents(tiff)
    told = _tags_of_blocks(tiff)[1] in tiff.entries
    if not told or tiff.number(259, 1) == 1:  # some claim whole strips where fewer rows are left: those can be read
        lengths = np.minimum(lengths, 1)
    return bool(((lengths > 0) & (starts > 0) & (starts + lengths > end)).any())


@dataclass(frozen=True)
class Shared:
    """Blocks of a directory that have bytes in common with other blocks of the file.

    Attributes:
        tiff: The directory.
        numbers: Which of its blocks those are.
        lengths: How many bytes each of them has.
    """

    tiff: Directory
    numbers: list[int]
    lengths: list[int]


def shared(path: Path, numbers: Collection[int]) -> list[Shared]:
    """Blocks that are to be written and have bytes in common with others, which would change with them.

    Args:
        path: The file.
        numbers: Blocks of the first directory that are to be written. Where there are any, so are all of smaller views
            and of masks.
    """
    found: list[tuple[Directory, bool]] = []
    extents: list[tuple[NDArray[np.uint64], NDArray[np.uint64]]] = []
    for one in Directory.all(path) if numbers else []:
        with suppress(ValueError):  # of what is damaged GDAL knows nothing either
            smaller = bool(one.number(254, 0) & (_REDUCED | _MASK))
            extents.append(_extents(one))
            found.append((one, smaller))
    if not found:
        return []
    end = path.stat().st_size
    starts, lengths = (np.concatenate(columns) for columns in zip(*extents, strict=True))
    starts = np.minimum(starts, end)
    lengths = np.where(starts > 0, np.minimum(lengths, end - starts), 0)
    order = np.flatnonzero(lengths)
    order = order[np.argsort(starts[order])]
    first, last = starts[order], starts[order] + lengths[order]
    common = np.zeros(len(starts), np.bool_)
    common[order[1:]] = first[1:] < np.maximum.accumulate(last)[:-1]
    common[order[:-1]] |= last[:-1] > first[1:]
    result, at = [], 0
    for index, ((one, smaller), (own, _)) in enumerate(zip(found, extents, strict=True)):
        count = len(own)
        written = sorted(numbers) if not index else range(count if smaller else 0)
        chosen = [number for number in written if number < count and common[at + number]]
        if chosen:
            result.append(Shared(one, chosen, [int(lengths[at + number]) for number in chosen]))
        at += count
    return result


def part_shared(path: Path, numbers: Collection[int]) -> None:
    """Give what `shared` finds bytes of its own, at the end of the file: a copy of what it has."""
    for one in shared(path, numbers):
        tiff = one.tiff
        word, room = ("Q", 8) if tiff.big else ("L", 4)
        offset, size = _tags_of_blocks(tiff)
        starts = _all_numbers(tiff, offset)
        # The tables of positions and lengths may be another directory's as well.
        values = {size: tiff.value(size, 2**32)} if size in tiff.entries else {}
        with path.open("r+b") as stream:
            for number, length in zip(one.numbers, one.lengths, strict=True):
                old, new = int(starts[number]), _append(stream, b"")
                for at in range(0, length, _PIECE):
                    stream.seek(old + at)
                    piece = stream.read(min(_PIECE, length - at))
                    stream.seek(new + at)
                    stream.write(piece)
                starts[number] = new
            values[offset] = (16 if tiff.big else 4, len(starts), starts.astype(f"{tiff.order}u{room}").tobytes())
            for tag, (kind, count, data) in values.items():
                place = data.ljust(room, b"\0")
                if len(data) > room:
                    place = struct.pack(tiff.order + word, _append(stream, data))
                stream.seek(tiff.places[tag])
                stream.write(struct.pack(tiff.order + "H" + word, kind, count) + place)


def graft(path: Path, tags: dict[int, Value]) -> None:
    """Give a TIFF file's first directory further tags.

    The directory is written once more at the file's end; all else stays where it is.

    Args:
        path: The file.
        tags: Tag to its value, in the file's byte order.
    """
    if not tags:
        return
    directory = Directory.first(path)
    order, big = directory.order, directory.big
    counter, word, room = ("Q", "Q", 8) if big else ("H", "L", 4)
    entries = dict(directory.entries)
    with path.open("r+b") as stream:
        for tag, (kind, count, data) in tags.items():
            place = data.ljust(room, b"\0")
            if len(data) > room:
                place = struct.pack(order + word, _append(stream, data))
            entries[tag] = struct.pack(order + "H" + word, kind, count) + place
        table = b"".join(struct.pack(order + "H", tag) + entries[tag] for tag in sorted(entries))
        head = struct.pack(order + counter, len(entries))
        at = _append(stream, head + table + struct.pack(order + word, directory.following))
        stream.seek(8 if big else 4)
        stream.write(struct.pack(order + word, at))


def graft_from(source: Directory, path: Path) -> list[str]:
    """Give a TIFF file those tags of another one that it lacks and that are not about layout.

    Returns:
        The names of those that cannot be given.
    """
    target = Directory.first(path)
    missing = source.entries.keys() - target.entries.keys() - LAYOUT
    same_order = source.order == target.order
    values = {tag: source.value(tag, 2**32) for tag in missing - POINTERS.keys()}
    plain = {tag: value for tag, value in values.items() if same_order or _SIZES.get(value[0]) == 1}
    graft(path, plain)
    return [POINTERS.get(tag, f"tag {tag}") for tag in sorted(missing - plain.keys())]


def shared_jpeg_tables(tiff: Directory, tables_of: Callable[[int], bytes]) -> bytes | None:
    """JPEG tables to give to a file whose blocks have quantisation tables of their own; those keep to their own.

    Args:
        tiff: Directory of a file that is JPEG-compressed.
        tables_of: Makes the tables, a JPEG stream, of a quality from 1 to 100.

    Returns:
        Tables of the lowest quality that is nowhere coarser than the first block's, with what is shared already; None
        if there are shared quantisation tables already.
    """
    shared = tiff.value(347)[2] if 347 in tiff.entries else b"\xff\xd8\xff\xd9"
    if _quantisation(shared):
        return None
    offset, size = _tags_of_blocks(tiff)
    with tiff.path.open("rb") as stream:
        stream.seek(tiff.number(offset))
        own = _quantisation(stream.read(min(tiff.number(size), 2**16)))
    low, high = (1, 100) if own else (95, 95)
    while low < high:
        middle = (low + high) // 2
        made = _quantisation(tables_of(middle))
        pairs = [pair for key in made.keys() & own.keys() for pair in zip(made[key], own[key], strict=False)]
        low, high = (low, middle) if all(value <= limit for value, limit in pairs) else (middle + 1, high)
    return tables_of(low)[:-2] + shared[2:]


def _head(path: Path) -> tuple[str, bool, int]:
    """Byte order of a file, whether it is a BigTIFF, and where its first directory is."""
    with path.open("rb") as stream, _whole_or_damaged():
        head = stream.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        (at,) = struct.unpack_from(order + ("Q" if big else "L"), head, 8 if big else 4)
    return order, big, at


def _tags_of_blocks(tiff: Directory) -> tuple[int, int]:
    """The tags that say where a directory's tiles or strips are, and how long."""
    return (324, 325) if 324 in tiff.entries else (273, 279)


def _extents(tiff: Directory) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Where the blocks of a directory begin, and how many bytes each of them has; no end where that is not told."""
    offset, size = _tags_of_blocks(tiff)
    starts = _all_numbers(tiff, offset) if offset in tiff.entries else np.zeros(0, np.uint64)
    lengths = _all_numbers(tiff, size) if size in tiff.entries else np.full_like(starts, 2**62)
    count = min(len(starts), len(lengths))
    return starts[:count], lengths[:count]


def _all_numbers(tiff: Directory, tag: int) -> NDArray[np.uint64]:
    """All values of a tag of integers that are in the file."""
    kind, _, data = tiff.value(tag, 2**32)
    size = _SIZES.get(kind, 1)
    return np.frombuffer(data[: len(data) // size * size], f"{tiff.order}u{size}").astype(np.uint64)


@contextmanager
def _whole_or_damaged() -> Iterator[None]:
    try:
        yield
    except (struct.error, OverflowError, ValueError):
        raise ValueError("its tags cannot be read") from None  # Python would tell of buffers


def _append(stream: IO[bytes], data: bytes) -> int:
    """Write at an even position at the end of a file, and return it."""
    end = stream.seek(0, os.SEEK_END)
    stream.write(b"\0" * (end % 2) + data)
    return end + end % 2


def _quantisation(stream: bytes) -> dict[int, bytes]:
    """Quantisation tables of 8 bits in a JPEG stream, by number."""
    found, at = {}, 2
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] not in (0xD9, 0xDA):
        (length,) = struct.unpack_from(">H", stream, at + 2)
        if stream[at + 1] == 0xDB:
            tables = stream[at + 4 : at + 2 + length]
            for start in range(0, len(tables), 65):
                found[tables[start]] = tables[start + 1 : start + 65]
        at += 2 + length
    return found
