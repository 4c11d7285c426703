"""Reads picture and mask files of a size that memory holds, with all that their outputs have to carry.

It knows formats and how to tell them, which files would have to be changed to be restored and so are refused, what a
mask marks and whether it is one, and what to say of a file that cannot be read. What comes of it: `picture`. Bytes of
tags and chunks: `_carry`; where a JPEG ends: `_jpeg`. Pillow reads what has 8 bits; TIFF and 16 bits go through `tiff`,
for Pillow narrows some of that without a word. It does not know how pictures are written, tiles, networks, batches or
what a caller shows to people.
"""

from __future__ import annotations

import io
import logging
import mmap
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from pconv_cli import _carry, _heads, _jpeg, files
from pconv_cli._carry import ASPECT, Carried, Tags
from pconv_cli.colours import luminance
from pconv_cli.errors import ItemError, Loss
from pconv_cli.files import quietly
from pconv_cli.layers import Layer, layers
from pconv_cli.picture import COLOURS, MaskImage, Picture, palette_table
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
BY_SUFFIX: dict[str, str] = {**dict(FORMATS.values()), ".jpe": "JPEG"}
READ_SUFFIXES: frozenset[str] = frozenset(BY_SUFFIX)

RAGGED, MUCH, GREYS = 0.01, 0.1, 0.25
"""Of a mask's pixels: ends of marks along the rows, marked ones, middle greys; more than that have photographs."""

