"""Metadata of picture files as plain bytes: TIFF/EXIF directories, PNG chunks, JPEG segments; what fits where.

It knows the byte layout of tags and chunks. It does not know Pillow, pixels or paths: `images` reads, `writing` writes.

Tags are kept as raw bytes (turned to little-endian), never as parsed values: Pillow's own writer loses letters outside
ASCII, guesses types, and gives up on some dictionaries ("Error setting from dictionary"). An EXIF block *is* a small
TIFF file, so one reader and one packer serve both.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO, TypeAlias

from pconv_cli._ifd import LAYOUT
from pconv_cli.errors import Loss

# A tag's type and its little-endian bytes, or the directory that the tag points to.
Value: TypeAlias = "tuple[int, bytes] | Tags"
Tags: TypeAlias = "dict[int, Value]"
Chunk: TypeAlias = tuple[bytes, bytes, bool]  # PNG: name, data, whether it stood after the pixels

ORIENTATION, X_DPI, Y_DPI, UNIT, XMP, IPTC, PHOTOSHOP, ICC = 274, 282, 283, 296, 700, 33723, 34377, 34675
_PALETTE = 320
_SHORT, _LONG, _RATIONAL, _BYTE, _UNDEFINED = 3, 4, 5, 1, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_SWAP = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8}
_SUB_DIRECTORIES = {34665: 0, 34853: 0, 40965: 34665}  # EXIF, GPS, interoperability: whose child each one is

# Kept out on purpose, with a notice: they hold other pictures, or layers that still show the damage.
_REFUSED = {330: "embedded previews (SubIFDs)", 37724: "Photoshop layers"}
# What of a TIFF's first directory belongs into an EXIF block.
_EXIF_TAGS = frozenset([270, 271, 272, 301, 305, 306, 315, 316, 318, 319, 18246, 33432, 34665, 34853]) | frozenset(
    [ORIENTATION, X_DPI, Y_DPI, UNIT, *range(40091, 40096)]
)
# What a BMP has for it: its pixels stand upright, and it has a resolution of its own.
_BMP_TAGS = frozenset([ORIENTATION, X_DPI, Y_DPI, UNIT])
_NAMES = {270: "ImageDescription", 271: "Make", 272: "Model", 305: "Software", 306: "DateTime", 315: "Artist"}
_NAMES |= {316: "HostComputer", 33432: "Copyright"}

# PNG chunks that Pillow writes back when they are handed to it; the others have a channel of their own or are lost.
_PNG_KEPT = frozenset(b"cHRM cICP gAMA sBIT sRGB tIME sPLT iTXt tEXt zTXt bKGD hIST".split())
_PNG_HANDLED = frozenset(b"IHDR PLTE IDAT IEND tRNS iCCP eXIf acTL fcTL fdAT".split())
_PNG_TEXTS = frozenset(b"tEXt zTXt iTXt".split())
_PNG_TRIVIAL = frozenset(b"sBIT sRGB tIME bKGD hIST".split())

# Bytes that one JPEG segment has for them, their signatures taken off.
_JPEG_EXIF_ROOM, _JPEG_XMP_ROOM, _JPEG_PHOTOSHOP_ROOM = 65533 - 6, 65533 - 29, 65533 - 14

ASPECT = "its pixel aspect ratio"
"""What to say of pixels that a file calls oblong, where it is lost."""

_WEBP_KNOWN = frozenset([b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "])
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_PHOTOSHOP = b"Photoshop 3.0\0"
_PNG_IPTC = b"Raw profile type iptc"
_IPTC_RESOURCE = b"8BIM\x04\x04\0\0"


@dataclass(frozen=True, eq=False)
class Carried:
    """Everything of a picture file but its pixels, held for the writer of the restored one.

    Attributes:
        icc: Colour profile, empty where there is none.
        exif: EXIF block without its "Exif" signature, verbatim where the file had one.
        xmp: XMP packet.
        photoshop: Photoshop's image resources; IPTC is one of them.
        dpi: Pixels per inch across and down.
        tags: TIFF tags of the first directory and of those below it, or the same of the EXIF block.
        chunks: PNG chunks that are written back as they were.
        jpeg: Encoder settings of a JPEG: tables, subsampling, progressive, further segments.
        tail: What follows the end of a JPEG: cameras put things there.
        oblong: Whether a JPEG gives its pixels an aspect ratio, and no size.
        tiff: Whether it is from a TIFF.
        lost: What of a TIFF nothing but a copy of it keeps.
        left_behind: The same, said in sentences.
        palette: RGBA bytes, four per colour, for palette pictures.
        colour_key: The one transparent colour of a grey (1 value) or RGB (3 values) PNG.
    """

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    photoshop: bytes = b""
    dpi: tuple[float, float] | None = None
    tags: Tags = field(default_factory=dict)
    chunks: tuple[Chunk, ...] = ()
    jpeg: Mapping[str, Any] = field(default_factory=dict)
    tail: bytes = field(default=b"", repr=False)
    oblong: bool = False
    tiff: bool = False
    lost: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
    palette: bytes = b""
    colour_key: tuple[int, ...] | None = None

    @property
    def linear(self) -> bool:
        """Whether a PNG without a profile says that its values are linear in light."""
        gamma = next((data for name, data, _ in self.chunks if name == b"gAMA"), b"")
        primaries = next((data for name, data, _ in self.chunks if name == b"cICP"), b"")
        return not self.icc and (int.from_bytes(gamma, "big") in range(90000, 110001) or primaries[1:2] == b"\x08")


# ---------------------------------------------------------------- TIFF and EXIF directories


def read_tags(stream: BinaryIO) -> tuple[Tags, list[str]]:
    """Read the first directory of a TIFF file or EXIF block, and the EXIF and GPS directories below it.

    Args:
        stream: Seekable, the TIFF header at its start.

    Returns:
        The tags, without those that describe the layout of the pixels, and what cannot be carried.

    Raises:
        ValueError: The header is not that of a TIFF.
    """
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("no TIFF header")
    magic = struct.unpack(order + "H", head[2:4])[0]
    if magic not in (42, 43) or (magic == 43 and len(head) < 16):
        raise ValueError("no TIFF header")
    big = magic == 43
    start = struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "L", head[4:8])[0]
    reader = _DirectoryReader(stream, order, big)
    return reader.directory(start, parent=0), reader.lost


class _DirectoryReader:
    """Reads directories of one file; what points outside the file goes to `lost`, the rest stays."""

    def __init__(self, stream: BinaryIO, order: str, big: bool) -> None:
        self.lost: list[str] = []
        self._stream, self._order = stream, order
        self._end = stream.seek(0, io.SEEK_END)
        self._count, self._entry, self._pointer = ("Q", "HHQ8s", "Q") if big else ("H", "HHL4s", "L")

    def directory(self, start: int, parent: int) -> Tags:
        """Read the directory at `start` that tag `parent` points to, 0 for the first of the file."""
        tags: Tags = {}
        for tag, kind, items, inline in self._table(start):
            if parent == 0 and tag in _REFUSED:
                self.lost.append(_REFUSED[tag])
            elif parent == 0 and tag in LAYOUT:
                continue
            elif tag in _SUB_DIRECTORIES:
                if _SUB_DIRECTORIES[tag] == parent:  # else a file could lead round in circles
                    tags[tag] = self.directory(struct.unpack(self._order + self._pointer, inline)[0], tag)
            elif (data := self._data(items * _SIZES.get(kind, 0), inline)) is None:
                self.lost.append(f"TIFF tag {tag}")
            else:
                tags[tag] = (kind, _little_endian(kind, data, self._order))
        return tags

    def _table(self, start: int) -> list[tuple[int, int, int, bytes]]:
        self._stream.seek(min(start, self._end))
        head = self._stream.read(struct.calcsize("=" + self._count))
        size = struct.calcsize("=" + self._entry)
        count = struct.unpack(self._order + self._count, head)[0] if len(head) in (2, 8) else 0
        table = self._stream.read(min(count, 65535) * size)
        if not table:
            self.lost.append("a tag directory that lies outside the file")
        usable = len(table) - len(table) % size
        return list(struct.iter_unpack(self._order + self._entry, table[:usable]))

    def _data(self, length: int, inline: bytes) -> bytes | None:
        if 0 < length <= len(inline):
            return inline[:length]
        (where,) = struct.unpack(self._order + self._pointer, inline)
        if length == 0 or where + length > self._end:
            return None
        self._stream.seek(where)
        return self._stream.read(length)


def _little_endian(kind: int, data: bytes, order: str) -> bytes:
    """The same values with their low bytes first."""
    unit = _SWAP.get(kind, 1)
    if order == "<" or unit == 1:
        return data
    return b"".join(data[at : at + unit][::-1] for at in range(0, len(data), unit))


def _pack_directory(tags: Tags, start: int) -> bytes:
    """Directory for absolute position `start` of a little-endian file: its table, then the data that it points to."""
    position = start + 2 + 12 * len(tags) + 4
    table, data = struct.pack("<H", len(tags)), b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, dict):
            block = _pack_directory(value, position)
            table += struct.pack("<HHLL", tag, _LONG, 1, position)
        else:
            kind, block = value
            table += struct.pack("<HHL", tag, kind, len(block) // _SIZES[kind])
            table += block.ljust(4, b"\0") if len(block) <= 4 else struct.pack("<L", position)
            block = block if len(block) > 4 else b""
        block += b"\0" * (len(block) % 2)
        data += block
        position += len(block)
    return table + b"\0\0\0\0" + data


def exif_block(tags: Tags) -> bytes:
    """EXIF block (without its "Exif" signature) of those tags that belong into one; empty if there are none."""
    chosen = {tag: value for tag, value in tags.items() if tag in _EXIF_TAGS}
    return b"II*\0\x08\0\0\0" + _pack_directory(chosen, 8) if chosen else b""


def thumbnail_in(exif: bytes) -> slice | None:
    """Where in an EXIF block its thumbnail lies, a JPEG; None where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "<")
    found: dict[int, int] = {}
    try:
        (first,) = struct.unpack_from(order + "L", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, first)
        (second,) = struct.unpack_from(order + "L", exif, first + 2 + 12 * count)
        (count,) = struct.unpack_from(order + "H", exif, second)
        for at in range(second + 2, second + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, at)
            (found[tag],) = struct.unpack_from(order + ("H" if kind == _SHORT else "L"), exif, at + 8)
        place = slice(found[513], found[513] + found[514])
    except (struct.error, KeyError):
        return None
    return place if second and place.stop <= len(exif) and exif[place][:2] == b"\xff\xd8" else None


