"""Puts into files what is drawn here rather than restored: masks, maps, overlays, and pictures to be looked at.

It knows PNG, TIFF for masks, JPEG for what only eyes see, and that what belongs to a picture lies, and is displayed, as
that does. What suffixes stand for, and why a file cannot be written: `writing`. It does not know what is drawn, nor of
anything larger than memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_cli import _carry, files
from pconv_cli.errors import ItemError, unwritable
from pconv_cli.orientations import displayed
from pconv_cli.picture import MaskImage, Picture
from pconv_cli.writing import Ready, kind_of, why_unwritable


def write_mask(mask: MaskImage, *, overwrite: bool, ready: Ready | None = None) -> None:
    """Write a mask under its name, PNG or TIFF, white where damaged; all of it or nothing.

    It lies as the picture is stored and has the picture's EXIF orientation, so that both are displayed alike. `ready`
    is told of it as in `writing.write_picture`.

    Raises:
        ItemError: The target exists, its name stands for another format, or the disk says no.
    """
    target, kind = mask.path, kind_of(mask.path)
    if kind not in ("PNG", "TIFF"):
        raise ItemError(target, "masks are written as PNG or TIFF, which keep white white: choose such a name")
    options: dict[str, Any] = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    if exif := _carry.exif_block(_carry.orientation_tag(mask.orientation)):
        options["exif"] = exif
    _write(Image.fromarray(mask.hole.astype(np.uint8) * np.uint8(255)), target, overwrite, kind, ready, **options)


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
        ready: Told of the finished file, as in `writing.write_picture`.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    turned = kind_of(output) == "BMP"
    values = np.ascontiguousarray(displayed(values, picture.orientation) if turned else values)
    exif = b"" if turned else _carry.exif_block(_carry.orientation_tag(picture.orientation))
    _write(Image.fromarray(values), target, overwrite, "PNG", ready, exif=exif)


def write_png(pixels: NDArray[np.uint8], target: Path, *, overwrite: bool, orientation: int = 1) -> None:
    """Write a drawing, `(h, w, 3)`, as PNG whatever the name says, turned as its EXIF orientation displays it.

    All of it is written, or nothing.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    upright = np.ascontiguousarray(displayed(pixels, orientation))
    _write(Image.fromarray(upright), target, overwrite, "PNG")


def write_view(pixels: NDArray[np.uint8], target: Path, *, overwrite: bool) -> None:
    """Write what is only to be looked at, `(h, w, 3)`, as JPEG without chroma subsampling, all of it or nothing.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    _write(Image.fromarray(pixels), target, overwrite, "JPEG", quality=90, subsampling=0)


def write_layer(hole: NDArray[np.bool_], colour: tuple[int, int, int], target: Path, *, overwrite: bool) -> None:
    """Write a hole, `(h, w)`, as a PNG of one colour that is transparent elsewhere, all of it or nothing.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    image = Image.fromarray(hole.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *colour])
    _write(image, target, overwrite, "PNG", bits=1, transparency=0)


def reduced(pixels: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """A picture, `(h, w, 3)`, made smaller until no side is longer; one that fits is given back as it is."""
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BOX if scale < 0.1 else Image.Resampling.LANCZOS))


def _write(
    image: Image.Image, target: Path, overwrite: bool, kind: str, ready: Ready | None = None, **options: Any
) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target, overwrite=overwrite) as stream:
            image.save(stream, kind, **options)
            if ready is not None:
                stream.flush()
                ready(Path(stream.name), ())
    except (OSError, MemoryError) as error:
        raise unwritable(target, error, why_unwritable(error, kind)) from error
