"""JPEG in, JPEG out: new coefficients for the blocks that a hole touches, the file's own for all others.

It knows JPEG segments, how libjpeg finds out what a file's components mean, sampling factors, the cosine transform and
quantisation; Huffman codes are read and written by the libjpegs that jpeglib brings along. It does not know Pillow,
paths, what metadata says, or what to do where it refuses: the private part of `writing`; `images` asks where it ends.

In a block that is touched, samples out of the hole's reach are taken from the old coefficients, unclipped and before
any conversion of colours, and quantised once more. That keeps them closer than their decoded pixels would.
"""

from __future__ import annotations

import ctypes
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

_Segments: TypeAlias = list[tuple[int, bytes]]  # marker; all bytes of it, a scan's coded data included
_Plane: TypeAlias = NDArray[np.int16]  # quantised coefficients of a component: (block rows, block columns, 8, 8)
_Colours: TypeAlias = Literal["grey", "YCbCr", "RGB", "CMYK", "YCCK"]

_DHT, _EOI, _SOS, _DQT, _DRI, _APP0, _APP14, _COM = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # Huffman, 8 or 12 bits: whether progressive
_NOT_FRAMES = {_DHT, 0xC8, 0xCC}  # among 0xC0 .. 0xCF
_LAYOUT = {*_FRAMES, _DHT, _SOS, _DQT, _DRI}
_CARRIED = {*range(_APP0, _APP0 + 16), _COM}
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # restarts, stuffed and filling bytes belong to what they stand in

# jpeglib's names for libjpegs. Only MozJPEG writes progressive files without being given a script of scans, and only
# old ones read scans whose components have another order than the frame's.
_SEQUENTIAL, _PROGRESSIVE, _ANY_ORDER = "turbo210", "mozjpeg403", "6b"
_OPTIMISE = 1 << 6  # jpeglib's bit for Huffman tables made to measure
_SPACES = {1: 1, 3: 3, 4: 4}  # number of components: libjpeg's number for what it may take them for (no pixel is coded)

_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_AT_ONCE = 2048  # blocks
# Sums of the Huffman tables that T.81 gives in annex K.3, by class and number. A file that has no others gets no
# others: to count what codes of its own would take is half of the work of writing.
_STANDARD = {0x00: 0x9898900E, 0x01: 0x57A406EB, 0x10: 0x06F8F02E, 0x11: 0xA1415F28}
_MOST = 32  # things that are remembered
_MEMORY: dict[tuple[str, bytes], Any] = {}

T = TypeVar("T")


@dataclass(frozen=True)
class _Component:
    """One component of a frame: its id, and its sampling factors down and across."""

    id: int
    down: int
    across: int


