"""Picture files: read them, lay masks over them, write them back faithful outside the hole. The only door to Pillow.

It knows formats, modes, EXIF orientation and metadata. It knows nothing of tiles, networks, batches or what a caller
shows to people. Bytes of tags and chunks: `_carry`; how a file gets its place: `files`.

Pixels stay as they are stored. A picture that its EXIF tag turns is restored lying on its side, and the tag goes into
the output, so that the output is displayed as the input is; a BMP has no such tag, there the pixels are turned.

What is refused is what Pillow would change without a word (16 bit per channel, CMYK, channels beyond alpha) or what has
more than one picture in it. WebP is always written lossless and "exact" (colours under full transparency kept): lossy
WebP changes every pixel, and outside the hole no pixel may change. JPEG cannot promise that; with the input's own
tables and subsampling its second encoding stays close to the first (mean change below one step of 255 in the tests).
"""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from pconv_cli import _carry, files
from pconv_cli._carry import Carried, Tags
from pconv_cli.colours import lay, luminance
from pconv_cli.errors import ItemError
from pconv_cli.files import quietly

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

_BANDS = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_DEFLATE = "tiff_adobe_deflate"
_TIFF_KEPT = {"raw", "tiff_lzw", _DEFLATE, "packbits"}
_LARGEST = {"JPEG": 65500, "WEBP": 16383}  # sides, by the formats' own rules
_ROWS = 256  # rows looked at together where a whole big picture would need memory many times over


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture file in memory.

    Attributes:
        path: Where it was read from.
        pixels: uint8, as stored (EXIF orientation not applied): (h, w) for "L" and "P" (palette indices), (h, w, 2)
            for "LA", (h, w, 3) for "RGB", (h, w, 4) for "RGBA".
        mode: "L", "LA", "RGB", "RGBA" or "P".
        format: "JPEG", "PNG", "WEBP", "BMP" or "TIFF".
        orientation: EXIF orientation 1..8; 1 where there is none or it is invalid.
        carried: Metadata for the output; nobody's business but this module's.
        notices: What is in the file and cannot be carried over, one line each.
    """

    path: Path
    pixels: NDArray[np.uint8]
    mode: str
    format: str
    orientation: int
    carried: Carried
    notices: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """Rows as stored."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns as stored."""
        return int(self.pixels.shape[1])

    def rgb(self) -> NDArray[np.uint8]:
        """The colours, (h, w, 3): grey repeated, palette looked up, alpha left out."""
        return _colours(self.pixels, self.mode, self.carried)

    def visible(self) -> NDArray[np.bool_] | None:
        """Where alpha is above 0, (h, w); None when the picture has no transparency."""
        alpha = _alpha(self.pixels, self.mode, self.carried)
        return None if alpha is None else alpha > 0

    def filled(self, rgb: NDArray[np.uint8], hole: NDArray[np.bool_]) -> Picture:
        """Take the hole's colours from `rgb`; every other pixel stays bit-identical, and so does all transparency.

        Grey takes the rounded Rec. 601 luminance, a palette its nearest opaque colour. Where one colour stands for
        "transparent", pixels of that colour stay, and no other pixel becomes it.

        Args:
            rgb: (h, w, 3), uint8.
            hole: (h, w), True where `rgb` is to be taken.

        Raises:
            ValueError: The shapes do not fit the picture.
        """
        size = (self.height, self.width)
        if rgb.shape != (*size, 3) or hole.shape != size or rgb.dtype != np.uint8 or hole.dtype != np.bool_:
            raise ValueError(f"need uint8 {(*size, 3)} and bool {size}, got {rgb.shape} and {hole.shape}")
        if self.mode == "P" or self.carried.colour_key is not None:
            shown = self.visible()
            hole = hole if shown is None else hole & shown
        pixels = self.pixels.copy()
        if self.mode in ("RGB", "RGBA") and self.carried.colour_key is None:
            lay(pixels[..., :3], rgb, hole)
            return replace(self, pixels=pixels)
        colours = rgb[hole]
        if self.mode == "P":
            pixels[hole] = _nearest(colours, _palette_table(self.carried)[: len(self.carried.palette) // 4])
        elif self.mode in ("L", "LA"):
            pixels.reshape(*size, -1)[hole, 0] = _off_key(luminance(colours)[:, None], self.carried)[:, 0]
        else:
            pixels[hole, :3] = _off_key(colours, self.carried)
        return replace(self, pixels=pixels)


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


def read_picture(path: Path) -> Picture:
    """Read a picture with all that its output has to carry.

    Raises:
        ItemError: Missing, unreadable, damaged, or of a kind that would have to be changed to be restored.
    """
    notices: list[str] = []
    with _opened(path) as (image, stream):
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        _refuse(path, image, kind, stream)
        pixels = _pixels(image)  # first: the metadata of a PNG may follow its pixels
        tags, exif = _read_exif(image, stream, kind, notices)
        orientation = _carry.orientation_of(tags)
        parts: dict[str, Any] = {"icc": bytes(image.info.get("icc_profile") or b""), "exif": exif, "tags": tags}
        parts |= _read_xmp_and_dpi(image, kind, tags) | _read_transparency(image, stream, kind)
        if kind == "TIFF":
            parts |= _read_tiff(image, tags, orientation, notices)
        elif kind == "JPEG":
            parts["jpeg"] = _read_jpeg(image, notices)
        elif kind == "PNG":
            parts["chunks"], lost = _carry.read_chunks(stream)
            notices += [f"{item} is not carried over" for item in lost]
        return Picture(path, pixels, image.mode, kind, orientation, Carried(**parts), tuple(notices))


def read_mask(path: Path) -> MaskImage:
    """Read a mask of any mode but float: what is lighter than 50 % grey and not transparent is damaged.

    Raises:
        ItemError: Missing, unreadable, damaged, floating-point, or with more than one picture in it.
    """
    with _opened(path) as (image, stream):
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        _refuse_several(path, image, kind)
        if image.mode in ("F", "I"):
            raise ItemError(path, "a mask of 32-bit or floating-point values has no 50 % grey: save it as 8-bit grey")
        mode = image.mode if image.mode in _BANDS or image.mode == "1" or image.mode.startswith("I;16") else "RGBA"
        try:
            pixels = _pixels(image, "" if mode == image.mode else mode)
        except ValueError as error:
            raise ItemError(path, f"a mask in mode {image.mode} cannot be read: save it as 8-bit grey") from error
        orientation = _carry.orientation_of(_read_exif(image, stream, kind, [])[0])
        if mode not in _BANDS:
            return MaskImage(path, pixels > (0 if mode == "1" else 32767), orientation)
        carried = Carried(**_read_transparency(image, stream, kind))
        blocks = [_is_white(pixels[y : y + _ROWS], mode, carried) for y in range(0, len(pixels), _ROWS)]
        return MaskImage(path, np.concatenate(blocks), orientation)


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
    with _opened(path) as (image, _):
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose `size` is that of the picture turned upright
            return int(_tiff_tag(image, 256, 0)), int(_tiff_tag(image, 257, 0))
        return image.size


def lossless(path_or_format: Path | str) -> bool:
    """Whether what is written there decodes to the identical pixels: everything but JPEG."""
    return str(path_or_format).lower().rpartition(".")[2] not in ("jpg", "jpeg", "jpe")


def same_format(source: Path, target: Path) -> bool:
    """Whether two names stand for one format, however they spell it."""
    return _BY_SUFFIX.get(source.suffix.lower()) == _BY_SUFFIX.get(target.suffix.lower())


# ---------------------------------------------------------------- writing


def write_picture(picture: Picture, target: Path, *, overwrite: bool) -> tuple[str, ...]:
    """Write a picture in the format of the target's suffix, all of it or nothing.

    Args:
        picture: What to write.
        target: Where to; folders are made.
        overwrite: Whether a file that is there may be replaced.

    Returns:
        What the target's format could not hold, one line each.

    Raises:
        ItemError: The format cannot hold the picture, the target exists or is the source, or the disk says no.
    """
    kind = _BY_SUFFIX.get(target.suffix.lower())
    if kind is None:
        raise ItemError(target, f"cannot write '{target.suffix}' files: choose one of {', '.join(sorted(FORMATS))}")
    try:
        pixels, mode = _for_format(picture, kind, target)
        widened = picture.mode in ("L", "LA") and mode in ("RGB", "RGBA")
        lost = _carry.losses(picture.carried, kind, widened)
        files.refuse_same(picture.path, target)
        _put(target, overwrite, lambda stream: _encode(picture, pixels, mode, kind, widened, stream))
    except ItemError:
        raise
    except Exception as error:  # an encoder may raise anything; one picture must not end the batch
        raise ItemError(target, _why_unwritable(error, kind)) from error
    return lost


def write_png(pixels: NDArray[np.uint8], target: Path, *, overwrite: bool) -> None:
    """Write a drawing, `(h, w, 3)`, as PNG whatever the name says, all of it or nothing.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    try:
        _put(target, overwrite, lambda stream: Image.fromarray(pixels).save(stream, "PNG"))
    except OSError as error:
        raise ItemError(target, _why_unwritable(error, "PNG")) from error


def copy_file(source: Path, target: Path, *, overwrite: bool) -> None:
    """Copy a file byte by byte, all of it or nothing.

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
            _put(target, overwrite, lambda out: shutil.copyfileobj(stream, out, 1 << 20))
        except OSError as error:
            raise ItemError(target, _why_unwritable(error, "a copy")) from error


def _put(target: Path, overwrite: bool, fill: Callable[[BinaryIO], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(target, overwrite=overwrite) as stream:
        fill(stream)


def _for_format(picture: Picture, kind: str, target: Path) -> tuple[NDArray[np.uint8], str]:
    """Pixels and mode that the format can hold and that decode to the same colours."""
    if max(picture.height, picture.width) > _LARGEST.get(kind, 2**31):
        reason = f"{kind} holds at most {_LARGEST[kind]} pixels a side, this picture is"
        raise ItemError(target, f"{reason} {picture.width} x {picture.height}: write png or tiff")
    mode, pixels = picture.mode, picture.pixels
    alpha = _alpha(pixels, mode, picture.carried)
    if alpha is not None and kind == "JPEG":
        raise ItemError(target, "JPEG has no transparency and this picture has: write png, webp or tiff")
    keeps = kind == "PNG" or (mode == "P" and alpha is None and kind in ("BMP", "TIFF"))
    if not keeps and (mode == "P" or picture.carried.colour_key is not None or kind in ("WEBP", "BMP")):
        grey = mode in ("L", "LA") and (kind == "TIFF" or (kind == "BMP" and alpha is None))
        colours = pixels.reshape(*pixels.shape[:2], -1)[..., :1] if grey else picture.rgb()
        mode = ("L" if grey else "RGB") + ("" if alpha is None else "A")
        pixels = np.squeeze(colours, 2) if mode == "L" else colours
        pixels = pixels if alpha is None else np.dstack([colours, alpha])
    if kind == "BMP":
        pixels = _upright(pixels, picture.orientation)
    return np.ascontiguousarray(pixels), mode


def _encode(picture: Picture, pixels: NDArray[np.uint8], mode: str, kind: str, widened: bool, out: BinaryIO) -> None:
    """Write the file's bytes to a stream that stands open for reading and writing."""
    carried = picture.carried
    icc = _carry.icc_for(carried, widened)
    exif = _carry.exif_for(carried, kind, picture.orientation)
    if kind == "BMP":
        across, down = carried.dpi or (0, 0)
        dpi = (across, down) if picture.orientation < 5 else (down, across)
        if mode == "RGBA":
            out.write(_carry.bmp_header(pixels.shape[1], pixels.shape[0], dpi))
            out.write(pixels[::-1, :, [2, 1, 0, 3]].tobytes())
        else:
            _image(pixels, mode, carried).save(out, "BMP", dpi=dpi)
        return
    image = _image(pixels, mode, carried)
    if kind == "JPEG":
        image.save(out, "JPEG", icc_profile=icc, **_jpeg_options(carried, exif))
    elif kind == "PNG":
        image.save(out, "PNG", icc_profile=icc, **_png_options(carried, exif, mode))
    elif kind == "WEBP":
        image.save(out, "WEBP", lossless=True, exact=True, icc_profile=icc, exif=exif, xmp=carried.xmp)
    else:
        predictor = {} if carried.compression in ("raw", "packbits") or mode == "P" else {317: carried.predictor}
        image.save(out, "TIFF", compression=carried.compression or _DEFLATE, tiffinfo=predictor)
        _carry.graft_tags(out, _carry.tiff_tags(carried, icc, picture.orientation))


def _image(pixels: NDArray[np.uint8], mode: str, carried: Carried) -> Image.Image:
    image = Image.fromarray(pixels)
    if mode == "P":
        colours = max(len(carried.palette) // 4, int(pixels.max()) + 1)  # some files use more than they define
        image.putpalette(_palette_table(carried)[:colours, :3].tobytes())
    return image


def _jpeg_options(carried: Carried, exif: bytes) -> dict[str, Any]:
    options = dict(carried.jpeg) or {"quality": 95, "subsampling": 0}
    dpi = tuple(round(value) for value in carried.dpi or (0, 0))
    block = b"Exif\0\0" + exif if exif else b""
    return options | {"exif": block, "xmp": _carry.xmp_for(carried, "JPEG"), "dpi": dpi}


def _png_options(carried: Carried, exif: bytes, mode: str) -> dict[str, Any]:
    info = PngImagePlugin.PngInfo()
    for name, data, after in carried.chunks:
        info.add(name, data, after)
    if carried.xmp and not any(_carry.is_xmp(chunk) for chunk in carried.chunks):
        info.add_itxt("XML:com.adobe.xmp", carried.xmp)
    options: dict[str, Any] = {"pnginfo": info, "exif": exif, "dpi": carried.dpi}
    if mode == "P":
        alpha = np.frombuffer(carried.palette, np.uint8)[3::4].tobytes().rstrip(b"\xff")
        options |= {"transparency": alpha} if alpha else {}
    elif carried.colour_key is not None:
        options["transparency"] = carried.colour_key if mode == "RGB" else carried.colour_key[0]
    return options


# ---------------------------------------------------------------- inside a file that is being read


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Open a picture file; whatever goes wrong with it inside the block becomes an ItemError."""
    try:
        with path.open("rb") as stream:
            with quietly():
                image = Image.open(stream, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF"))
            yield image, stream
    except ItemError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise ItemError(path, _why_unreadable(path, error)) from error


def _pixels(image: Image.Image, mode: str = "") -> NDArray[Any]:
    """Decode to the stored frame, after a conversion if `mode` is given."""
    turned = 1
    if image.format == "TIFF":
        # Pillow turns a TIFF upright while it loads, and only a TIFF.
        with quietly():
            turned = image.getexif().get(_carry.ORIENTATION, 1)
            image.load()
    if mode:
        image = image.convert(mode)
    return np.ascontiguousarray(_lying(np.asarray(image), turned if turned in range(1, 9) else 1))


def _refuse(path: Path, image: Image.Image, kind: str, stream: BinaryIO) -> None:
    """Raise for what could only be restored by changing it first."""
    bits, samples, mode = 8, 0, image.mode
    if kind == "TIFF":
        bits = max(_tiff_tag(image, 258, (1,)))
        samples = _tiff_tag(image, 277, 1)
        if _tiff_tag(image, 262, 0) == 6 and image.info.get("compression") not in ("jpeg", "tiff_jpeg"):
            mode = "YCbCr"  # Pillow 11 takes its bytes for RGB
    elif kind == "PNG":
        bits = _png_depth(stream)
    bits = {"I": max(bits, 16), "F": 32}.get(mode.partition(";")[0], bits)
    if bits > 8:
        what = f"{bits} bits per channel; this version restores 8-bit pictures only and will not narrow them"
        raise ItemError(path, f"{what}: convert a copy to 8 bits per channel first")
    if mode == "1":
        raise ItemError(path, "black and white only (1 bit per pixel): convert a copy to 8-bit grey first")
    if mode not in _BANDS:
        raise ItemError(path, f"colours are stored as {mode}, not RGB or grey: convert a copy to 8-bit RGB first")
    if samples > _BANDS[mode]:
        what = f"{samples} channels of which only {_BANDS[mode]} are colour or alpha (infrared, perhaps?)"
        raise ItemError(path, f"{what}: save a copy without the others first")
    _refuse_several(path, image, kind)


def _tiff_tag(image: Image.Image, tag: int, default: Any) -> Any:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    with quietly():  # Pillow parses a tag, and complains of it, when it is first asked for
        return image.tag_v2.get(tag, default)


def _refuse_several(path: Path, image: Image.Image, kind: str) -> None:
    """Raise for more than one picture in a file, and for one of a size that its bytes cannot hold."""
    width, height = image.size
    promised, size = width * height * len(image.getbands()), path.stat().st_size
    # No format here packs a gigabyte that tight; a damaged header would have the machine's memory filled with zeros.
    if promised > 2**30 and promised > 3000 * size:
        raise ItemError(path, f"damaged: {size} bytes cannot hold {width} x {height} pixels: fetch it again")
    with quietly():
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and kind == "TIFF":
        raise ItemError(path, f"{frames} pages in one TIFF: split it into one file per page first")
    if frames > 1 and kind != "JPEG":
        raise ItemError(path, f"animated, {frames} frames: export the frames as single pictures first")


def _png_depth(stream: BinaryIO) -> int:
    position = stream.tell()
    stream.seek(24)  # IHDR is the first chunk of every PNG: Pillow has opened it
    depth = stream.read(1)[0]
    stream.seek(position)
    return depth


def _read_exif(image: Image.Image, stream: BinaryIO, kind: str, notices: list[str]) -> tuple[Tags, bytes]:
    """Tags of the file, and its EXIF block verbatim (none for a TIFF, whose tags are its EXIF)."""
    exif: bytes = image.info.get("exif") or b""
    if not exif and "Raw profile type exif" in image.info:  # ImageMagick's way in older PNGs
        with suppress(ValueError):
            exif = bytes.fromhex("".join(str(image.info["Raw profile type exif"]).split("\n")[3:]))
    exif = exif.removeprefix(b"Exif\0\0")
    if kind == "TIFF":
        stream.seek(0)
    elif not exif:
        return {}, b""
    try:
        tags, lost = _carry.read_tags(stream if kind == "TIFF" else io.BytesIO(exif))
    except ValueError:
        notices.append("its EXIF block is damaged: carried as it is, and not obeyed")
        return {}, exif
    notices += [f"{item}: cannot be carried over" for item in lost] if kind == "TIFF" else []
    return tags, exif if kind != "TIFF" else b""


def _read_xmp_and_dpi(image: Image.Image, kind: str, tags: Tags) -> dict[str, Any]:
    """XMP and resolution, wherever the format keeps them."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if kind == "TIFF":
        value = tags.pop(_carry.XMP, None)
        xmp = value[1] if isinstance(value, tuple) else b""
    dpi = _carry.dpi_of(tags)
    # Pillow makes up 72 dpi for a JPEG whose EXIF block has none.
    if kind in ("PNG", "BMP") or (kind == "JPEG" and image.info.get("jfif_unit") in (1, 2)):
        dpi = image.info.get("dpi", dpi)
    return {"xmp": xmp.encode() if isinstance(xmp, str) else xmp, "dpi": dpi if dpi and all(dpi) else None}


def _read_tiff(image: Image.Image, tags: Tags, orientation: int, notices: list[str]) -> dict[str, Any]:
    """Compression to write with, and the EXIF block for other formats; tidies `tags`."""
    for tag in (_carry.ORIENTATION, _carry.ICC):
        tags.pop(tag, None)
    compression = str(image.info.get("compression", "raw")).replace("tiff_deflate", _DEFLATE)
    if compression not in _TIFF_KEPT:
        notices.append(f"TIFF compression {compression}: written with deflate instead, which changes no pixel")
        compression = _DEFLATE
    if 1 in _tiff_tag(image, 338, ()):
        notices.append("TIFF alpha was premultiplied: written as straight alpha")
    exif = _carry.exif_block(tags | _carry.orientation_tag(orientation))
    return {"compression": compression, "predictor": 2 if _tiff_tag(image, 317, 1) == 2 else 1, "exif": exif}


def _read_jpeg(image: Image.Image, notices: list[str]) -> dict[str, Any]:
    """Encoder settings that repeat the input's own."""
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    info = image.info
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notices.append(f"MPO: {frames - 1} further picture{'s' * (frames > 2)} in the file: not carried over")
    elif "mp" in info:
        notices.append("an HDR gain map or further picture in the file is not carried over")
    settings = _carry.jpeg_settings(image.layer, image.quantization, notices)
    settings["progressive"] = bool(info.get("progressive"))
    settings["keep_rgb"] = image.mode == "RGB" and "jfif" not in info and info.get("adobe_transform") == 0
    settings["extra"] = _carry.jpeg_segments(image.applist)
    return settings


def _read_transparency(image: Image.Image, stream: BinaryIO, kind: str) -> dict[str, Any]:
    """Palette with its alphas, or the one transparent colour, of an image that is loaded."""
    if image.mode == "P":
        image.apply_transparency()  # into the palette itself; until then Pillow keeps the two apart
        return {"palette": bytes(image.getpalette("RGBA") or [])}
    key = image.info.get("transparency")
    if kind != "PNG" or key is None or image.mode not in ("L", "RGB"):
        return {}
    # Pillow stretches grey of 2 or 4 bits to 8, but not the key that speaks of it.
    scale = 255 // (2 ** _png_depth(stream) - 1)
    return {"colour_key": (key * scale,) if image.mode == "L" else tuple(key)}


# ---------------------------------------------------------------- pixels


def _palette_table(carried: Carried) -> NDArray[np.uint8]:
    """Palette as (256, 4) RGBA; indices that the file does not define are opaque black."""
    table = np.tile(np.array([0, 0, 0, 255], np.uint8), (256, 1))
    own = np.frombuffer(carried.palette, np.uint8).reshape(-1, 4)
    table[: len(own)] = own
    return table


def _colours(pixels: NDArray[np.uint8], mode: str, carried: Carried) -> NDArray[np.uint8]:
    if mode == "P":
        return _palette_table(carried)[pixels, :3]
    if mode in ("L", "LA"):
        return np.repeat(pixels.reshape(*pixels.shape[:2], -1)[..., :1], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def _alpha(pixels: NDArray[np.uint8], mode: str, carried: Carried) -> NDArray[np.uint8] | None:
    if mode in ("LA", "RGBA"):
        return pixels[..., -1]
    if mode == "P":
        table = _palette_table(carried)[:, 3]
        return None if table.min() == 255 else table[pixels]
    if carried.colour_key is None:
        return None
    flat = pixels.reshape(*pixels.shape[:2], -1)
    return np.where((flat == carried.colour_key).all(axis=2), 0, 255).astype(np.uint8)


def _off_key(colours: NDArray[np.uint8], carried: Carried) -> NDArray[np.uint8]:
    """Move colours, (n, channels), by one step where they happen to be the one that means transparent."""
    if carried.colour_key is not None:
        hit = (colours == carried.colour_key).all(axis=1)
        colours[hit, -1] ^= 1
    return colours


def _nearest(colours: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index of the nearest opaque colour of a (k, 4) palette for each of (n, 3) colours."""
    candidates = np.flatnonzero(table[:, 3] == table[:, 3].max())
    palette = table[candidates, :3].astype(np.int32)
    distinct, back = np.unique(colours, axis=0, return_inverse=True)
    best = np.empty(len(distinct), np.uint8)
    for at in range(0, len(distinct), 4096):
        step = distinct[at : at + 4096, None, :].astype(np.int32) - palette
        best[at : at + 4096] = candidates[(step * step).sum(axis=2).argmin(axis=1)]
    return best[back.reshape(-1)]


def _is_white(pixels: NDArray[np.uint8], mode: str, carried: Carried) -> NDArray[np.bool_]:
    """Where 8-bit mask pixels are lighter than 50 % grey, transparency counted as black."""
    light = pixels if mode == "L" else luminance(_colours(pixels, mode, carried))
    alpha = _alpha(pixels, mode, carried)
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
