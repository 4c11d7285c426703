"""Picture files: read them, lay masks over them, write them back faithful outside the hole.

It knows formats, modes, EXIF orientation and metadata. It knows nothing of tiles, networks, batches or what a caller
shows to people. Bytes of tags and chunks: `_carry`; blocks of a JPEG: `_jpeg`; colours as the network sees them:
`spaces`; how a file gets its place: `files`. Pillow reads and writes what has 8 bits; TIFF and 16 bits go through
`tiff`, for Pillow narrows some of that without a word.

Pixels stay as they are stored. A picture that its EXIF tag turns is restored lying on its side, and the tag goes into
the output, so that the output is displayed as the input is; a BMP has no such tag, there the pixels are turned.

A TIFF that becomes a TIFF is patched: a copy in which only the blocks with holes are new. Of a JPEG that becomes a JPEG
only the 8 x 8 blocks that the hole touches are new. WebP is always written lossless and "exact" (colours under full
transparency kept): lossy WebP changes every pixel, and outside the hole no pixel may change.

What was written is read back before it gets its name, and compared.
"""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from pconv_cli import _carry, _jpeg, files
from pconv_cli._carry import Carried, Tags
from pconv_cli.colours import as_bytes, lay, luminance
from pconv_cli.companions import Companions
from pconv_cli.errors import ItemError, Loss
from pconv_cli.files import quietly
from pconv_cli.layers import Layer, dotted, layers, limits_of, ranged
from pconv_cli.regions import Window

if TYPE_CHECKING:
    from pconv_cli import tiff

# Honest scans are bigger than Pillow's idea of an attack, and so is the metadata of some.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# Pillow logs a few errors besides raising them; without a handler of the caller's they would land on the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Name of a format on the command line -> file suffix, Pillow's name.
FORMATS: dict[str, tuple[str, str]] = {
    "jpg": (".jpg", "JPEG"),
    "jpeg": (".jpeg", "JPEG"),
    "png": (".png", "PNG"),
    "webp": (".webp", "WEBP"),
    "bmp": (".bmp", "BMP"),
    "tif": (".tif", "TIFF"),
    "tiff": (".tiff", "TIFF"),
}
_BY_SUFFIX = {**dict(FORMATS.values()), ".jpe": "JPEG"}
READ_SUFFIXES: frozenset[str] = frozenset(_BY_SUFFIX)