_MODES = frozenset(["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
_BLACK_AND_WHITE = np.array([[0, 0, 0, 255], [255, 255, 255, 255]], np.uint8)
_BLANK = 16  # rows of nothing that are no chance
_ROWS = 256  # rows looked at together where a whole big picture would need memory many times over


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
        tags, exif = _read_exif(image, notices)
        orientation = _carry.orientation_of(tags)
        parts: dict[str, Any] = {"icc": bytes(image.info.get("icc_profile") or b""), "exif": exif, "tags": tags}
        parts |= _read_xmp_and_dpi(image, kind, tags) | _read_transparency(image, stream, kind)
        encoded = b""
        if kind == "JPEG":
            parts |= _read_jpeg(image, notices)
            if rows := _blank_rows(pixels):
                notices.append(f"its last {rows} rows are one mid-grey, as where a JPEG breaks off: look at it")
            stream.seek(0)
            encoded = stream.read()
            # Of a file with further pictures those are what follows, and they are not carried.
            parts["tail"] = b"" if "mp" in image.info or getattr(image, "n_frames", 1) > 1 else _jpeg.tail(encoded)
            parts["oblong"] = _is_oblong(image)
        elif kind == "PNG":
            parts["photoshop"] = _carry.as_resource(_raw_profile(image, "iptc"))
            parts["chunks"], lost = _carry.read_chunks(stream)
            notices += [Loss(f"{item} is not carried over") for item in lost]
        else:
            notices += [Loss(f"{item} is not carried over") for item in _further(image, stream)]
            parts["icc"] = parts["icc"] or _carry.bmp_icc(stream)
        carried = Carried(**parts)
        return Picture(
            path, pixels, mode, kind, orientation, _layers(mode, pixels, carried, linear=linear), carried,
            tuple(notices), alpha={"LA": 1, "RGBA": 3}.get(mode), encoded=encoded,
        )  # fmt: skip


def read_pixels(path: Path, like: Picture) -> Picture:
    """Read a picture file without its metadata, which takes longer to read than some pixels.

    Args:
        path: The file.
        like: What the rest is taken from.

    Raises:
        ItemError: Missing, unreadable or damaged.
    """
    with _opened(path) as (image, _):
        return replace(like, pixels=_pixels(image), mode=image.mode, before=None)


def metadata(path: Path, heard: Mapping[str, str] | None = None) -> tuple[Carried, tuple[str, ...]]:
    """What a JPEG, PNG, WebP or BMP holds besides its pixels, which are not decoded, for a TIFF that is made of it.

    Args:
        path: The file. What is in it is expected to be read by GDAL, which keeps the one value for nothing.
        heard: Texts that the TIFF has by now, by name: GDAL keeps some. None: nobody asks what is lost.

    Returns:
        The metadata, and names of what of the file no TIFF has a place for; nothing of a file of another format.
    """
    lost: list[str] = []
    heard = heard or {}
    with suppress(ItemError), _opened(path) as (image, stream):
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        if kind == "PNG" and not image.info.get("exif"):
            image.info["exif"] = _carry.exif_of_png(stream)  # it may follow the pixels
        tags, exif = _read_exif(image, [])
        parts: dict[str, Any] = {"icc": bytes(image.info.get("icc_profile") or b""), "exif": exif, "tags": tags}
        parts |= _read_xmp_and_dpi(image, kind, tags)
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            parts["photoshop"] = _carry.jpeg_photoshop(image.applist)
            kept = ("COM", heard.get("COMMENT", "").encode())
            if _carry.jpeg_segments([one for one in image.applist if (one[0], one[1].rstrip(b"\0")) != kept]):
                lost.append("JPEG segments (comments and the like)")
            lost += [ASPECT] if _is_oblong(image) else []
            several = "mp" in image.info
            lost += ["further pictures in the file"] if several else []
            behind = 0 if several else _bytes_behind(path)
            lost += [_carry.behind_the_end(behind)] if behind else []
        elif kind == "PNG":
            parts["photoshop"] = _carry.as_resource(_raw_profile(image, "iptc"))
            parts["chunks"], lost = _carry.read_chunks(stream)
            lost += _carry.unheard(parts["chunks"], heard)
            key = image.info.get("transparency")
            lost += ["the transparency of its palette"] if isinstance(key, bytes) else []
            lost += ["its transparent colour"] if isinstance(key, tuple) and len(set(key)) > 1 else []
        else:
            lost += _further(image, stream)
        return Carried(**parts), tuple(lost)
    return Carried(), ()


def refuse_animated(path: Path) -> None:
    """Make sure that a PNG or WebP holds one picture: GDAL takes the first frame, or fails. Others are passed over.

    Raises:
        ItemError: It is animated.
    """
    frames = 1
    with suppress(ItemError), _opened(path) as (image, _):
        frames = _frames(image) if image.format in ("PNG", "WEBP") else 1
    if frames > 1:
        raise ItemError(path, _animated(frames))


def read_mask(path: Path, *, inverted: bool = False) -> MaskImage:
    """Read a mask of any mode but float: what is lighter than 50 % grey and not transparent is damaged.

    Args:
        path: The file. Of a TIFF what has its nodata value is no damage in any case.
        inverted: Whether all else is damaged instead.

    Raises:
        ItemError: Missing, unreadable, damaged, floating-point, or with more than one picture in it.
    """
    if is_tiff(path):
        from pconv_cli import strips, tiff

        return MaskImage(
            path, np.concatenate(list(strips.mask_strips(path, _ROWS, inverted=inverted))), tiff.orientation(path)
        )
    with _opened(path) as (image, stream):
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        _refuse_several(path, image, kind)
        mode = image.mode if image.mode in _MODES or image.mode.startswith("I") else "RGBA"
        mode = "RGBA" if mode == "CMYK" else mode
        try:
            pixels = _pixels(image, "" if mode == image.mode else mode)
        except ValueError as error:
            raise ItemError(path, f"a mask in mode {image.mode} cannot be read: save it as 8-bit grey") from error
        orientation = _carry.orientation_of(_read_exif(image, [])[0])
        if mode not in _MODES or mode == "1":
            return MaskImage(path, (pixels > (0 if mode == "1" else 32767)) ^ inverted, orientation)
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
        return MaskImage(path, np.concatenate(blocks) ^ inverted, orientation)


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


def orientation(path: Path) -> int:
    """EXIF orientation of a picture file of any format, 1..8, without its pixels.

    Returns:
        1 where there is none or it is invalid, and for formats that are read in strips alone.

    Raises:
        ItemError: A TIFF that cannot be opened.
    """
    if is_tiff(path):
        from pconv_cli import tiff

        return tiff.orientation(path)
    with suppress(ItemError), _opened(path) as (image, stream):
        if image.format == "PNG" and not image.info.get("exif"):
            image.info["exif"] = _carry.exif_of_png(stream)  # it may follow the pixels
        return _carry.orientation_of(_read_exif(image, [])[0])
    return 1


def probe(path: Path) -> tuple[int, int]:
    """Width and height as stored, from the header alone.

    Raises:
        ItemError: Not a picture that can be opened.
    """
    if is_tiff(path):
        from pconv_cli import strips

        return strips.mask_size(path)
    with _opened(path) as (image, _):
        return image.size


def same_format(source: Path, target: Path) -> bool:
    """Whether two names stand for one format, however they spell it."""
    return BY_SUFFIX.get(source.suffix.lower()) == BY_SUFFIX.get(target.suffix.lower())


def suffix_of(path: Path) -> str:
    """The suffix that fits a file's content; ".png" where it is no picture that can be read."""
    if is_tiff(path):
        return ".tif"
    with suppress(ItemError), _opened(path) as (image, _):
        return next(suffix for suffix, kind in BY_SUFFIX.items() if kind == str(image.format).replace("MPO", "JPEG"))
    return ".png"


def more_behind(path: Path) -> bool:
    """Whether another picture of its kind follows the end of a PNG, a JPEG or a BMP: so programs pipe them in turn."""
    with suppress(ItemError), _opened(path) as (image, stream):
        kind = str(image.format)  # of a JPEG whose own index names what follows it is MPO
        stream.seek(0)
        start = stream.read(8)
        if kind == "PNG":
            while len(head := stream.read(8)) == 8 and not head.endswith(b"IEND"):
                stream.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
            stream.seek(4, io.SEEK_CUR)
            return stream.read(8) == start
        if kind == "JPEG":
            return _jpeg.tail(path.read_bytes()).startswith(start[:3])
        if kind == "BMP":
            stream.seek(int.from_bytes(start[2:6], "little"))
            return start[2:6] != bytes(4) and stream.read(2) == start[:2]
    return False


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does.

    Raises:
        ItemError: It is a pipe or a device, which might be waited for without end.
    """
    with suppress(OSError):
        if not stat.S_ISREG(kind := path.stat().st_mode) and not stat.S_ISDIR(kind):
            raise ItemError(path, "is a pipe or a device, not a file: save a copy, or pipe one picture in as -")
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(4) in _heads.TIFF_STARTS
    return False


def may_be_deep(path: Path) -> bool:
    """Whether a picture may have more than 8 bits a channel, by its first bytes."""
    with suppress(OSError), path.open("rb") as stream:
        head = stream.read(25)
        return head[:4] in _heads.TIFF_STARTS or (head[1:4] == b"PNG" and head[24:] == b"\x10")
    return False


def why_unreadable(path: Path, error: Exception) -> str:
    """Reason and way out of an error on reading a file, for people."""
    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return "the file is empty (0 bytes): fetch it again"
        with suppress(OSError), path.open("rb") as stream:
            if stream.read(3) == b"\xff\xd8\xff":
                return "a JPEG of a kind that cannot be read (12 bits, JPEG-LS), or damaged: convert a copy to PNG"
        return files.why_no_picture(path) or (
            "not a JPEG, PNG, WebP, BMP or TIFF picture, or its start is damaged: open it elsewhere and export a copy"
        )
    cause = " ".join(str(error).split()) or type(error).__name__
    if cause.startswith("Unsupported BMP"):
        return f"a BMP of a kind that cannot be read ({cause}): save a copy as PNG"
    return files.why_unreadable(error) or _heads.doubt(path) or files.damaged(cause)


# ---------------------------------------------------------------- inside a file that is being read


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Make an ItemError of whatever goes wrong with a file that is read."""
    try:
        yield
    except ItemError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise ItemError(path, why_unreadable(path, error)) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Open a picture file; whatever goes wrong with it inside the block becomes an ItemError."""
    with _blaming(path), path.open("rb") as stream:
        with quietly():
            image = Image.open(stream, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF"))
        yield image, stream


def colours_of(jpeg: bytes) -> NDArray[np.uint8] | None:
    """The colours of a JPEG in memory, (h, w, 3); None where it cannot be read."""
    with suppress(Exception), quietly():  # a damaged one can make a decoder raise anything
        return _pixels(Image.open(io.BytesIO(jpeg), formats=("JPEG",)), "RGB")
    return None


def _pixels(image: Image.Image, mode: str = "") -> NDArray[Any]:
    """Decode, after a conversion if `mode` is given."""
    pixels = np.ascontiguousarray(np.asarray(image.convert(mode) if mode else image))
    # What stands for True may be any byte there.
    return (pixels.view(np.uint8) > 0).astype(np.uint8) if pixels.dtype == np.bool_ else pixels


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
        shown = source.valid(everything, pixels)
        if shown is not None and source.alpha is not None:  # it tells by itself, mostly
            shown = None if np.array_equal(shown, pixels[..., source.alpha] > 0) else shown
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
            lost=tuple(lost), left_behind=(*source.notices_anew, *_left_beside(source)),
        )  # fmt: skip
    return Picture(
        path, pixels[..., 0] if pixels.shape[2] == 1 else pixels, mode, "TIFF", source.orientation,
        source.seen_as(linear=linear), carried, alpha=source.alpha, nodata=source.nodata, shown=shown,
        inverted=source.inverted,
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
        table = palette_table(carried)[: max(len(carried.palette) // 4, 1)]
    group = tuple(range(COLOURS.get(mode, 1)))
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
    frames = _frames(image)
    if frames > 1 and kind != "JPEG":
        raise ItemError(path, _animated(frames))


def _frames(image: Image.Image) -> int:
    with quietly():
        return int(getattr(image, "n_frames", 1))


def _animated(frames: int) -> str:
    return f"animated, {frames} frames: export the frames as single pictures first"


def _is_white(picture: Picture) -> NDArray[np.bool_]:
    """Where 8-bit mask pixels are lighter than 50 % grey, transparency counted as black."""
    light = picture.pixels if picture.mode == "L" else luminance(picture.rgb())
    alpha = picture.opacity()
    return light > 127 if alpha is None else light.astype(np.uint32) * alpha > 127 * 255


def _png_depth(stream: BinaryIO) -> int:
    position = stream.tell()
    stream.seek(24)  # IHDR is the first chunk of every PNG: Pillow has opened it
    depth = stream.read(1)[0]
    stream.seek(position)
    return depth


def _read_exif(image: Image.Image, notices: list[str]) -> tuple[Tags, bytes]:
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


def _further(image: Image.Image, stream: BinaryIO) -> list[str]:
    """What a WebP or BMP holds that no channel is there for."""
    if image.format == "WEBP":
        return [f"WebP chunk {name}" for name in _carry.webp_chunks(stream)]
    return []


def _is_oblong(image: Image.Image) -> bool:
    """Whether a JPEG says that its pixels are not square, and no more of their size."""
    across, down = image.info.get("jfif_density", (1, 1))
    return image.info.get("jfif_unit") == 0 and 0 < across != down > 0


def _bytes_behind(path: Path) -> int:
    """How many bytes follow the end of a JPEG."""
    with path.open("rb") as stream, closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as data:
        return _jpeg.length_of_tail(data)


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


def _blank_rows(pixels: NDArray[np.uint8]) -> int:
    """Rows at the end that a decoder has made up, for there was nothing to decode; 0 if these are few, or all."""
    upwards = pixels.reshape(len(pixels), -1)[::-1]
    rows = 0
    for start in range(0, len(upwards), _BLANK):  # most end after the first
        some = upwards[start : start + _BLANK]
        blank = ((some >= 127) & (some <= 129)).all(axis=1)
        rows += len(some) if blank.all() else int(np.argmin(blank))
        if not blank.all():
            return rows if rows >= _BLANK else 0
    return 0


def _read_transparency(image: Image.Image, stream: BinaryIO, kind: str) -> dict[str, Any]:
    """Palette with its alphas, or the one transparent colour, of an image that is loaded."""
    if image.mode == "P":
        image.apply_transparency()  # into the palette itself; until then Pillow keeps the two apart
        return {"palette": bytes(image.getpalette("RGBA") or [])}
    key = image.info.get("transparency")
    if kind != "PNG" or key is None or not isinstance(key, int | tuple):
        return {}
    if isinstance(key, tuple):
        return {"colour_key": key}
    # Pillow stretches grey of 2 or 4 bits to 8, but not the key that speaks of it; and of 1 bit the key alone.
    depth = _png_depth(stream)
    scale = 1 if depth > 8 else 255 // (2**depth - 1)
    return {"colour_key": (int(key > 0) if depth == 1 else key * scale,)}