def graft_tags(stream: BinaryIO, tags: Tags) -> None:
    """Add tags to the first directory of a TIFF file that stands written, as raw bytes.

    The new directory goes to the end of the file and the header then points to it; pixels stay where they are.

    Args:
        stream: The file, open for reading and writing.
        tags: What to add; a tag that is there already is replaced.

    Raises:
        ValueError: The file is not a little-endian classic TIFF.
    """
    stream.seek(0)
    head = stream.read(8)
    if head[:4] != b"II*\0":
        raise ValueError("not a little-endian TIFF")
    stream.seek(struct.unpack("<L", head[4:])[0])
    (count,) = struct.unpack("<H", stream.read(2))
    old = stream.read(12 * count)
    end = stream.seek(0, io.SEEK_END)
    stream.write(b"\0" * (end % 2))
    end += end % 2
    block = _pack_directory(tags, end)
    new = block[2 : 2 + 12 * len(tags)]
    entries = {table[at : at + 2][::-1]: table[at : at + 12] for table in (old, new) for at in range(0, len(table), 12)}
    stream.write(block + b"\0" * (len(block) % 2))
    directory = stream.tell()
    stream.write(struct.pack("<H", len(entries)) + b"".join(entries[key] for key in sorted(entries)) + b"\0\0\0\0")
    stream.seek(4)
    stream.write(struct.pack("<L", directory))
    stream.seek(0, io.SEEK_END)


