"""Pictures that GDAL reads wrong or not at all, though nothing is wrong with them, told by the heads of their files.

It knows the headers of BMP, JPEG and TIFF, as far as that takes. It knows nothing of pixels, or of what is done with a
file: the private part of whoever asks GDAL for one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pconv_cli._ifd import Directory
from pconv_cli.errors import ItemError

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_VERSION_3, _VERSION_4, _VERSION_5 = 56, 108, 124  # of a BMP, by the bytes of its header; before them none has alpha
_OS2 = 64  # the same, of OS/2 2.0
_BGRX = (0xFF0000, 0xFF00, 0xFF)  # where 32 bits have red, green and blue: the only order that GDAL knows
_RLE8, _RLE4, _WITH_ALPHA = 1, 2, 6  # how a BMP is compressed; the last one has four masks behind a header of any size
_LOSSLESS, _JPEG_LS = (0xC3, 0xC7, 0xCB, 0xCF), 0xF7
_NO_FRAMES = (0xC4, 0xC8, 0xCC)


def refuse_misread(path: Path, way_out: str) -> None:
    """Make sure that GDAL reads a file as it is, if it reads it at all.

    Args:
        path: The file.
        way_out: What to do with one that Pillow reads.

    Raises:
        ItemError: It does not.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(70)
        what = ""
        if head[:2] == b"BM":
            what = _bmp(head)
        elif head[:3] == b"\xff\xd8\xff":
            frame, plain = _frame(stream)
            if frame == _JPEG_LS:
                raise ItemError(path, "a JPEG of a kind that cannot be read (JPEG-LS): convert a copy to PNG")
            what = "a lossless JPEG" if frame in _LOSSLESS else "a JPEG of RGB as it is" if plain else ""
    if what:
        raise ItemError(path, f"{what}, which cannot be read part by part: {way_out}")
    if head[:4] in TIFF_STARTS:
        tiff = Directory.first(path)
        if max(tiff.number(32997, 1), tiff.number(32998, 1)) > 1:
            raise ItemError(path, "a volume of several slices, of which one would be restored: save each as a TIFF")
        bits = tiff.numbers(258) if 258 in tiff.entries else ()
        if len(set(bits)) > 1:
            told = " and ".join([", ".join(map(str, bits[:-1])), str(bits[-1])])
            raise ItemError(
                path, f"channels of {told} bits, which the libraries here cannot read: convert a copy to 8 or 16 bits"
            )


def doubt(path: Path) -> str:
    """What to say of a file that could not be read, and may be sound all the same; empty of all others."""
    head = b""
    with suppress(OSError), path.open("rb") as stream:
        head = stream.read(70)
    if head[:2] != b"BM" or _number(head, 14) < 40 or _number(head, 30) not in (_RLE8, _RLE4):
        return ""
    return (
        "an RLE-compressed BMP that leaves pixels out, which the libraries here cannot read, or a damaged one: "
        "save a copy without compression"
    )


def _bmp(head: bytes) -> str:
    size, compression = _number(head, 14), _number(head, 30)
    if size >= _VERSION_4:
        return f"a BMP of version {5 if size >= _VERSION_5 else 4}"
    if size >= 40 and compression == _RLE4:
        return "an RLE-compressed BMP of 4 bits"
    if size == _OS2:
        return "a BMP of OS/2 2.0"
    fields = tuple(_number(head, at) for at in (54, 58, 62))
    if size >= 40 and compression in (3, _WITH_ALPHA) and head[28] == 32 and fields != _BGRX:
        return "a BMP with its colours in another order"
    masks = (size >= _VERSION_3 and compression == 3) or (size >= 40 and compression == _WITH_ALPHA)
    return "a BMP with alpha" if masks and _number(head, 66) else ""


def _number(head: bytes, at: int) -> int:
    return int.from_bytes(head[at : at + 4], "little")


def _frame(stream: BinaryIO) -> tuple[int, bool]:
    """Read how a JPEG begins.

    Returns:
        The marker of its frame header, which says how it is encoded, 0 where none is found; and whether Adobe's marker
        says that three colours are RGB while their numbers do not, which alone GDAL goes by.
    """
    at, plain = 2, False
    while True:
        stream.seek(at)
        head = stream.read(19)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            return 0, False
        if (0xC0 <= head[1] <= 0xCF and head[1] not in _NO_FRAMES) or head[1] == _JPEG_LS:
            numbers = head[10::3] if len(head) == 19 and head[9] == 3 else b""
            return head[1], plain and numbers not in (b"", b"RGB")
        plain = plain or (head[1] == 0xEE and head[4:9] == b"Adobe" and head[15] == 0)
        at += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:4], "big")
