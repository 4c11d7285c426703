"""Writes pictures so that nothing changes outside the hole, and counts what did where the format leaves no choice.

It knows what each format can hold, how it is encoded, and what is lost on the way. Bytes of tags and chunks: `_carry`;
blocks of a JPEG: `_jpeg`; how a file gets its place: `files`. Pillow writes what has 8 bits; what is
deeper goes through `encoders`, and a TIFF that is patched through `canvas`, for Pillow narrows some of that without a
word. It does not know how pictures are filled, networks, runs or what a caller shows to people.

A TIFF that becomes a TIFF is patched: a copy in which only the blocks with holes are new. Of a JPEG that becomes a JPEG
only the 8 x 8 blocks that the hole touches are new. WebP is always written lossless and "exact" (colours under full
transparency kept): lossy WebP changes every pixel, and outside the hole no pixel may change.

The EXIF tag that turns a picture goes into the output, so that the output is displayed as the input is; a BMP has no
such tag, there the pixels are turned.

What was written is read back before it gets its name, and compared.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pconv_cli import _carry, _jpeg, files
from pconv_cli._carry import ASPECT, Carried
from pconv_cli.companions import Companions
from pconv_cli.errors import ItemError, Loss, unseen, unwritable
from pconv_cli.images import (
    BY_SUFFIX,
    FORMATS,
    colours_of,
    is_tiff,
    read_picture,
    read_pixels,
    why_unreadable,
)
from pconv_cli.orientations import displayed
from pconv_cli.picture import COLOURS, Picture, palette_table
from pconv_cli.regions import Window
from pconv_cli.spaces import is_ranged

Ready = Callable[[Path, Sequence[str]], None]
"""Called with a finished file, just before it gets its name, and the notices about it; may raise to have it removed."""

_WIDE = {"PNG": 2, "TIFF": 2}  # bytes of the tones that a format holds; the others hold 8 bits
_LARGEST = {"JPEG": 65500, "WEBP": 16383}  # sides, by the formats' own rules
_TO_SEE = "use --mask-from alpha and no masks"
_READS_BACK_WRONG = "what was written does not read back as it should: nothing was kept; check the disk"
_ANOTHER = 24  # steps of 255 by which a thumbnail differs from the picture, on average, where it shows another one
_QUALITIES = range(95, 20, -6)  # of a new thumbnail, which is to take no more room than the old one
_ROWS = 256  # rows looked at together where a whole big picture would need memory many times over


@dataclass(frozen=True)
class Written:
    """What writing a picture came to.

    Attributes:
        notices: What the target's format could not hold, and the like, one line each; losses are `errors.Loss`.
        outside_changed: Pixels outside the hole that are not as they were, counted after reading the file back.
    """

    notices: tuple[str, ...] = ()
    outside_changed: int = 0


def foreseen(picture: Picture, target: Path) -> tuple[str, ...]:
    """What would be lost by writing a picture there, as far as that can be told beforehand, one line each.

    Raises:
        ItemError: The format cannot hold the picture.
    """
    kind = kind_of(target)
    if kind == picture.format == "TIFF":  # a copy, of which only blocks change
        return ()
    mode, _ = _mode_for(picture, kind, target, clear=picture.opacity() is not None)
    lost = [*picture.notices, *_losses(picture, kind, mode)]
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
    kind = kind_of(target)
    if picture.hole is None:
        picture = picture.filled({}, np.zeros((picture.height, picture.width), np.bool_))
    if kind == picture.format == "TIFF":
        return _patch_tiff(picture, target, overwrite, ready)
    try:
        pixels, mode = _for_format(picture, kind, target)
        picture, stale = _with_thumbnail(picture, kind)
        notices = (*_losses(picture, kind, mode), *stale, *_unseen(picture))
        files.refuse_same(picture.path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target, overwrite=overwrite, source=picture.path) as stream:
            told = _encode(picture, pixels, mode, kind, stream)
            notices += (*told, *(Companions().stale(target) if kind == "TIFF" else ()))
            stream.flush()
            part = Path(stream.name)
            patched = kind == picture.format == "JPEG" and mode == picture.mode and not told
            changed = _read_back(picture, part, pixels, mode, target, patched=patched)
            if ready is not None:
                ready(part, notices)
    except ItemError:
        raise
    except Exception as error:  # an encoder may raise anything; one picture must not end the batch
        raise unwritable(target, error, why_unwritable(error, kind)) from error
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
    carried, kind = picture.carried, kind_of(target)
    if not carried.xmp and any(map(_carry.is_xmp, carried.chunks)):
        raise ValueError("cannot be read")
    new = replace(carried, xmp=change(carried.xmp))
    if kind == "BMP" or not _carry.xmp_for(new, kind):
        return picture, new.xmp
    chunks = tuple(chunk for chunk in carried.chunks if not _carry.is_xmp(chunk))
    return replace(picture, carried=replace(new, chunks=chunks), stamped=True), b""


def copy_file(source: Path, target: Path, *, overwrite: bool, ready: Ready | None = None) -> tuple[str, ...]:
    """Copy a file byte by byte, all of it or nothing; `ready` is told of it as in `write_picture`.

    What lies beside a TIFF and describes it goes with it.

    Returns:
        What there is to say of the copy's place, one line each.

    Raises:
        ItemError: The source cannot be read, the target exists or is the source, or the disk says no.
    """
    try:
        stream = source.open("rb")
    except OSError as error:
        raise ItemError(source, why_unreadable(source, error)) from error
    with stream:
        try:
            files.refuse_same(source, target)
            target.parent.mkdir(parents=True, exist_ok=True)
            tiff = is_tiff(source)
            described = Companions.of(source) if tiff else Companions()
            described.refuse_taken(target, overwrite=overwrite)
            told = described.stale(target) if tiff else ()
            with ExitStack() as together, files.whole(target, overwrite=overwrite, source=source) as out:
                shutil.copyfileobj(stream, out, 1 << 20)
                out.flush()
                if ready is not None:
                    ready(Path(out.name), ())
                together.enter_context(described.beside(target, overwrite=overwrite))
            return told
        except OSError as error:
            raise unwritable(target, error, why_unwritable(error, "a copy")) from error


def kind_of(target: Path) -> str:
    """Pillow's name of the format that a file's suffix stands for.

    Raises:
        ItemError: It stands for none that can be written.
    """
    kind = BY_SUFFIX.get(target.suffix.lower())
    if kind is None:
        raise ItemError(target, f"cannot write '{target.suffix}' files: choose one of {', '.join(sorted(FORMATS))}")
    return kind


def why_unwritable(error: Exception, kind: str) -> str:
    """Reason and way out of an error on writing a file of a kind, for people."""
    cause = " ".join(str(error).split()) or type(error).__name__
    return files.why_unwritable(error) or f"cannot be written as {kind} ({cause}): choose another format"


# ---------------------------------------------------------------- what a format can hold


def _losses(picture: Picture, kind: str, mode: str) -> tuple[str, ...]:
    """What of a picture a format cannot hold that takes it in this mode, one line each."""
    lost = {"P": ["its palette"], "1": ["1 bit per pixel"]}.get(picture.mode, []) if mode != picture.mode else []
    if picture.shown is not None:  # of a TIFF, and none is written here from another
        lost.append("where it shows nothing (nodata or mask band)")
    of = picture.layers[0]
    if of.alpha is not None and (picture.channels[..., of.channels] > picture.channels[..., of.alpha, None]).any():
        lost.append("light that transparent pixels add (colours above their alpha)")
    told = _carry.losses(picture.carried, kind, _widened(picture, mode), lost)
    if kind == "JPEG" != picture.format and BY_SUFFIX.get(picture.path.suffix.lower()) == kind:  # nobody asked for it
        found = f"{picture.format} in a file named {picture.path.suffix}"
        told = (Loss(f"{found}: as a JPEG all pixels change a bit; --format png keeps them"), *told)
    return told


def _unseen(picture: Picture) -> tuple[str, ...]:
    """What there is to say of damage that is transparent, and stays so."""
    alpha = picture.opacity()
    if alpha is None or picture.hole is None or picture.mode == "1":
        return ()
    count = int(np.count_nonzero(picture.hole & (alpha == 0)))
    what = "filled but not to be seen" if picture.alpha is not None else "not filled, and not to be seen"
    return (unseen(f"{what}, for its alpha stays as it is", count, _TO_SEE),) if count else ()


def _widened(picture: Picture, mode: str) -> bool:
    return picture.mode in ("1", "L", "LA") and mode in ("RGB", "RGBA")


def _mode_for(picture: Picture, kind: str, target: Path, *, clear: bool) -> tuple[str, bool]:
    """The mode in which the format can hold a picture, and whether its colours are to be spelled out for it.

    `clear` says whether the picture has any transparency.

    Raises:
        ItemError: There is none.
    """
    if max(picture.height, picture.width) > _LARGEST.get(kind, 2**31):
        reason = f"{kind} holds at most {_LARGEST[kind]} pixels a side, this picture is"
        raise ItemError(target, f"{reason} {picture.width} x {picture.height}: write png or tiff")
    mode, pixels = picture.mode, picture.pixels
    ranged = is_ranged(pixels.dtype)  # those are of TIFFs, which as TIFFs are patched
    if ranged or pixels.dtype.itemsize > _WIDE.get(kind, 1):
        bits = {"i": "signed {}-bit", "u": "{}-bit", "f": "{}-bit floating-point"}[pixels.dtype.kind]
        held = f"{kind} cannot hold {bits.format(8 * pixels.dtype.itemsize)} values"
        raise ItemError(target, f"{held} and none are narrowed: write tiff" + " or png" * (not ranged))
    if mode == "BANDS" or (mode == "CMYK" and kind not in ("JPEG", "TIFF")):
        what = "CMYK colours" if mode == "CMYK" else f"{picture.channels.shape[2]} channels"
        raise ItemError(target, f"{kind} has no place for {what}: write tiff")
    if clear and kind == "JPEG":
        raise ItemError(target, "JPEG has no transparency and this picture has: write png, webp or tiff")
    veiled = mode == "P" and picture.alpha is not None  # a PNG has the alpha of its colours, and none of its pixels
    keeps = (kind == "PNG" and not veiled) or (mode in "1P" and not clear and kind in ("BMP", "TIFF"))
    if keeps or not (mode in "1P" or picture.carried.colour_key is not None or kind in ("WEBP", "BMP")):
        return mode, False
    grey = mode in ("1", "L", "LA") and (kind in ("TIFF", "JPEG") or (kind == "BMP" and not clear))
    return ("L" if grey else "RGB") + "A" * clear, True


def _for_format(picture: Picture, kind: str, target: Path) -> tuple[NDArray[Any], str]:
    """Pixels and mode that the format can hold and that decode to the same colours."""
    pixels, alpha = picture.pixels, picture.opacity()
    mode, spelled = _mode_for(picture, kind, target, clear=alpha is not None)
    of = picture.layers[0]
    if of.alpha is not None:  # of a TIFF: elsewhere colours are not multiplied by it
        pixels = picture.channels.copy()
        pixels[..., of.channels] = of.taken(pixels)
    if picture.inverted:
        upright = np.iinfo(pixels.dtype).max - pixels
        pixels = upright if alpha is None else np.dstack([upright[..., 0], alpha])
    if spelled:
        before = picture.mode
        colours = (
            picture.rgb() if before in "1P" else np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
        )
        colours = np.repeat(colours[..., :1], 3, 2) if before == "LA" else colours[..., :3]
        colours = colours[..., :1] if mode in ("L", "LA") else colours
        pixels = np.squeeze(colours, 2) if mode == "L" else colours
        pixels = pixels if alpha is None else np.dstack([colours, alpha])
    if kind == "BMP":
        pixels = displayed(pixels, picture.orientation)
    return np.ascontiguousarray(pixels), mode


# ---------------------------------------------------------------- the thumbnail


def _with_thumbnail(picture: Picture, kind: str) -> tuple[Picture, tuple[str, ...]]:
    """Make the thumbnail in the EXIF block anew, in its place; what there is to say where that cannot be done."""
    exif = picture.carried.exif
    place = _carry.thumbnail_in(exif)
    goes_along = kind in ("JPEG", "PNG", "WEBP") and _carry.exif_for(picture.carried, kind, picture.orientation) == exif
    if place is None or not goes_along or picture.hole is None or not picture.hole.any():
        return picture, ()
    thumbnail = _thumbnail(picture, exif[place])
    if thumbnail is None or (picture.encoded and exif not in picture.encoded):  # it is in pieces there
        return picture, (Loss("the EXIF thumbnail is left as it is: it may show the damage"),)
    new = exif[: place.start] + thumbnail + exif[place.stop :]
    carried = replace(picture.carried, exif=new)
    return replace(picture, carried=carried, encoded=picture.encoded.replace(exif, new, 1)), ()


def _thumbnail(picture: Picture, old: bytes) -> bytes | None:
    """A view of the picture as large as an old one in pixels and in bytes; None where that shows something else."""
    view, before = colours_of(old), picture.before
    if view is None or before is None:
        return None
    height, width = view.shape[:2]
    scale = min(height / picture.height, width / picture.width)  # cameras put bars beside pictures of other shapes
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    inside = np.s_[top : top + size[1], left : left + size[0]]

    def small(shown: Picture) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(shown.rgb()).resize(size, Image.Resampling.LANCZOS, reducing_gap=2))

    if np.abs(view[inside].astype(int) - small(replace(picture, pixels=before))).mean() > _ANOTHER:
        return None
    view = view.copy()
    view[inside] = small(picture)
    for quality in _QUALITIES:
        out = io.BytesIO()
        Image.fromarray(view).save(out, "JPEG", quality=quality)
        if len(out.getvalue()) <= len(old):
            return out.getvalue().ljust(len(old), b"\0")
    return None


# ---------------------------------------------------------------- encoding


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
            return (again, *([Loss(f"{ASPECT} is not carried over")] if carried.oblong else []))
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
            from pconv_cli import encoders

            out.write(encoders.encoded(pixels.reshape(*pixels.shape[:2], -1), mode))
        # In the palette that Pillow writes white is 65280.
        colours = _carry.colour_map(palette_table(carried)[:, :3].T.tobytes()) if mode == "P" else {}
        _carry.graft_tags(out, _carry.tiff_tags(carried, icc, picture.orientation) | colours)
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
    from pconv_cli import encoders

    # Pillow has no 16-bit colours: it writes the metadata, round a pixel, and GDAL the pixels.
    dressed = io.BytesIO()
    _image(np.zeros((1, 1, *pixels.shape[2:]), np.uint8), mode, carried).save(
        dressed, "PNG", icc_profile=icc, **options
    )
    bare = encoders.encoded(pixels.reshape(*pixels.shape[:2], -1), mode, "PNG")
    out.write(_carry.dressed_png(bare, dressed.getvalue()))


def _image(pixels: NDArray[np.uint8], mode: str, carried: Carried) -> Image.Image:
    if mode == "CMYK":
        return Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    image = Image.fromarray(pixels.astype(np.bool_) if mode == "1" else pixels)
    if mode == "P":
        colours = max(len(carried.palette) // 4, int(pixels.max()) + 1)  # some files use more than they define
        image.putpalette(palette_table(carried)[:colours, :3].tobytes())
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


# ---------------------------------------------------------------- a copy, patched


def _patch_tiff(picture: Picture, target: Path, overwrite: bool, ready: Ready | None) -> Written:
    from pconv_cli import tiff
    from pconv_cli.canvas import Canvas

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
        Canvas(
            source, target, overwrite=overwrite, mark_valid=picture.revealed, as_laid=picture.as_laid, to_see=_TO_SEE
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


# ---------------------------------------------------------------- reading back


def _read_back(picture: Picture, part: Path, pixels: NDArray[Any], mode: str, target: Path, *, patched: bool) -> int:
    """Compare a file with what was written to it; the number of pixels that changed outside the hole.

    Of a JPEG whose blocks were kept, `patched`, none may have changed beyond those that the hole touches.
    """
    assert picture.before is not None and picture.hole is not None
    kind = kind_of(target)
    made = read_pixels(part, picture) if kind in ("JPEG", "WEBP") else read_picture(part)
    written = replace(picture, pixels=pixels, mode=mode)
    if kind != "JPEG" and _changed(made, written).any():
        raise ItemError(target, _READS_BACK_WRONG)
    before = replace(picture, pixels=picture.before, before=None)
    before = replace(before, pixels=_for_format(before, kind, target)[0], mode=mode)
    hole = displayed(picture.hole, picture.orientation) if kind == "BMP" else picture.hole
    changed = _changed(made, before) & ~hole
    if patched and (changed & ~_jpeg.reach(picture.encoded, hole)).any():
        raise ItemError(picture.path, "a damaged JPEG, whose blocks do not come back as they were: use --format png")
    return int(changed.sum())


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
        return np.asarray(palette_table(picture.carried)[pixels[..., 0]])
    pixels = pixels * np.uint8(255) if picture.mode == "1" else pixels
    opaque = np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
    alpha = pixels[..., -1:] if picture.mode in ("LA", "RGBA") else opaque
    colours = np.broadcast_to(pixels[..., : COLOURS.get(picture.mode, 1)], (*alpha.shape[:2], 3))
    return np.concatenate([colours, alpha], axis=2)