_MODES = frozenset(["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
_COLOURS = {"LA": 1, "RGBA": 3, "CMYK": 4, "RGB": 3}  # how many channels are colours; 1 where it is not said
_BLACK_AND_WHITE = np.array([[0, 0, 0, 255], [255, 255, 255, 255]], np.uint8)
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDE = {"PNG": np.uint16, "TIFF": np.float32}  # the widest type that a format holds; the others hold 8 bits
_LARGEST = {"JPEG": 65500, "WEBP": 16383}  # sides, by the formats' own rules
_READS_BACK_WRONG = "what was written does not read back as it should: nothing was kept; check the disk"
_ROWS = 256  # rows looked at together where a whole big picture would need memory many times over


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture file in memory.

    Attributes:
        path: Where it was read from.
        pixels: As stored (EXIF orientation not applied), uint8, uint16 or float32: (h, w) where a pixel is one value,
            else (h, w, channels).
        mode: "L", "LA", "RGB", "RGBA", "CMYK" (0 = no ink), "P" (palette indices), "1" (0 black, 1 white), or "BANDS"
            where a TIFF has others.
        format: "JPEG", "PNG", "WEBP", "BMP" or "TIFF".
        orientation: EXIF orientation 1..8; 1 where there is none or it is invalid.
        layers: Channels that are filled together, and how the network sees them.
        carried: Metadata for the output; nobody's business but this module's.
        notices: What is in the file and cannot be carried over, one line each; losses are `errors.Loss`.
        alpha: Index of the alpha channel, or None.
        nodata: The value that stands for "nothing here", if the file names one.
        shown: Where a TIFF says that it holds something, (h, w); None: everywhere, or `alpha` tells.
        inverted: Whether white is 0.
        encoded: The file's bytes, of a JPEG.
        before: Pixels as they were read, once some have been filled.
        hole: Where they were filled, (h, w).
        revealed: Whether what was filled was transparent, or nothing, and now is not.
        as_laid: Whether some of what was filled is meant to be nothing: values that nobody could tell.
        stamped: Whether its XMP is to be another one than the file's, see `stamped`.
    """

    path: Path
    pixels: NDArray[Any]
    mode: str
    format: str
    orientation: int
    layers: tuple[Layer, ...]
    carried: Carried
    notices: tuple[str, ...] = ()
    alpha: int | None = None
    nodata: float | None = None
    shown: NDArray[np.bool_] | None = None
    inverted: bool = False
    encoded: bytes = b""
    before: NDArray[Any] | None = None
    hole: NDArray[np.bool_] | None = None
    revealed: bool = False
    as_laid: bool = False
    stamped: bool = False

    @property
    def height(self) -> int:
        """Rows as stored."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns as stored."""
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> NDArray[Any]:
        """The pixels, (h, w, channels) even where that is one; a view."""
        return self.pixels.reshape(self.height, self.width, -1)

    def seen(self, layer: Layer) -> NDArray[Any]:
        """A layer as the network sees it, (h, w, c), see `Layer.seen`. May be a view of the pixels."""
        return layer.seen(self.channels)

    def rgb(self) -> NDArray[np.uint8]:
        """The colours, (h, w, 3): grey repeated, palette looked up, alpha left out, 16 bits brought down to 8."""
        return as_bytes(self.seen(self.layers[0]))

    def visible(self) -> NDArray[np.bool_] | None:
        """Where the picture shows anything, (h, w): alpha above 0, not nodata; None when it does everywhere."""
        if self.shown is not None:
            return self.shown
        alpha = _alpha(self)
        return None if alpha is None else alpha > 0

    @classmethod
    def nothing(cls, path: Path) -> Picture:
        """A picture that need not be read."""
        return cls(path, np.zeros((0, 0), np.uint8), "L", "", 1, (), Carried())

    def known_outside(self, hole: NDArray[np.bool_]) -> Picture:
        """The picture once it is told what is damaged, (h, w): what it is seen as goes by the rest of it."""
        if self.mode != "1" and self.pixels.dtype.kind != "f":
            return self
        known = ~hole if self.shown is None else ~hole & self.shown
        if self.mode == "1":
            return replace(self, layers=dotted(self.layers, self.pixels, known))
        return replace(self, layers=ranged(self.layers, limits_of(self.layers, self.channels[known])))

    def filled(self, fills: Mapping[Layer, NDArray[Any]], hole: NDArray[np.bool_], *, reveal: bool = False) -> Picture:
        """Take the hole's colours from `fills`; every other pixel stays bit-identical, and so does all transparency.

        Grey takes the rounded Rec. 601 luminance, a palette its nearest opaque colour. Where one colour stands for
        "transparent", pixels of that colour stay, and no other pixel becomes it.

        Args:
            fills: For each layer that is to be filled (h, w, c), as `seen` gives it.
            hole: (h, w), True where they are to be taken.
            reveal: Whether the hole is what was transparent: it is opaque then, and takes colours all the same.

        Raises:
            ValueError: The shapes do not fit the picture.
        """
        size = (self.height, self.width)
        fit = all(fill.shape == (*size, layer.width) for layer, fill in fills.items())
        if not fit or hole.shape != size or hole.dtype != np.bool_:
            raise ValueError(f"need fills as wide as their layers, and bool, of {size}, got others")
        where = self.taking(hole, reveal=reveal)
        pixels = self.pixels.copy()
        channels = pixels.reshape(*size, -1)
        for layer, fill in fills.items():
            if pixels.dtype == fill.dtype == np.uint8 and len(layer.channels) == 3:
                lay(layer.taken(channels), fill, where)
            else:
                layer.put(channels, fill, where)
        if self.carried.colour_key is not None:
            channels[where] = _off_key(channels[where], self.carried.colour_key)
        if reveal and self.alpha is not None:
            channels[where, self.alpha] = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        meant = any(layer.may_be_empty for layer in fills)
        return replace(self, pixels=pixels, before=self.pixels, hole=hole, revealed=reveal, as_laid=meant)

    def taking(self, hole: NDArray[np.bool_], *, reveal: bool = False) -> NDArray[np.bool_]:
        """Which pixels of a hole, (h, w), take colours when it is filled; the arguments are those of `filled`."""
        shown = None
        if not reveal and (self.mode == "P" or self.carried.colour_key is not None):
            shown = self.visible()
        return hole if shown is None else hole & shown


@dataclass(frozen=True)
class Written:
    """What writing a picture came to.

    Attributes:
        notices: What the target's format could not hold, and the like, one line each; losses are `errors.Loss`.
        outside_changed: Pixels outside the hole that are not as they were, counted after reading the file back.
    """

    notices: tuple[str, ...] = ()
    outside_changed: int = 0


Ready = Callable[[Path, Sequence[str]], None]
"""Called with a finished file, just before it gets its name, and the notices about it; may raise to have it removed."""


@dataclass(frozen=True, eq=False)
class MaskImage:
    """A mask file.

    Attributes:
        path: Where it was read from.
        hole: (h, w) as stored, True where more than 50 % grey and not transparent: damaged.
        orientation: The mask file's own EXIF orientation.
    """

    path: Path
    hole: NDArray[np.bool_]
    orientation: int


# ---------------------------------------------------------------- reading


def read_picture(path: Path, *, linear: bool = False) -> Picture:
    """Read a picture with all that its output has to carry.

    Args:
        path: The file.
        linear: Whether values are linear in light where no colour profile says what they are.

    Raises:
        ItemError: Missing, unreadable, damaged, or of a kind that would have to be changed to be restored.
    """
    if is_tiff(path):
        with _blaming(path):
            return _read_tiff(path, linear)
    notices: list[str] = []
    with _opened(path) as (image, stream):
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        _refuse(path, image, kind)
        _refuse_several(path, image, kind)
        mode, pixels = image.mode, _pixels(image)  # first: the metadata of a PNG may follow its pixels
        if kind == "PNG" and _png_depth(stream) == 16:
            mode, pixels = _deep_png(path)
        tags, exif = _read_exif(image, stream, kind, notices)
        orientation = _carry.orientation_of(tags)
        parts: dict[str, Any] = {"icc": bytes(image.info.get("icc_profile") or b""), "exif": exif, "tags": tags}
        parts |= _read_xmp_and_dpi(image, kind, tags) | _read_transparency(image, stream, kind)
        encoded = b""
        if kind == "JPEG":
            parts |= _read_jpeg(image, notices)
            stream.seek(0)
            encoded = stream.read()
            # Of a file with further pictures those are what follows, and they are not carried.
            parts["tail"] = b"" if "mp" in image.info or getattr(image, "n_frames", 1) > 1 else _jpeg.tail(encoded)
        elif kind == "PNG":
            parts["photoshop"] = _carry.as_resource(_raw_profile(image, "iptc"))
            parts["chunks"], lost = _carry.read_chunks(stream)
            notices += [Loss(f"{item} is not carried over") for item in lost]
        carried = Carried(**parts)
        return Picture(
            path, pixels, mode, kind, orientation, _layers(mode, pixels, carried, linear=linear), carried,
            tuple(notices), alpha={"LA": 1, "RGBA": 3}.get(mode), encoded=encoded,
        )  # fmt: skip


DRAWN = 40
"""Of 255: what is lighter than that on a mask is no noise of a scanner or a camera."""

RAGGED, MUCH, GREYS = 0.01, 0.1, 0.25
"""Of a mask's pixels: ends of marks along the rows, marked ones, middle greys; more than that have photographs."""


def read_mask(path: Path) -> MaskImage:
    """Read a mask of any mode but float: what is lighter than 50 % grey and not transparent is damaged.

    Raises:
        ItemError: Missing, unreadable, damaged, floating-point, or with more than one picture in it.
    """
    if is_tiff(path):
        from pconv_cli import tiff

        return MaskImage(path, np.concatenate(list(tiff.mask_strips(path, _ROWS))), tiff.orientation(path))
    with _opened(path) as (image, stream):
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        _refuse_several(path, image, kind)
        mode = image.mode if image.mode in _MODES or image.mode.startswith("I") else "RGBA"
        mode = "RGBA" if mode == "CMYK" else mode
        try:
            pixels = _pixels(image, "" if mode == image.mode else mode)
        except ValueError as error:
            raise ItemError(path, f"a mask in mode {image.mode} cannot be read: save it as 8-bit grey") from error
        orientation = _carry.orientation_of(_read_exif(image, stream, kind, [])[0])
        if mode not in _MODES or mode == "1":
            return MaskImage(path, pixels > (0 if mode == "1" else 32767), orientation)
        carried = Carried(**_read_transparency(image, stream, kind))
        layers = _layers(mode, pixels, carried, linear=False)
        blocks = [
            _is_white(
                Picture(
                    path, pixels[y : y + _ROWS], mode, kind, 1, layers, carried, alpha={"LA": 1, "RGBA": 3}.get(mode)
                )
            )
            for y in range(0, len(pixels), _ROWS)
        ]
        return MaskImage(path, np.concatenate(blocks), orientation)


def is_drawn_on(mask: Path, *, inverted: bool = False) -> bool:
    """Whether something is drawn on a mask that marks nothing: two tones, or what is too light for noise on black.

    Args:
        mask: The file.
        inverted: Whether black is what it would mark.

    Raises:
        ItemError: It cannot be read.
    """
    picture = read_picture(mask)
    light, shown = luminance(picture.rgb()), picture.visible()
    light = 255 - light if inverted else light
    tones = np.unique(light if shown is None else light[shown])
    if len(tones) < 2:  # a hidden layer; or else tones that 8 bits do not tell apart, or transparency alone
        return len(tones) == 1 and len(np.unique(picture.channels.reshape(light.size, -1), axis=0)) > 1
    return len(tones) == 2 or int(tones[-1]) >= DRAWN


def looks_like_a_photograph(mask: Path, hole: NDArray[np.bool_]) -> bool:
    """Whether a mask file has the greys of a picture; the file is read again only where what it marks is ragged.

    Args:
        mask: The file.
        hole: `(h, w)`, what it marks.
    """
    ragged = np.count_nonzero(hole[:, 1:] != hole[:, :-1]) > RAGGED * hole.size
    if not ragged or np.count_nonzero(hole) < MUCH * hole.size:
        return False
    with suppress(ItemError, ValueError):
        light = luminance(read_picture(mask).rgb())
        return bool(np.mean((light > 63) & (light < 192)) > GREYS)
    return False


def align_mask(
    mask: MaskImage, picture: Picture, drawn_on: Literal["auto", "displayed", "stored"]
) -> NDArray[np.bool_]:
    """Lay a mask over the stored pixels of a picture.

    Args:
        mask: The mask.
        picture: The picture; its EXIF orientation says how it is displayed.
        drawn_on: What the mask's author saw: the picture as "displayed" or as "stored". "auto" takes whichever
            agrees in size, and "displayed" where both do.

    Returns:
        The hole, (h, w) of `picture.pixels`, True where damaged.

    Raises:
        ItemError: The sizes do not agree. Masks are never stretched.
    """
    stored = picture.pixels.shape[:2]
    displayed = stored[::-1] if picture.orientation >= 5 else stored
    upright = _upright(mask.hole, mask.orientation)
    if drawn_on != "stored" and upright.shape == displayed:
        return np.ascontiguousarray(_lying(upright, picture.orientation))
    if drawn_on != "displayed" and mask.hole.shape == stored:
        return mask.hole
    own = mask.hole if drawn_on == "stored" else upright
    sizes = [f"{stored[1]} x {stored[0]}"] if drawn_on != "displayed" else []
    sizes += [f"{displayed[1]} x {displayed[0]} as displayed"] if displayed != stored and drawn_on != "stored" else []
    sizes = sizes or [f"{displayed[1]} x {displayed[0]}"]
    reason = f"mask is {own.shape[1]} x {own.shape[0]}, the picture {' or '.join(sizes)}: they must agree"
    raise ItemError(mask.path, f"{reason}; masks are never stretched")


def probe(path: Path) -> tuple[int, int]:
    """Width and height as stored, from the header alone.

    Raises:
        ItemError: Not a picture that can be opened.
    """
    if is_tiff(path):
        from pconv_cli import tiff

        return tiff.mask_size(path)
    with _opened(path) as (image, _):
        return image.size


def same_format(source: Path, target: Path) -> bool:
    """Whether two names stand for one format, however they spell it."""
    return _BY_SUFFIX.get(source.suffix.lower()) == _BY_SUFFIX.get(target.suffix.lower())


# ---------------------------------------------------------------- writing


def foreseen(picture: Picture, target: Path) -> tuple[str, ...]:
    """What would be lost by writing a picture there, as far as that can be told beforehand, one line each.

    Raises:
        ItemError: The format cannot hold the picture.
    """
    kind = _kind_of(target)
    if kind == picture.format == "TIFF":  # a copy, of which only blocks change
        return ()
    lost = [*picture.notices, *_losses(picture, kind, _for_format(picture, kind, target)[1])]
    if kind == "JPEG":
        what = "blocks that the hole touches are encoded again" if picture.format == kind else "all pixels change a bit"
        lost.append(Loss(f"a JPEG: {what}"))
    return tuple(notice for notice in lost if isinstance(notice, Loss))


def write_picture(picture: Picture, target: Path, *, overwrite: bool, ready: Ready | None = None) -> Written:
    """Write a picture in the format of the target's suffix, all of it or nothing.

    Args:
        picture: What to write.
        target: Where to; folders are made.
        overwrite: Whether a file that is there may be replaced.
        ready: Told of the finished file.

    Returns:
        What the target's format could not hold, and what has changed outside the hole.

    Raises:
        ItemError: The format cannot hold the picture, the target exists or is the source, or the disk says no.
    """
    kind = _kind_of(target)
    if picture.hole is None:
        picture = picture.filled({}, np.zeros((picture.height, picture.width), np.bool_))
    if kind == picture.format == "TIFF":
        return _patch_tiff(picture, target, overwrite, ready)
    try:
        pixels, mode = _for_format(picture, kind, target)
        notices = _losses(picture, kind, mode)
        files.refuse_same(picture.path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target, overwrite=overwrite) as stream:
            told = _encode(picture, pixels, mode, kind, stream)
            notices += told
            stream.flush()
            part = Path(stream.name)
            patched = kind == picture.format == "JPEG" and mode == picture.mode and not told
            changed = _read_back(picture, part, pixels, mode, target, patched=patched)
            if ready is not None:
                ready(part, notices)
    except ItemError:
        raise
    except Exception as error:  # an encoder may raise anything; one picture must not end the batch
        raise ItemError(target, _why_unwritable(error, kind)) from error
    return Written(notices, changed)


def stamped(picture: Picture, target: Path, change: Callable[[bytes], bytes]) -> tuple[Picture, bytes]:
    """Give a picture other XMP, where the format that it is going to be written in has room for it.

    Args:
        picture: What is going to be written.
        target: Where to.
        change: Makes the new packet of the one that the picture has, which is empty where it has none.

    Returns:
        The picture, and the packet if there is no room for it: the picture's own is as it was then.

    Raises:
        ValueError: The picture's packet cannot be read.
    """
    carried, kind = picture.carried, _kind_of(target)
    if not carried.xmp and any(map(_carry.is_xmp, carried.chunks)):
        raise ValueError("cannot be read")
    new = replace(carried, xmp=change(carried.xmp))
    if kind == "BMP" or not _carry.xmp_for(new, kind):
        return picture, new.xmp
    chunks = tuple(chunk for chunk in carried.chunks if not _carry.is_xmp(chunk))
    return replace(picture, carried=replace(new, chunks=chunks), stamped=True), b""


def write_map(
    values: NDArray[np.uint8], target: Path, picture: Picture, output: Path, *, overwrite: bool,
    ready: Ready | None = None,
) -> None:  # fmt: skip
    """Write a value for each pixel of a picture as grey PNG, all of it or nothing.

    Args:
        values: (h, w), as the picture is stored.
        target: Where to; folders are made.
        picture: The picture.
        output: Where its result is written: the map lies, and is displayed, as that does.
        overwrite: Whether a file that is there may be replaced.
        ready: Told of the finished file, as in `write_picture`.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    turned = _kind_of(output) == "BMP"
    values = np.ascontiguousarray(_upright(values, picture.orientation) if turned else values)
    exif = b"" if turned else _carry.exif_block(_carry.orientation_tag(picture.orientation))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target, overwrite=overwrite) as stream:
            Image.fromarray(values).save(stream, "PNG", exif=exif)
            stream.flush()
            if ready is not None:
                ready(Path(stream.name), ())
    except OSError as error:
        raise ItemError(target, _why_unwritable(error, "PNG")) from error


def write_png(pixels: NDArray[np.uint8], target: Path, *, overwrite: bool, orientation: int = 1) -> None:
    """Write a drawing, `(h, w, 3)`, as PNG whatever the name says, turned as its EXIF orientation displays it.

    All of it is written, or nothing.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    upright = np.ascontiguousarray(_upright(pixels, orientation))
    _write_shown(Image.fromarray(upright), target, overwrite, "PNG")


def _write_shown(image: Image.Image, target: Path, overwrite: bool, kind: str, **options: Any) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target, overwrite=overwrite) as stream:
            image.save(stream, kind, **options)
    except OSError as error:
        raise ItemError(target, _why_unwritable(error, kind)) from error


def write_view(pixels: NDArray[np.uint8], target: Path, *, overwrite: bool, quality: int = 90) -> None:
    """Write what is only to be looked at, `(h, w, 3)`, as JPEG without chroma subsampling, all of it or nothing.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    _write_shown(Image.fromarray(pixels), target, overwrite, "JPEG", quality=quality, subsampling=0)


def write_layer(hole: NDArray[np.bool_], colour: tuple[int, int, int], target: Path, *, overwrite: bool) -> None:
    """Write a hole, `(h, w)`, as a PNG of one colour that is transparent elsewhere, all of it or nothing.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    image = Image.fromarray(hole.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *colour])
    _write_shown(image, target, overwrite, "PNG", bits=1, transparency=0)