# ---------------------------------------------------------------- single tags


def orientation_of(tags: Tags) -> int:
    """EXIF orientation, 1..8; 1 where there is none or it is invalid."""
    value = tags.get(ORIENTATION)
    if not isinstance(value, tuple) or value[0] not in (_SHORT, _LONG):
        return 1
    number = int.from_bytes(value[1][: _SIZES[value[0]]], "little")
    return number if 1 <= number <= 8 else 1


def orientation_tag(orientation: int) -> Tags:
    """The tag for an EXIF orientation; none for pictures that stand upright."""
    return {ORIENTATION: (_SHORT, struct.pack("<H", orientation))} if orientation != 1 else {}


def plain(tags: Tags) -> dict[int, tuple[int, int, bytes]]:
    """Tags that are no directories: type, count and little-endian bytes."""
    values = {tag: value for tag, value in tags.items() if not isinstance(value, dict)}
    return {tag: (kind, len(data) // _SIZES[kind], data) for tag, (kind, data) in values.items()}


def dpi_of(tags: Tags) -> tuple[float, float] | None:
    """Pixels per inch, None where there are none or only an aspect ratio."""
    unit = tags.get(UNIT, (_SHORT, b"\x02\0"))
    per_inch = {2: 1.0, 3: 2.54}.get(int.from_bytes(unit[1], "little")) if isinstance(unit, tuple) else None
    values = [tags.get(X_DPI), tags.get(Y_DPI, tags.get(X_DPI))]
    found: list[float] = []
    for value in values:
        if per_inch is None or not isinstance(value, tuple) or value[0] != _RATIONAL:
            return None
        top, bottom = struct.unpack("<LL", value[1][:8])
        if not top or not bottom:
            return None
        found.append(top / bottom * per_inch)
    return found[0], found[1]


def dpi_tags(dpi: tuple[float, float] | None) -> Tags:
    """The resolution tags for pixels per inch."""
    if dpi is None or not all(0 < value < 1e6 and math.isfinite(value) for value in dpi):
        return {}
    parts = [Fraction(value).limit_denominator(1000) for value in dpi]
    x, y = ((_RATIONAL, struct.pack("<LL", part.numerator, part.denominator)) for part in parts)
    return {X_DPI: x, Y_DPI: y, UNIT: (_SHORT, b"\x02\0")}


def tiff_tags(carried: Carried, icc: bytes, orientation: int) -> Tags:
    """All tags that a TIFF gets besides those of its pixels' layout."""
    tags = dict(carried.tags)
    if not (carried.tiff and X_DPI in tags):
        tags |= dpi_tags(carried.dpi)  # the file's own resolution is worth more than its EXIF block's
    tags = {tag: value for tag, value in tags.items() if tag != ORIENTATION} | orientation_tag(orientation)
    if carried.xmp:
        tags[XMP] = (_BYTE, carried.xmp)
    if icc:
        tags[ICC] = (_UNDEFINED, icc)
    if carried.photoshop and not carried.tiff:
        tags[PHOTOSHOP] = (_BYTE, carried.photoshop)
        if iptc := iptc_of(carried.photoshop):
            tags[IPTC] = (_UNDEFINED, iptc)
    return tags


def colour_map(colours: bytes) -> Tags:
    """A TIFF's palette of 8-bit colours, whose white is 65535: all reds come first, then all greens, then all blues."""
    return {_PALETTE: (_SHORT, bytes(value for colour in colours for value in (colour, colour)))}


# ---------------------------------------------------------------- IPTC


def photoshop_of(tags: Tags) -> bytes:
    """Photoshop's image resources of a TIFF, or IPTC that stands alone there as one of them."""
    resources, iptc = tags.get(PHOTOSHOP), tags.get(IPTC)
    if isinstance(resources, tuple):
        return resources[1]
    if not isinstance(iptc, tuple):
        return b""
    data = iptc[1]
    if data[:1] != b"\x1c" and data[3:4] == b"\x1c":  # bytes that some writers call numbers of 32 bits
        data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    return as_resource(data)


def as_resource(iptc: bytes) -> bytes:
    """IPTC as Photoshop's image resource; one that is such a resource already stays."""
    wrapped = _IPTC_RESOURCE + struct.pack(">L", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    return wrapped if iptc and not iptc.startswith(b"8BIM") else iptc


def iptc_of(photoshop: bytes) -> bytes:
    """IPTC among Photoshop's image resources, empty if there is none."""
    at = 0
    while photoshop[at : at + 4] == b"8BIM" and at + 12 <= len(photoshop):
        name = (photoshop[at + 6] + 2) // 2 * 2  # a text that may be empty, its length before it, of even length in all
        size = int.from_bytes(photoshop[at + 6 + name : at + 10 + name], "big")
        data = photoshop[at + 10 + name : at + 10 + name + size]
        if photoshop[at + 4 : at + 6] == b"\x04\x04":
            return data
        at += 10 + name + size + size % 2
    return b""


def iptc_text(photoshop: bytes) -> str:
    """The text chunk that holds Photoshop's image resources in a PNG: their length, and hexadecimal digits."""
    digits = photoshop.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return "\n".join(["", "iptc", f"{len(photoshop):8}", *lines, ""])


def photoshop_segments(photoshop: bytes) -> bytes:
    """JPEG segments that hold Photoshop's image resources; readers join them."""
    out = b""
    for at in range(0, len(photoshop), _JPEG_PHOTOSHOP_ROOM):
        data = _JPEG_PHOTOSHOP + photoshop[at : at + _JPEG_PHOTOSHOP_ROOM]
        out += struct.pack(">HH", 0xFFED, len(data) + 2) + data
    return out


# ---------------------------------------------------------------- PNG


def read_chunks(stream: BinaryIO) -> tuple[tuple[Chunk, ...], list[str]]:
    """Read a PNG's ancillary chunks; those of the pixels are jumped over, checksums left to the decoder.

    Returns:
        The chunks that are written back as they are, and what cannot be carried.
    """
    kept: list[Chunk] = []
    lost: list[str] = []
    after, depth, kind = False, 8, 3
    end = stream.seek(0, io.SEEK_END)
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        size, name = struct.unpack(">L4s", head)
        here = stream.tell()
        after = after or name == b"IDAT"
        if name == b"IEND" or here + size > end:
            break
        data = stream.read(size) if name not in _PNG_HANDLED or name == b"IHDR" else b""
        stream.seek(here + size + 4)
        if name == b"IHDR":
            depth, kind = data[8], data[9]
        if name == b"PLTE" and kind != 3:
            lost.append("its suggested palette")
        if name in _PNG_HANDLED or (name == b"hIST" and kind != 3) or (name == b"pHYs" and data[8:9] == b"\x01"):
            continue
        if name == b"bKGD" and kind == 0 and depth in (2, 4):  # which are written as 8, in steps of their own
            data = struct.pack(">H", int.from_bytes(data, "big") * (255 // (2**depth - 1)) % 65536)
        # Private chunks say in the case of their last letter whether they survive a change of the pixels.
        if name in _PNG_KEPT or (name[1:2].islower() and name[3:4].islower()):
            kept.append((name, data, after))
        else:
            lost.append(ASPECT if name == b"pHYs" else f"PNG chunk {name.decode('latin-1')}")
    return tuple(kept), lost


def exif_of_png(stream: BinaryIO) -> bytes:
    """The EXIF block of a PNG, wherever it lies, without its pixels; empty where there is none."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        size, name = struct.unpack(">L4s", head)
        if name in (b"eXIf", b"IEND"):
            return stream.read(size)
        stream.seek(size + 4, io.SEEK_CUR)
    return b""


def is_xmp(chunk: Chunk) -> bool:
    """Whether a PNG chunk is the XMP packet."""
    return chunk[0] == b"iTXt" and chunk[1].startswith(b"XML:com.adobe.xmp\0")


def is_iptc(chunk: Chunk) -> bool:
    """Whether a PNG chunk is a text that holds IPTC."""
    return chunk[0] in _PNG_TEXTS and chunk[1].startswith(_PNG_IPTC + b"\0")


def unheard(chunks: Sequence[Chunk], heard: Mapping[str, str]) -> list[str]:
    """What is lost of chunks, where these texts are kept, and what is of little weight, XMP and IPTC need not be."""
    others = [chunk for chunk in chunks if not (is_xmp(chunk) or is_iptc(chunk))]
    names = {name.decode("latin-1") for name, _, _ in others if name not in _PNG_TRIVIAL | _PNG_TEXTS}
    texts = dict.fromkeys(_text_of(name, data) for name, data, _ in others if name in _PNG_TEXTS)
    # GDAL takes white space round a text for nothing.
    left = {key for key, text in texts if text is None or heard.get(key.replace(" ", "_"), "").strip() != text.strip()}
    told = [f"PNG chunks {', '.join(sorted(names))}"] if names else []
    return [*told, f"PNG texts {', '.join(sorted(left))}"] if left else told


def _text_of(name: bytes, data: bytes) -> tuple[str, str | None]:
    """Keyword and text of a PNG's text chunk; None where it cannot be read."""
    key, _, rest = data.partition(b"\0")
    packed, coding = name == b"zTXt", "latin-1"
    if name == b"zTXt":
        rest = rest[1:]
    elif name == b"iTXt":
        packed, coding = rest[:1] == b"\1", "utf-8"
        rest = rest[2:].split(b"\0", 2)[-1]
    try:
        return key.decode("latin-1"), (zlib.decompress(rest) if packed else rest).decode(coding)
    except (ValueError, zlib.error):
        return key.decode("latin-1"), None


def dressed_png(bare: bytes, dressed: bytes) -> bytes:
    """A PNG with the pixels of one and the metadata of another; both well-formed."""
    own, other = _png_chunks(bare), _png_chunks(dressed)
    pixels = [chunk for name, chunk in own if name == b"IDAT"]
    names = [name for name, _ in other]
    first, last = names.index(b"IDAT"), len(names) - 1 - names[::-1].index(b"IDAT")
    before = [chunk for _, chunk in other[1:first]]
    return b"".join([bare[:8], own[0][1], *before, *pixels, *(chunk for _, chunk in other[last + 1 :])])


def _png_chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """Names and views of the bytes, length and checksum included."""
    found, at = [], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], memoryview(data)[at:end]))
        at = end
    return found


# ---------------------------------------------------------------- JPEG, WebP, BMP


def jpeg_settings(layers: Sequence[tuple[int, int, int, int]], tables: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """Encoder settings that repeat a JPEG's own quantisation tables and, where it can be written, subsampling.

    Args:
        layers: Per component: its id, sampling across, sampling down, number of its table.
        tables: Quantisation tables by number, as Pillow gives them.
    """
    chosen = [list(tables[layer[3]]) for layer in layers if layer[3] in tables]
    if len(chosen) != len(layers):
        return {"quality": 95, "subsampling": 0}
    while len(chosen) > 1 and chosen[-1] == chosen[-2]:
        chosen.pop()  # the encoder gives the last table to all further components
    others = {layer[1:3] for layer in layers[1:]} or {(1, 1)}
    across, down = others.pop()
    ratio = (layers[0][1] / across, layers[0][2] / down)
    usual = None if others else {(1.0, 1.0): 0, (2.0, 1.0): 1, (2.0, 2.0): 2}.get(ratio)
    return {"qtables": chosen, "subsampling": usual or 0}


def jpeg_segments(segments: Sequence[tuple[str, bytes]]) -> bytes:
    """Those of a JPEG's segments that have no channel of their own (comments, extended XMP), ready to be written.

    Left out are JFIF and Adobe, which the encoder writes, EXIF, XMP, ICC and IPTC, and the index of further pictures.
    """
    out = b""
    own = (b"Exif\0\0", _JPEG_XMP, b"ICC_PROFILE\0", b"MPF\0", _JPEG_PHOTOSHOP)
    for name, data in segments:
        if name not in ("APP0", "APP14") and not (name in ("APP1", "APP2", "APP13") and data.startswith(own)):
            marker = 0xFE if name == "COM" else 0xE0 + int(name[3:])
            out += struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    return out


def with_xmp(jpeg: bytes, xmp: bytes) -> bytes:
    """A JPEG with another XMP packet in place of its own, or behind its EXIF block; all else stays as it is.

    Args:
        jpeg: Well-formed, nothing between its segments.
        xmp: The packet, short enough for a segment: see `xmp_for`.
    """
    segment = struct.pack(">HH", 0xFFE1, len(_JPEG_XMP) + len(xmp) + 2) + _JPEG_XMP + xmp
    at = place = 2
    while (marker := jpeg[at + 1]) != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xE1 and jpeg.startswith(_JPEG_XMP, at + 4):
            return jpeg[:at] + segment + jpeg[end:]
        if at == place and marker in (0xE0, 0xE1):  # JFIF and EXIF come first
            place = end
        at = end
    return jpeg[:place] + segment + jpeg[place:]


def jpeg_photoshop(segments: Sequence[tuple[str, bytes]]) -> bytes:
    """Photoshop's image resources in a JPEG's segments."""
    found = [data for name, data in segments if name == "APP13" and data.startswith(_JPEG_PHOTOSHOP)]
    return b"".join(data.removeprefix(_JPEG_PHOTOSHOP) for data in found)


def behind_the_end(count: int) -> str:
    """What to say of bytes after the end of a JPEG, where they are lost."""
    return f"{count} bytes after the end of the JPEG"


def webp_chunks(stream: BinaryIO) -> list[str]:
    """Names of the chunks of a WebP that its format does not know."""
    stream.seek(4)
    end, found = int.from_bytes(stream.read(4), "little") + 8, []
    at = 12
    while at + 8 <= end:
        stream.seek(at)
        name, size = stream.read(4), int.from_bytes(stream.read(4), "little")
        if not name:  # a length that is beyond the file
            break
        if name not in _WEBP_KNOWN:
            found.append(name.decode("latin-1").strip())
        at += 8 + size + size % 2
    return found


def bmp_icc(stream: BinaryIO) -> bytes:
    """The colour profile of a BMP of version 5 that holds one; empty for all others."""
    stream.seek(0)
    head = stream.read(14 + 124)
    if len(head) < 138 or head[:2] != b"BM" or head[14] < 124 or head[14 + 56 : 14 + 60] != b"DEBM":
        return b""
    start, size = struct.unpack_from("<LL", head, 14 + 112)
    stream.seek(14 + start)
    icc = stream.read(size)
    return icc if len(icc) == size else b""


def bmp_header(width: int, height: int, dpi: tuple[float, float] | None) -> bytes:
    """Header of a 32-bit BMP that names an alpha mask. Pillow's writer names none, and readers then ignore alpha."""
    ppm = [int(value * 39.3701 + 0.5) for value in dpi or (0, 0)]
    size = 4 * width * height
    head = struct.pack("<2sLLL", b"BM", 122 + size, 0, 122)
    head += struct.pack("<LllHHLLllLL", 108, width, height, 1, 32, 3, size, *ppm, 0, 0)
    return head + struct.pack("<LLLL4s48x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")


# ---------------------------------------------------------------- what fits where


def exif_for(carried: Carried, format_name: str, orientation: int) -> bytes:
    """The EXIF block for JPEG, PNG or WebP: verbatim, or the least that keeps orientation and resolution."""
    if carried.exif and not (format_name == "JPEG" and len(carried.exif) > _JPEG_EXIF_ROOM):
        return carried.exif
    least = dpi_tags(carried.dpi) if format_name == "WEBP" else {}
    return exif_block(least | orientation_tag(orientation))


def xmp_for(carried: Carried, format_name: str) -> bytes:
    """The XMP packet, empty where the format has no room for it."""
    return b"" if format_name == "JPEG" and len(carried.xmp) > _JPEG_XMP_ROOM else carried.xmp


def icc_for(carried: Carried, widened: bool) -> bytes:
    """The colour profile; empty where it is one for grey and the pixels were widened from grey to RGB."""
    return b"" if widened and carried.icc[16:20] == b"GRAY" else carried.icc


def losses(carried: Carried, format_name: str, widened: bool, further: Sequence[str]) -> tuple[str, ...]:
    """What of a picture a format cannot hold.

    Args:
        carried: The metadata.
        format_name: Pillow's name of the format to be written.
        widened: Whether grey pixels are written as RGB.
        further: What is lost besides metadata.

    Returns:
        Nothing, or one line that names all of it.
    """
    lost = list(further)
    if format_name == "BMP":
        lost += ["ICC profile"] if carried.icc else []
        beyond = set(carried.tags) - _BMP_TAGS or not carried.tags
        if carried.tiff:  # whose other tags are named below
            beyond = set(carried.tags) & set(_SUB_DIRECTORIES)
        lost += ["EXIF"] if carried.exif and beyond else []
        lost += ["XMP"] if carried.xmp else []
    else:
        lost += ["ICC profile (grey, the pixels become RGB)"] if carried.icc and not icc_for(carried, widened) else []
        lost += ["EXIF (too long)"] if format_name == "JPEG" and len(carried.exif) > _JPEG_EXIF_ROOM else []
        lost += ["XMP (too long)"] if carried.xmp and not xmp_for(carried, format_name) else []
    if format_name == "WEBP" and carried.dpi and carried.exif and X_DPI not in carried.tags:
        lost.append("resolution")
    if format_name in ("WEBP", "BMP") and carried.photoshop:
        lost.append("IPTC")
    if format_name != "PNG":
        own = (is_xmp, is_iptc) if carried.photoshop else (is_xmp,)
        texts = {chunk[0] for chunk in carried.chunks if not any(held(chunk) for held in own)} - _PNG_TRIVIAL
        names = sorted(name.decode("latin-1") for name in texts)
        lost += [f"PNG chunks {', '.join(names)}"] if names else []
    if format_name != "JPEG" and carried.oblong:
        lost.append(ASPECT)
    if format_name != "JPEG" and carried.tail:
        lost.append(behind_the_end(len(carried.tail)))
    if format_name != "JPEG" and carried.jpeg.get("extra"):
        lost.append("JPEG segments (comments and the like)")
    if format_name != "TIFF" and carried.tiff:
        held = _BMP_TAGS | set(_SUB_DIRECTORIES) if format_name == "BMP" else _EXIF_TAGS
        numbers = sorted(set(carried.tags) - held - {IPTC, PHOTOSHOP})
        lost += [f"TIFF tags {', '.join(_NAMES.get(tag, str(tag)) for tag in numbers)}"] if numbers else []
        lost += carried.lost
    sentences = [f"{format_name} has no place for: {'; '.join(lost)}"] if lost else []
    return tuple(map(Loss, [*sentences, *(carried.left_behind if format_name != "TIFF" else ())]))