@dataclass(frozen=True)
class _Frame:
    """What a JPEG's headers say of its picture."""

    height: int
    width: int
    progressive: bool
    components: tuple[_Component, ...]
    colours: _Colours

    def steps(self) -> list[tuple[int, int]]:
        """Rows and columns of pixels that one sample of each component stands for."""
        down = max(part.down for part in self.components)
        across = max(part.across for part in self.components)
        if any(down % part.down or across % part.across for part in self.components):
            raise ValueError("its sampling factors do not divide each other")
        return [(down // part.down, across // part.across) for part in self.components]


def patch(original: bytes, pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> bytes:
    """Put new pixels into a JPEG and leave every block that the hole does not touch as it is.

    A block is 8 x 8 samples of one component: 16 x 16 pixels where chroma is halved both ways. Pixels beside touched
    blocks can change in chroma only, by as much as decoders blend neighbouring samples when they enlarge it. Segments
    of metadata are kept verbatim and in order, but for the index of further pictures (MPF): what follows the first
    picture is not kept. A progressive file stays progressive.

    May be called from several threads at once. Where coded data is damaged, libjpeg writes a line of its own to the
    process's error stream, which cannot be helped.

    Args:
        original: A JPEG file that Pillow decodes.
        pixels: What it is to show, as Pillow gives it: uint8, (h, w) grey, (h, w, 3) RGB, (h, w, 4) CMYK.
        hole: (h, w), True where `pixels` is to be taken.

    Returns:
        The new file.

    Raises:
        ValueError: The file or the arrays are of a kind that this cannot do, for the reason that the text gives.
    """
    segments = _segments(original)
    frame = _frame(segments)
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    size = (frame.height, frame.width)
    if pixels.shape[:2] != size or hole.shape != size or channels != len(frame.components):
        raise ValueError(f"its {len(frame.components)} components are {size[1]} x {size[0]}, the pixels differ")
    matrix, offset = _conversion(frame.colours)
    steps = frame.steps()
    layout = [item for item in segments if item[0] in _LAYOUT]
    bare, header = _joined(layout), _header(layout)
    try:
        with TemporaryDirectory(prefix="pconv-") as folder:
            planes, tables = _read(bare, header, frame, Path(folder))
            for step in dict.fromkeys(steps):
                alike = [
                    _Part(*part) for *part, of in zip(planes, tables, matrix, offset, steps, strict=True) if of == step
                ]
                _fill(alike, step, pixels.reshape(*size, channels), hole)
            written = _write(bare, header, frame, planes, Path(folder), not _is_standard(layout))
    except OSError as error:
        raise ValueError(f"no room for temporary files ({error.strerror or error})") from error
    new = [item for item in _segments(written) if item[0] in _LAYOUT]
    kept = [item for item in segments if item[0] in _CARRIED and not item[1][4:].startswith(b"MPF\0")]
    if _frame(kept + new) != frame:
        raise ValueError("libjpeg wrote another kind of file than it was given")
    return _joined(kept + new)


def reach(original: bytes, hole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where pixels may change with those of a hole, (h, w) both: in touched blocks, and beside those of smaller chroma.

    Raises:
        ValueError: As in `patch`.
    """
    steps = _frame(_segments(original)).steps()
    down, across = (max(sides) for sides in zip(*steps, strict=True))
    touched = _blocks(hole[..., None], (down, across)).any(axis=(2, 3, 4))
    area = np.repeat(np.repeat(touched, 8 * down, 0), 8 * across, 1)[: hole.shape[0], : hole.shape[1]]
    wide = area.copy()
    if (down, across) != (1, 1):  # decoders blend samples with their neighbours when they enlarge them
        wide[1:] |= area[:-1]
        wide[:-1] |= area[1:]
        area = wide.copy()
        wide[:, 1:] |= area[:, :-1]
        wide[:, :-1] |= area[:, 1:]
    return np.asarray(wide)


# ---------------------------------------------------------------- segments


def tail(data: bytes) -> bytes:
    """What follows the end of the first picture; nothing where that cannot be found."""
    try:
        return data[_cut(data)[1] :]
    except ValueError:
        return b""


def length_of_tail(data: mmap) -> int:
    """How many bytes that are; of a file that need not be in memory."""
    try:
        return len(data) - _cut(data, kept=False)[1]
    except ValueError:
        return 0


def _segments(data: bytes) -> _Segments:
    """Cut a file into its segments, from behind the first marker to the end of the first picture."""
    return _cut(data)[0]


def _cut(data: bytes | mmap, *, kept: bool = True) -> tuple[_Segments, int]:
    """Segments, unless they are not to be `kept`, and where the first picture ends."""
    found: _Segments = []
    at = 2
    while data[:2] == b"\xff\xd8" and (match := _MARKER.search(data, at)):
        start, marker = match.start(), data[match.start() + 1]
        if marker == _EOI:
            return found, start + 2
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        at = start + 2 + length
        if length < 2 or at > len(data) or marker < 0xC0:  # nothing is below but what damage makes
            break
        if marker == _SOS:
            following = _MARKER.search(data, at)
            at = following.start() if following else len(data)
        if kept:
            found.append((marker, data[start:at]))
    raise ValueError("it is damaged, cut short or no JPEG")


def _joined(segments: Iterable[tuple[int, bytes]]) -> bytes:
    return b"\xff\xd8" + b"".join(data for _, data in segments) + b"\xff\xd9"


def _frame(segments: _Segments) -> _Frame:
    """Read the headers, and refuse what a change of some blocks would not leave as it is elsewhere."""
    frames = [item for item in segments if 0xC0 <= item[0] <= 0xCF and item[0] not in _NOT_FRAMES]
    scans = [at for at, item in enumerate(segments) if item[0] == _SOS]
    if len(frames) != 1 or not scans or segments.index(frames[0]) > scans[0]:
        raise ValueError("it does not have exactly one frame")
    marker, body = frames[0][0], frames[0][1][4:]
    if marker not in _FRAMES or body[:1] != b"\x08":
        raise ValueError("it is arithmetic-coded, lossless, hierarchical or of more than 8 bits")
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    entries = [body[at : at + 3] for at in range(6, len(body), 3)]
    if not height or not width or len(entries) not in _SPACES or len(body) != 6 + 3 * body[5]:
        raise ValueError("its header gives no size, or another number of components than 1, 3 or 4")
    components = tuple(_Component(entry[0], entry[1] & 15, entry[1] >> 4) for entry in entries)
    if any(not 1 <= factor <= 4 for part in components for factor in (part.down, part.across)):
        raise ValueError("its sampling factors are not 1 to 4")
    if len(components) > 1 and sum(part.down * part.across for part in components) > 10:
        raise ValueError("its sampling factors are too large to write its components interleaved")
    if any(item[0] == _DQT for item in segments[scans[0] :]):
        raise ValueError("it changes quantisation tables between scans")
    if _FRAMES[marker] and not _complete([segments[at][1] for at in scans], components):
        raise ValueError("its last progressive scans are missing")  # decoders smooth such a picture as they like
    return _Frame(height, width, _FRAMES[marker], components, _colours(segments[: scans[0]], components))


def _complete(scans: Iterable[bytes], components: Sequence[_Component]) -> bool:
    """Whether a progressive file's scans bring all bits of all coefficients."""
    missing = np.ones((len(components), 64), np.bool_)
    rows = {part.id: row for row, part in enumerate(components)}
    for scan in scans:
        length = int.from_bytes(scan[2:4], "big")
        first, last, bits = scan[length - 1 : length + 2]
        for at in range(5, length - 1, 2):
            if scan[at] in rows:
                missing[rows[scan[at]], first : last + 1] = bits & 15 > 0
    return not missing.any()


def _colours(header: _Segments, components: Sequence[_Component]) -> _Colours:
    """What the components are, by the rules that libjpeg follows."""
    if len(components) == 1:
        return "grey"
    adobe = [data[15] for marker, data in header if marker == _APP14 and data[4:9] == b"Adobe" and len(data) >= 16]
    if len(components) == 4:
        return "YCCK" if adobe and adobe[-1] else "CMYK"
    if any(marker == _APP0 and data[4:9] == b"JFIF\0" and len(data) >= 18 for marker, data in header):
        return "YCbCr"
    if adobe:
        return "YCbCr" if adobe[-1] else "RGB"
    return "RGB" if bytes(part.id for part in components) == b"RGB" else "YCbCr"


# ---------------------------------------------------------------- samples


def _conversion(colours: _Colours) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How samples, of a mean of 0, come from Pillow's pixels: matrix (components, channels), offset (components,)."""
    matrix, offset = {
        "grey": (np.eye(1), [-128]),
        "RGB": (np.eye(3), [-128] * 3),
        "YCbCr": (np.array(_YCC), [-128, 0, 0]),
        # Pillow takes every CMYK for Adobe's, which is stored inverted, and YCCK for the inverse of its CMY.
        "CMYK": (-np.eye(4), [127] * 4),
        "YCCK": (np.pad(np.array(_YCC), (0, 1)) - np.diag([0, 0, 0, 1]), [-128, 0, 0, 127]),
    }[colours]
    return matrix.astype(np.float32), np.array(offset, np.float32)


@cache
def _cosines() -> NDArray[np.float32]:
    """The orthonormal 8 x 8 cosine transform of samples in a row, (64, 64): its transpose leads back."""
    u, x = np.mgrid[:8, :8]
    basis = np.cos((2 * x + 1) * u * np.pi / 16) / np.where(u, 2, 8**0.5)
    return np.ascontiguousarray(np.kron(basis, basis).T.astype(np.float32))


def _times(blocks: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 64) times (64, 64), 64 rows at a time: larger products wake threads that then wait for each other."""
    count = len(blocks)
    padded = np.concatenate([blocks, np.zeros((-count % 64, 64), np.float32)])
    return np.asarray((padded.reshape(-1, 64, 64) @ matrix).reshape(-1, 64)[:count])


class _Part(NamedTuple):
    """A component: coefficients, quantisation table, how its samples come from pixels (see `_conversion`)."""

    plane: _Plane
    table: NDArray[np.uint16]
    weights: NDArray[np.float32]
    offset: np.float32


def _fill(parts: Sequence[_Part], step: tuple[int, int], pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> None:
    """Put the hole's pixels, (h, w, channels), into components that are sampled alike; untouched blocks stay."""
    (height, width), (down, across), basis = hole.shape, step, _cosines()
    rows_touched = np.logical_or.reduceat(hole, np.arange(0, height, 8 * down), axis=0)
    touched = np.argwhere(np.logical_or.reduceat(rows_touched, np.arange(0, width, 8 * across), axis=1))
    pixels, hole = _blocks(pixels, step), _blocks(hole[..., None], step)
    for at in range(0, len(touched), _AT_ONCE):
        y, x = touched[at : at + _AT_ONCE].T
        inside = reduce(np.logical_or, _corners(hole[y, x, ..., 0], step)).reshape(-1, 64)
        shared = ~inside.all(axis=1)
        seen = np.moveaxis(pixels[y, x], -1, 0).astype(np.float32)
        for part in parts:
            scale = part.table.astype(np.float32).ravel()
            # Channel by channel, and slices: products with three columns, and means, are slow.
            mixed = sum(channel * weight for channel, weight in zip(seen, part.weights, strict=True) if weight)
            samples = (sum(_corners(mixed, step)) / np.float32(down * across) + part.offset).reshape(-1, 64)
            old = _times(part.plane[y[shared], x[shared]].reshape(-1, 64) * scale, basis.T)
            samples[shared] = np.where(inside[shared], samples[shared], old)
            levels = np.rint(_times(samples, basis) / scale)
            # What the Huffman code of 8-bit pictures can hold.
            part.plane[y, x] = levels.clip(-1023, 1023).astype(np.int16).reshape(-1, 8, 8)


def _blocks(values: NDArray[Any], step: tuple[int, int]) -> NDArray[Any]:
    """Cut (h, w, channels) into what blocks of a component stand for: (block rows, block columns, h, w, channels)."""
    (height, width, channels), (down, across) = values.shape, (8 * step[0], 8 * step[1])
    if height % down or width % across:  # beyond the picture's edges its last row and column go on
        values = np.pad(values, ((0, -height % down), (0, -width % across), (0, 0)), "edge")
    rows, columns = values.shape[0] // down, values.shape[1] // across
    return np.asarray(values.reshape(rows, down, columns, across, channels).swapaxes(1, 2))


def _corners(values: NDArray[Any], step: tuple[int, int]) -> list[NDArray[Any]]:
    """Of (blocks, rows, columns): those that share a sample, one array for each place in its box."""
    down, across = step
    return [values[:, y::down, x::across] for y in range(down) for x in range(across)]


# ---------------------------------------------------------------- libjpeg


@cache
def _library(name: str) -> Any:
    """One of the libjpegs in jpeglib's package.

    They are called directly: jpeglib's own classes lose metadata beyond 50 segments, keep it in one place for all
    threads, print, and leave temporary files behind when they fail.
    """
    try:
        import jpeglib

        folder = Path(jpeglib.__file__).parent / "cjpeglib"
        # On Windows what it was linked with lies beside it.
        built = (path for path in folder.glob(f"cjpeglib_{name}.*") if path.suffix in (".so", ".pyd"))
        library = ctypes.CDLL(str(next(built)))
        text, array, number, flags = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
        library.read_jpeg_info.argtypes = (text, *[array] * 11)
        library.read_jpeg_dct.argtypes = (text, *[array] * 6)
        settings: tuple[Any, ...] = (number, number, array, ctypes.c_short, array, number, *[array] * 3, flags, flags)
        library.write_jpeg_dct.argtypes = (text, text, *[array] * 7, *settings)
    except (ImportError, OSError, StopIteration, AttributeError) as error:
        raise ValueError(f"jpeglib's {name} cannot be loaded") from error
    return library


def refuse_without_libjpeg() -> None:
    """Make sure that there is what reads and writes blocks.

    Raises:
        ValueError: It cannot be loaded.
    """
    for name in (_SEQUENTIAL, _PROGRESSIVE, _ANY_ORDER):
        _library(name)


def _called(path: Path) -> bytes:
    """A file's name as C takes it, on Windows in the system's code page.

    Raises:
        ValueError: It has characters that are not in that.
    """
    return str(path).encode("mbcs") if os.name == "nt" else bytes(path)


def _remembered(what: str, header: bytes, make: Callable[[], T]) -> T:
    """What goes by a header alone: the pictures of a folder often have one in common."""
    found: T | None = _MEMORY.get((what, header))
    if found is None:
        found = make()
        while len(_MEMORY) >= _MOST:  # other threads may do so too: then something is made, or dropped, twice
            _MEMORY.pop(next(iter(_MEMORY)), None)
        _MEMORY[what, header] = found
    return found


def _shapes(source: Path) -> list[tuple[int, int]]:
    """Rows and columns of blocks of each component, as libjpeg finds them; none if it cannot read the header.

    jpeglib survives a damaged header here, but not where it reads coefficients.
    """
    blocks, scans = np.zeros((4, 2), np.int32), np.zeros(1, np.int32)
    arrays = (blocks.ctypes.data, *[None] * 8, scans.ctypes.data)
    found = _library(_SEQUENTIAL).read_jpeg_info(_called(source), *arrays, None)
    return [(down, across) for down, across in blocks.tolist() if down and across] if found else []


def _read(data: bytes, header: bytes, frame: _Frame, folder: Path) -> tuple[list[_Plane], NDArray[np.uint16]]:
    """Coefficients of all components, and their quantisation tables, (components, 8, 8)."""
    source, library = folder / "read.jpg", _library(_SEQUENTIAL)
    source.write_bytes(data)
    sides, count = (frame.height, frame.width), len(frame.components)
    shapes = [(-(-sides[0] // (8 * down)), -(-sides[1] // (8 * across))) for down, across in frame.steps()]
    if _remembered("shapes", header, lambda: _shapes(source)) != shapes:
        raise ValueError("libjpeg cannot read its header")
    planes = [np.empty((*shape, 8, 8), np.int16) for shape in shapes]
    tables, numbers = np.zeros((4, 8, 8), np.uint16), np.zeros(4, np.int16)
    arrays = _pointers([*planes, *[None] * (4 - count), tables, numbers])
    if not library.read_jpeg_dct(_called(source), *arrays):
        raise ValueError("libjpeg cannot read its coefficients")
    tables = tables[numbers[:count]]
    if not tables.all():
        raise ValueError("a quantisation table of it is missing or has zeros")
    return planes, tables


def _write(
    data: bytes, header: bytes, frame: _Frame, planes: Sequence[_Plane], folder: Path, to_measure: bool
) -> bytes:
    """The file again, with other coefficients; its metadata may be libjpeg's."""
    if len(planes) == 4:
        # jpeglib forgets the fourth component when it writes: for a while it is made the first.
        data = _put(data, frame, planes[:3], _SEQUENTIAL, folder)
        data = _put(_reordered(data, [3, 0, 1, 2]), frame, planes[3:], _ANY_ORDER, folder)
        data = _put(_reordered(data, [1, 2, 3, 0]), frame, planes[:3], _ANY_ORDER, folder)
    if len(planes) == 4 and not frame.progressive:
        return data
    name = _PROGRESSIVE if frame.progressive else _SEQUENTIAL
    if len(planes) == 4:
        return _put(data, frame, planes[:3], name, folder)
    # libjpeg decodes what it is given first. All of that is replaced, so a file will do that has the same size and
    # tables, and nothing in its blocks.
    empty = _remembered(
        name, header, lambda: _put(data, frame, [np.zeros_like(plane) for plane in planes], name, folder)
    )
    return _put(empty, frame, planes, name, folder, to_measure=to_measure or frame.progressive)


def _header(segments: _Segments) -> bytes:
    """A file up to the coded data of its first scan."""
    found = b"\xff\xd8"
    for marker, segment in segments:
        if marker == _SOS:
            return found + segment[: 2 + int.from_bytes(segment[2:4], "big")]
        found += segment
    return found


def _is_standard(segments: _Segments) -> bool:
    """Whether a file has Huffman tables, and none but those in `_STANDARD`."""
    found: dict[int, int] = {}
    for marker, segment in segments:
        at = 4
        while marker == _DHT and at + 17 <= len(segment):
            length = 17 + sum(segment[at + 1 : at + 17])
            found[segment[at]] = zlib.crc32(segment[at + 1 : at + length])
            at += length
    return bool(found) and found.items() <= _STANDARD.items()


def _put(
    data: bytes, frame: _Frame, planes: Sequence[_Plane], name: str, folder: Path, *, to_measure: bool = True
) -> bytes:
    source, target = folder / "source.jpg", folder / "target.jpg"
    source.write_bytes(data)
    size = np.array([frame.height, frame.width], np.int32)
    arrays = _pointers([*planes, *[None] * (4 - len(planes)), size])
    count = len(frame.components)
    as_in_source = (None, -1, None, 0, None, None, None)  # tables, quality, their numbers, markers
    flags = (_OPTIMISE, 0xFFFFFFFF if to_measure else 0)
    call = _library(name).write_jpeg_dct
    if not call(_called(source), _called(target), *arrays, None, None, _SPACES[count], count, *as_in_source, *flags):
        raise ValueError("libjpeg cannot write its coefficients")
    return target.read_bytes()


def _pointers(arrays: Iterable[NDArray[Any] | None]) -> list[int | None]:
    return [None if array is None else array.ctypes.data for array in arrays]


def _reordered(data: bytes, order: Sequence[int]) -> bytes:
    """A file whose frame header names its components in another order, which its scans may differ from."""
    segments = _segments(data)
    for at, (marker, segment) in enumerate(segments):
        if marker in _FRAMES:
            segments[at] = (marker, segment[:10] + b"".join(segment[10 + 3 * item :][:3] for item in order))
    return _joined(segments)