def reduced(pixels: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """A picture, `(h, w, 3)`, made smaller until no side is longer; one that fits is given back as it is."""
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BOX if scale < 0.1 else Image.Resampling.LANCZOS))


def displayed(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn what is as stored, `(h, w, ...)`, as a picture of that EXIF orientation is displayed."""
    return _upright(array, orientation)


def write_mask(mask: MaskImage, *, overwrite: bool, ready: Ready | None = None) -> None:
    """Write a mask under its name, PNG or TIFF, white where damaged; all of it or nothing.

    It lies as the picture is stored and has the picture's EXIF orientation, so that both are displayed alike. `ready`
    is told of it as in `write_picture`.

    Raises:
        ItemError: The target exists, its name stands for another format, or the disk says no.
    """
    target, kind = mask.path, _kind_of(mask.path)
    if kind not in ("PNG", "TIFF"):
        raise ItemError(target, "masks are written as PNG or TIFF, which keep white white: choose such a name")
    options: dict[str, Any] = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    if exif := _carry.exif_block(_carry.orientation_tag(mask.orientation)):
        options["exif"] = exif
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target, overwrite=overwrite) as stream:
            Image.fromarray(mask.hole.astype(np.uint8) * np.uint8(255)).save(stream, kind, **options)
            stream.flush()
            if ready is not None:
                ready(Path(stream.name), ())
    except (OSError, MemoryError) as error:
        raise ItemError(target, _why_unwritable(error, kind)) from error


def copy_file(source: Path, target: Path, *, overwrite: bool, ready: Ready | None = None) -> None:
    """Copy a file byte by byte, all of it or nothing; `ready` is told of it as in `write_picture`.

    What lies beside a TIFF and describes it goes with it.

    Raises:
        ItemError: The source cannot be read, the target exists or is the source, or the disk says no.
    """
    try:
        stream = source.open("rb")
    except OSError as error:
        raise ItemError(source, _why_unreadable(source, error)) from error
    with stream:
        try:
            files.refuse_same(source, target)
            target.parent.mkdir(parents=True, exist_ok=True)
            described = Companions.of(source) if is_tiff(source) else Companions()
            described.refuse_taken(target, overwrite=overwrite)
            with ExitStack() as together, files.whole(target, overwrite=overwrite) as out:
                shutil.copyfileobj(stream, out, 1 << 20)
                out.flush()
                if ready is not None:
                    ready(Path(out.name), ())
                together.enter_context(described.beside(target, overwrite=overwrite))
        except OSError as error:
            raise ItemError(target, _why_unwritable(error, "a copy")) from error


def _kind_of(target: Path) -> str:
    kind = _BY_SUFFIX.get(target.suffix.lower())
    if kind is None:
        raise ItemError(target, f"cannot write '{target.suffix}' files: choose one of {', '.join(sorted(FORMATS))}")
    return kind


def _losses(picture: Picture, kind: str, mode: str) -> tuple[str, ...]:
    """What of a picture a format cannot hold that takes it in this mode: nothing, or one line."""
    lost = {"P": ["its palette"], "1": ["1 bit per pixel"]}.get(picture.mode, []) if mode != picture.mode else []
    if picture.shown is not None:  # of a TIFF, and none is written here from another
        lost.append("where it shows nothing (nodata or mask band)")
    return _carry.losses(picture.carried, kind, _widened(picture, mode), lost)


def _widened(picture: Picture, mode: str) -> bool:
    return picture.mode in ("1", "L", "LA") and mode in ("RGB", "RGBA")


def _patch_tiff(picture: Picture, target: Path, overwrite: bool, ready: Ready | None) -> Written:
    from pconv_cli import tiff

    assert picture.hole is not None and picture.before is not None
    channels, hole, changed = picture.channels, picture.hole, 0
    before = picture.before.reshape(channels.shape)

    def read_back(part: Path, notices: Sequence[str]) -> None:
        nonlocal changed
        with tiff.Source(part) as made:
            after = made.read(Window(0, 0, made.width, made.height))
        bits = f"u{before.dtype.itemsize}"  # in which a NaN is itself
        changed = int((_anywhere(before.view(bits) != after.view(bits)) & ~hole).sum())
        if changed and not any(isinstance(notice, Loss) for notice in notices):
            raise ItemError(target, _READS_BACK_WRONG)
        if ready is not None:
            ready(part, notices)

    with (
        tiff.Source(picture.path) as source,
        tiff.Canvas(
            source, target, overwrite=overwrite, mark_valid=picture.revealed, as_laid=picture.as_laid
        ) as canvas,
    ):
        if (source.height, source.width, source.bands) != channels.shape:
            raise ItemError(picture.path, "was changed while it was being restored: run it again")
        for y in range(0, source.height, _ROWS):
            strip = Window(0, y, source.width, min(_ROWS, source.height - y))
            if hole[strip.slices].any():
                canvas.lay(strip, channels[strip.slices], hole[strip.slices])
        xmp = picture.carried.xmp if picture.stamped else None
        return Written(canvas.commit(ready=read_back, xmp=xmp), changed)


def _for_format(picture: Picture, kind: str, target: Path) -> tuple[NDArray[Any], str]:
    """Pixels and mode that the format can hold and that decode to the same colours."""
    if kind == "TIFF" and picture.format == "TIFF":
        return picture.pixels, picture.mode
    if max(picture.height, picture.width) > _LARGEST.get(kind, 2**31):
        reason = f"{kind} holds at most {_LARGEST[kind]} pixels a side, this picture is"
        raise ItemError(target, f"{reason} {picture.width} x {picture.height}: write png or tiff")
    mode, pixels = picture.mode, picture.pixels
    if pixels.dtype.itemsize > np.dtype(_WIDE.get(kind, np.uint8)).itemsize:
        bits = "32-bit floating-point" if pixels.dtype.kind == "f" else "16-bit"
        raise ItemError(
            target, f"{kind} cannot hold {bits} values and none are narrowed: write tiff" + " or png" * (bits[0] == "1")
        )
    if mode == "BANDS" or (mode == "CMYK" and kind not in ("JPEG", "TIFF")):
        what = "CMYK colours" if mode == "CMYK" else f"{picture.channels.shape[2]} channels"
        raise ItemError(target, f"{kind} has no place for {what}: write tiff")
    alpha = _alpha(picture)
    if alpha is not None and kind == "JPEG":
        raise ItemError(target, "JPEG has no transparency and this picture has: write png, webp or tiff")
    if picture.inverted:
        pixels = np.iinfo(pixels.dtype).max - pixels
    keeps = kind == "PNG" or (mode in "1P" and alpha is None and kind in ("BMP", "TIFF"))
    if not keeps and (mode in "1P" or picture.carried.colour_key is not None or kind in ("WEBP", "BMP")):
        grey = mode in ("1", "L", "LA") and (kind in ("TIFF", "JPEG") or (kind == "BMP" and alpha is None))
        colours = picture.rgb() if mode in "1P" else np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
        colours = np.repeat(colours[..., :1], 3, 2) if mode == "LA" else colours[..., :3]
        colours = colours[..., :1] if grey else colours
        mode = ("L" if grey else "RGB") + ("" if alpha is None else "A")
        pixels = np.squeeze(colours, 2) if mode == "L" else colours
        pixels = pixels if alpha is None else np.dstack([colours, alpha])
    if kind == "BMP":
        pixels = _upright(pixels, picture.orientation)
    return np.ascontiguousarray(pixels), mode


def _encode(picture: Picture, pixels: NDArray[Any], mode: str, kind: str, out: BinaryIO) -> tuple[str, ...]:
    """Write the file's bytes to a stream that stands open for reading and writing; what there is to say of them."""
    carried = picture.carried
    icc = _carry.icc_for(carried, _widened(picture, mode))
    exif = _carry.exif_for(carried, kind, picture.orientation)
    if kind == "JPEG" and picture.hole is not None and mode == picture.mode and picture.encoded:
        try:
            patched = _jpeg.patch(picture.encoded, pixels, picture.hole)
            out.write(_carry.with_xmp(patched, carried.xmp) if picture.stamped else patched)
            out.write(carried.tail)
            return ()
        except ValueError as error:
            again = Loss(f"all of the JPEG is encoded again, for its blocks cannot be kept: {error}")
            _encode_jpeg(pixels, mode, carried, icc, exif, out)
            return (again,)
    if kind == "BMP":
        across, down = carried.dpi or (0, 0)
        dpi = (across, down) if picture.orientation < 5 else (down, across)
        if mode == "RGBA":
            out.write(_carry.bmp_header(pixels.shape[1], pixels.shape[0], dpi))
            out.write(pixels[::-1, :, [2, 1, 0, 3]].tobytes())
        else:
            # Of two colours, black and white, Pillow's reader takes every bit for a pixel.
            three = replace(carried, palette=carried.palette.ljust(12, b"\0"))
            _image(pixels, mode, three).save(out, "BMP", dpi=dpi)
    elif kind == "JPEG":
        _encode_jpeg(pixels, mode, carried, icc, exif, out)
    elif kind == "PNG":
        _encode_png(pixels, mode, carried, icc, exif, out)
    elif kind == "WEBP":
        _image(pixels, mode, carried).save(
            out, "WEBP", lossless=True, exact=True, icc_profile=icc, exif=exif, xmp=carried.xmp
        )
    else:
        if pixels.dtype == np.uint8 and mode != "CMYK":
            predictor = {} if mode in "1P" else {317: 2}
            _image(pixels, mode, carried).save(out, "TIFF", compression="tiff_adobe_deflate", tiffinfo=predictor)
        else:
            from pconv_cli import tiff

            out.write(tiff.encoded(pixels.reshape(*pixels.shape[:2], -1), mode))
        _carry.graft_tags(out, _carry.tiff_tags(carried, icc, picture.orientation))
    return ()


def _encode_jpeg(
    pixels: NDArray[np.uint8], mode: str, carried: Carried, icc: bytes, exif: bytes, out: BinaryIO
) -> None:
    _image(pixels, mode, carried).save(out, "JPEG", icc_profile=icc, **_jpeg_options(carried, exif))
    out.write(carried.tail)


def _encode_png(pixels: NDArray[Any], mode: str, carried: Carried, icc: bytes, exif: bytes, out: BinaryIO) -> None:
    options = _png_options(carried, exif, mode)
    if pixels.dtype == np.uint8:
        _image(pixels, mode, carried).save(out, "PNG", icc_profile=icc, **options)
        return
    from pconv_cli import tiff

    # Pillow has no 16-bit colours: it writes the metadata, round a pixel, and GDAL the pixels.
    dressed = io.BytesIO()
    _image(np.zeros((1, 1, *pixels.shape[2:]), np.uint8), mode, carried).save(
        dressed, "PNG", icc_profile=icc, **options
    )
    bare = tiff.encoded(pixels.reshape(*pixels.shape[:2], -1), mode, "PNG")
    out.write(_carry.dressed_png(bare, dressed.getvalue()))


def _read_back(picture: Picture, part: Path, pixels: NDArray[Any], mode: str, target: Path, *, patched: bool) -> int:
    """Compare a file with what was written to it; the number of pixels that changed outside the hole.

    Of a JPEG whose blocks were kept, `patched`, none may have changed beyond those that the hole touches.
    """
    assert picture.before is not None and picture.hole is not None
    kind = _kind_of(target)
    made = _pixels_alone(part, picture) if kind in ("JPEG", "WEBP") else read_picture(part)
    written = replace(picture, pixels=pixels, mode=mode)
    if kind != "JPEG" and _changed(made, written).any():
        raise ItemError(target, _READS_BACK_WRONG)
    before = replace(picture, pixels=picture.before, before=None)
    before = replace(before, pixels=_for_format(before, kind, target)[0], mode=mode)
    hole = _upright(picture.hole, picture.orientation) if kind == "BMP" else picture.hole
    changed = _changed(made, before) & ~hole
    if patched and (changed & ~_jpeg.reach(picture.encoded, hole)).any():
        raise ItemError(picture.path, "a damaged JPEG, whose blocks do not come back as they were: use --format png")
    return int(changed.sum())


def _pixels_alone(path: Path, like: Picture) -> Picture:
    """A picture file without its metadata, which takes longer to read than some pixels."""
    with _opened(path) as (image, _):
        return replace(like, pixels=_pixels(image), mode=image.mode, before=None)


def _changed(one: Picture, other: Picture) -> NDArray[np.bool_]:
    """Where two pictures differ as they are stored, (h, w); of palettes, and across modes, what they show counts."""
    if one.pixels.shape[:2] != other.pixels.shape[:2]:
        return np.ones(other.pixels.shape[:2], np.bool_)
    if one.mode == other.mode != "P":
        differ = one.channels != other.channels
        return _anywhere(differ) if differ.any() else np.zeros(differ.shape[:2], np.bool_)
    strips = [slice(y, y + _ROWS) for y in range(0, one.height, _ROWS)]
    return np.concatenate([_anywhere(_as_rgba(one, rows) != _as_rgba(other, rows)) for rows in strips])


def _anywhere(differ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w, channels) to (h, w), True where any channel is; NumPy's own `any` takes several times as long."""
    return reduce(np.logical_or, np.moveaxis(differ, 2, 0))


def _as_rgba(picture: Picture, rows: slice) -> NDArray[Any]:
    """Some rows of a picture that is neither CMYK nor BANDS, (h, w, 4), nothing of them converted."""
    pixels = picture.channels[rows]
    if picture.mode == "P":
        return np.asarray(_palette_table(picture.carried)[pixels[..., 0]])
    pixels = pixels * np.uint8(255) if picture.mode == "1" else pixels
    opaque = np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
    alpha = pixels[..., -1:] if picture.mode in ("LA", "RGBA") else opaque
    colours = np.broadcast_to(pixels[..., : _COLOURS.get(picture.mode, 1)], (*alpha.shape[:2], 3))
    return np.concatenate([colours, alpha], axis=2)


def _image(pixels: NDArray[np.uint8], mode: str, carried: Carried) -> Image.Image:
    if mode == "CMYK":
        return Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    image = Image.fromarray(pixels.astype(np.bool_) if mode == "1" else pixels)
    if mode == "P":
        colours = max(len(carried.palette) // 4, int(pixels.max()) + 1)  # some files use more than they define
        image.putpalette(_palette_table(carried)[:colours, :3].tobytes())
    return image


def _jpeg_options(carried: Carried, exif: bytes) -> dict[str, Any]:
    options = dict(carried.jpeg) or {"quality": 95, "subsampling": 0}
    dpi = tuple(round(value) for value in carried.dpi or (0, 0))
    block = b"Exif\0\0" + exif if exif else b""
    options["extra"] = options.get("extra", b"") + _carry.photoshop_segments(carried.photoshop)
    return options | {"exif": block, "xmp": _carry.xmp_for(carried, "JPEG"), "dpi": dpi}


def _png_options(carried: Carried, exif: bytes, mode: str) -> dict[str, Any]:
    info = PngImagePlugin.PngInfo()
    for name, data, after in carried.chunks:
        info.add(name, data, after)
    if carried.xmp and not any(_carry.is_xmp(chunk) for chunk in carried.chunks):
        info.add_itxt("XML:com.adobe.xmp", carried.xmp)
    if carried.photoshop and not any(_carry.is_iptc(chunk) for chunk in carried.chunks):
        info.add_text("Raw profile type iptc", _carry.iptc_text(carried.photoshop), zip=True)
    options: dict[str, Any] = {"pnginfo": info, "exif": exif, "dpi": carried.dpi}
    if mode == "P":
        alpha = np.frombuffer(carried.palette, np.uint8)[3::4].tobytes().rstrip(b"\xff")
        options |= {"transparency": alpha} if alpha else {}
    elif carried.colour_key is not None:
        options["transparency"] = carried.colour_key if mode == "RGB" else carried.colour_key[0]
    return options


# ---------------------------------------------------------------- inside a file that is being read


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Make an ItemError of whatever goes wrong with a file that is read."""
    try:
        yield
    except ItemError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise ItemError(path, _why_unreadable(path, error)) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Open a picture file; whatever goes wrong with it inside the block becomes an ItemError."""
    with _blaming(path), path.open("rb") as stream:
        with quietly():
            image = Image.open(stream, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF"))
        yield image, stream


def _pixels(image: Image.Image, mode: str = "") -> NDArray[Any]:
    """Decode, after a conversion if `mode` is given."""
    pixels = np.ascontiguousarray(np.asarray(image.convert(mode) if mode else image))
    # What stands for True may be any byte there.
    return (pixels.view(np.uint8) > 0).astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def may_be_deep(path: Path) -> bool:
    """Whether a picture may have more than 8 bits a channel, by its first bytes."""
    with suppress(OSError), path.open("rb") as stream:
        head = stream.read(25)
        return head[:4] in _TIFF_STARTS or (head[1:4] == b"PNG" and head[24:] == b"\x10")
    return False


def suffix_of(path: Path) -> str:
    """The suffix that fits a file's content; ".png" where it is no picture that can be read."""
    if is_tiff(path):
        return ".tif"
    with suppress(ItemError), _opened(path) as (image, _):
        return next(suffix for suffix, kind in _BY_SUFFIX.items() if kind == str(image.format).replace("MPO", "JPEG"))
    return ".png"


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(4) in _TIFF_STARTS
    return False


def _deep_png(path: Path) -> tuple[str, NDArray[Any]]:
    """Mode and pixels of a PNG of 16 bits, whose colours Pillow narrows."""
    from pconv_cli import tiff

    with tiff.Source(path) as source:
        pixels = source.read(Window(0, 0, source.width, source.height))
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[source.bands]
        return mode, pixels[..., 0] if source.bands == 1 else pixels


def _read_tiff(path: Path, linear: bool) -> Picture:
    from pconv_cli import tiff

    with tiff.Source(path) as source:
        everything = Window(0, 0, source.width, source.height)
        pixels = source.read(everything)
        colours = [band for band in range(source.bands) if band != source.alpha]
        told = source.validity == "alpha" and (source.dtype.kind != "f" or np.isfinite(pixels[..., colours]).all())
        shown = None if source.validity is None or told else source.valid(everything)
        shown = None if shown is None or shown.all() else shown
        mode = _tiff_mode(source)
        with path.open("rb") as stream:
            tags, lost = _carry.read_tags(stream)
        xmp = _read_xmp(tags.pop(_carry.XMP, None))
        for tag in (_carry.ORIENTATION, _carry.ICC):
            tags.pop(tag, None)
        exif = _carry.exif_block(tags | _carry.orientation_tag(source.orientation))
        carried = Carried(
            icc=source.icc, exif=exif, xmp=xmp, photoshop=_carry.photoshop_of(tags), dpi=_carry.dpi_of(tags),
            tags=tags, tiff=True, palette=b"" if source.palette is None else source.palette.tobytes(),
            lost=(*lost, *["that colours are multiplied by alpha"] * source.premultiplied),
            left_behind=(*source.notices_anew, *_left_beside(source)),
        )  # fmt: skip
    return Picture(
        path, pixels[..., 0] if pixels.shape[2] == 1 else pixels, mode, "TIFF", source.orientation,
        layers(source.layers, source.dtype, palette=source.palette, icc=source.icc, linear=linear,
               inverted=source.inverted),
        carried, alpha=source.alpha, nodata=source.nodata, shown=shown, inverted=source.inverted,
    )  # fmt: skip


def _left_beside(source: tiff.Source) -> tuple[str, ...]:
    """What lies beside a TIFF and goes with no other format."""
    names = ", ".join(path.name for path in source.companions.targets(source.path))
    return (Loss(f"beside the file and not carried over: {names}"),) if names else ()


def _tiff_mode(source: tiff.Source) -> str:
    if source.palette is not None:
        return "1" if np.array_equal(source.palette, _BLACK_AND_WHITE) else "P"
    colours, further = len(source.layers[0]), len(source.layers) > 1
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours]
    if further or source.alpha not in (None, colours) or (source.alpha is not None and mode == "CMYK"):
        return "BANDS"
    return mode + "A" * (source.alpha is not None)


def _layers(mode: str, pixels: NDArray[Any], carried: Carried, *, linear: bool) -> tuple[Layer, ...]:
    table = _BLACK_AND_WHITE if mode == "1" else None
    if mode == "P":
        table = _palette_table(carried)[: max(len(carried.palette) // 4, 1)]
    group = tuple(range(_COLOURS.get(mode, 1)))
    return layers([group], pixels.dtype, palette=table, icc=carried.icc, linear=linear or carried.linear)


def _refuse(path: Path, image: Image.Image, kind: str) -> None:
    """Raise for what could only be restored by changing it first."""
    mode = image.mode
    if mode not in _MODES and not (kind == "PNG" and mode.startswith("I")):
        raise ItemError(path, f"colours are stored as {mode}, not RGB, CMYK or grey: convert a copy to 8-bit RGB first")


def _refuse_several(path: Path, image: Image.Image, kind: str) -> None:
    """Raise for more than one picture in a file, and for one of a size that its bytes cannot hold."""
    width, height = image.size
    promised, size = width * height * len(image.getbands()), path.stat().st_size
    # No format here packs a gigabyte that tight; a damaged header would have the machine's memory filled with zeros.
    if promised > 2**30 and promised > 3000 * size:
        raise ItemError(path, f"damaged: {size} bytes cannot hold {width} x {height} pixels: fetch it again")
    with quietly():
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and kind != "JPEG":
        raise ItemError(path, f"animated, {frames} frames: export the frames as single pictures first")


def _png_depth(stream: BinaryIO) -> int:
    position = stream.tell()
    stream.seek(24)  # IHDR is the first chunk of every PNG: Pillow has opened it
    depth = stream.read(1)[0]
    stream.seek(position)
    return depth


def _read_exif(image: Image.Image, stream: BinaryIO, kind: str, notices: list[str]) -> tuple[Tags, bytes]:
    """Tags of the file, and its EXIF block verbatim."""
    exif: bytes = image.info.get("exif") or b""
    exif = (exif or _raw_profile(image, "exif")).removeprefix(b"Exif\0\0")
    if not exif:
        return {}, b""
    try:
        return _carry.read_tags(io.BytesIO(exif))[0], exif
    except ValueError:
        notices.append("its EXIF block is damaged: carried as it is, and not obeyed")
        return {}, exif


def _raw_profile(image: Image.Image, name: str) -> bytes:
    """Metadata that older PNGs keep as hexadecimal digits in a text chunk; empty where there is none, or no digits."""
    with suppress(ValueError):
        return bytes.fromhex("".join(str(image.info.get(f"Raw profile type {name}", "")).split("\n")[3:]))
    return b""


def _read_xmp_and_dpi(image: Image.Image, kind: str, tags: Tags) -> dict[str, Any]:
    """XMP and resolution, wherever the format keeps them."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    dpi = _carry.dpi_of(tags)
    # Pillow makes up 72 dpi for a JPEG whose EXIF block has none.
    if kind in ("PNG", "BMP") or (kind == "JPEG" and image.info.get("jfif_unit") in (1, 2)):
        dpi = image.info.get("dpi", dpi)
    return {"xmp": xmp.encode() if isinstance(xmp, str) else xmp, "dpi": dpi if dpi and all(dpi) else None}


def _read_xmp(value: Any) -> bytes:
    return value[1] if isinstance(value, tuple) else b""


def _read_jpeg(image: Image.Image, notices: list[str]) -> dict[str, Any]:
    """Encoder settings that repeat the input's own, and IPTC."""
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    info = image.info
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notices.append(Loss(f"MPO: {frames - 1} further picture{'s' * (frames > 2)} in the file: not carried over"))
    elif "mp" in info:
        notices.append(Loss("an HDR gain map or further picture in the file is not carried over"))
    settings = _carry.jpeg_settings(image.layer, image.quantization)
    settings["progressive"] = bool(info.get("progressive"))
    settings["keep_rgb"] = image.mode == "RGB" and "jfif" not in info and info.get("adobe_transform") == 0
    settings["extra"] = _carry.jpeg_segments(image.applist)
    return {"jpeg": settings, "photoshop": _carry.jpeg_photoshop(image.applist)}


def _read_transparency(image: Image.Image, stream: BinaryIO, kind: str) -> dict[str, Any]:
    """Palette with its alphas, or the one transparent colour, of an image that is loaded."""
    if image.mode == "P":
        image.apply_transparency()  # into the palette itself; until then Pillow keeps the two apart
        return {"palette": bytes(image.getpalette("RGBA") or [])}
    key = image.info.get("transparency")
    if kind != "PNG" or key is None or not isinstance(key, int | tuple):
        return {}
    # Pillow stretches grey of 2 or 4 bits to 8, but not the key that speaks of it.
    depth = _png_depth(stream)
    scale = 1 if depth > 8 else 255 // (2**depth - 1)
    return {"colour_key": (key * scale,) if isinstance(key, int) else tuple(key)}


# ---------------------------------------------------------------- pixels


def _palette_table(carried: Carried) -> NDArray[np.uint8]:
    """Palette as (256, 4) RGBA; indices that the file does not define are opaque black."""
    table = np.tile(np.array([0, 0, 0, 255], np.uint8), (256, 1))
    own = np.frombuffer(carried.palette, np.uint8).reshape(-1, 4)
    table[: len(own)] = own
    return table


def _alpha(picture: Picture) -> NDArray[Any] | None:
    """Alpha, (h, w), 0 = transparent; None where the picture has no transparency."""
    if picture.alpha is not None:
        return np.asarray(picture.channels[..., picture.alpha])
    if picture.mode == "P":
        table = _palette_table(picture.carried)[:, 3]
        return None if table.min() == 255 else table[picture.pixels]
    if picture.carried.colour_key is None:
        return None
    keyed = (picture.channels == picture.carried.colour_key).all(axis=2)
    return np.where(keyed, 0, np.iinfo(picture.pixels.dtype).max).astype(picture.pixels.dtype)


def _off_key(colours: NDArray[Any], key: tuple[int, ...]) -> NDArray[Any]:
    """Move colours, (n, channels), by one step where they happen to be the one that means transparent."""
    colours[(colours == np.array(key)).all(axis=1), -1] ^= 1
    return colours


def _is_white(picture: Picture) -> NDArray[np.bool_]:
    """Where 8-bit mask pixels are lighter than 50 % grey, transparency counted as black."""
    light = picture.pixels if picture.mode == "L" else luminance(picture.rgb())
    alpha = _alpha(picture)
    return light > 127 if alpha is None else light.astype(np.uint32) * alpha > 127 * 255


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels to how their EXIF orientation displays them."""
    swapped = array.swapaxes(0, 1) if orientation >= 5 else array
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return swapped[::down, ::across]


def _lying(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo `_upright`: quarter turns to one side and the other undo each other, the rest undo themselves."""
    return _upright(array, {6: 8, 8: 6}.get(orientation, orientation))


# ---------------------------------------------------------------- reasons


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return "the file is empty (0 bytes): fetch it again"
        return (
            "not a JPEG, PNG, WebP, BMP or TIFF picture, or its start is damaged: open it elsewhere and export a copy"
        )
    if isinstance(error, FileNotFoundError):
        return "there is no such file: check the name"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a picture: name the files in it"
    if isinstance(error, PermissionError):
        return "permission denied: give yourself the right to read it"
    if isinstance(error, MemoryError):
        return "too big for the memory of this machine: cut it into parts, or use a machine with more"
    return f"damaged or cut short ({' '.join(str(error).split()) or type(error).__name__}): fetch it again"


def _why_unwritable(error: Exception, kind: str) -> str:
    cause = " ".join(str(error).split()) or type(error).__name__
    return files.why_unwritable(error) or f"cannot be written as {kind} ({cause}): choose another format"
