"""Ways to fill a hole that learn nothing, to compare with: the only door to those of OpenCV, scikit-image and GDAL.

Knows: the libraries, and what each of them wants. Does not know: files, networks, measures.

| method | what it does |
|---|---|
| `telea` | fast marching, from the rim inwards (Telea 2004; OpenCV, radius 3) |
| `ns` | continues edges by the equations of a flow (Navier-Stokes; Bertalmio et al. 2001; OpenCV, radius 3) |
| `biharmonic` | the smoothest surface through the rim (Damelin and Hoang 2018; scikit-image) |
| `fillnodata` | inverse distances to the known pixels in four quadrants, as map makers fill gaps (GDAL, not smoothed) |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli.errors import UsageError

Pixels = NDArray[np.uint8]
Hole = NDArray[np.bool_]
Method = Callable[[Pixels, Hole], Pixels]

RADIUS = 3  # pixels round each pixel that OpenCV looks at

# From so many damaged pixels on, hole by hole: 0.1 instead of 1.3 GB for a hundred discs (440,000 px), and no slower.
# Fewer are solved at once, which is twice as fast; the fill is the same.
SPLIT = 50_000


def fill(method: str, picture: Pixels, hole: Hole) -> Pixels:
    """Fill a hole.

    Args:
        method: One of `METHODS`.
        picture: `(h, w, 3)` RGB, uint8. What stands in the hole is not looked at.
        hole: `(h, w)`, True = damaged; something must be known.

    Returns:
        `(h, w, 3)`, uint8; outside the hole as it was.

    Raises:
        UsageError: If there is no such method, or its package is not installed.
    """
    return load(method)(picture, hole)


def load(method: str) -> Method:
    """Import what a method needs, and give it as a function: see `fill`.

    Raises:
        UsageError: As in `fill`.
    """
    if method not in _LOADERS:
        raise UsageError(f"{method}: no such method; there are {', '.join(METHODS)}")
    try:
        filled = _LOADERS[method]()
    except ImportError as error:
        more = ", or opencv-python-headless where libGL is missing" if method in ("telea", "ns") else ""
        raise UsageError(f"{method}: a package is missing ({error}); pip install 'pconv[evaluate]'{more}") from error

    def only_the_hole(picture: Pixels, hole: Hole) -> Pixels:
        if not hole.any():
            return np.array(picture)
        # Where a hole touches the border, OpenCV lets a little of what stands in it into the fill: the mean is neutral.
        mean = picture[~hole].mean(axis=0).round().astype(np.uint8)
        made = filled(np.where(hole[..., None], mean, picture), hole)
        return np.asarray(np.where(hole[..., None], made, picture))

    return only_the_hole


def _telea() -> Method:
    import cv2

    return lambda picture, hole: np.asarray(cv2.inpaint(picture, hole.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA))


def _ns() -> Method:
    import cv2

    return lambda picture, hole: np.asarray(cv2.inpaint(picture, hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS))


def _biharmonic() -> Method:
    from skimage.restoration import inpaint_biharmonic

    def filled(picture: Pixels, hole: Hole) -> Pixels:
        split = int(hole.sum()) >= SPLIT
        return _bytes(inpaint_biharmonic(picture, hole, split_into_regions=split, channel_axis=-1) * 255)

    return filled


def _fillnodata() -> Method:
    from rasterio.fill import fillnodata

    def filled(picture: Pixels, hole: Hole) -> Pixels:
        known = (~hole).astype(np.uint8)
        across = float(np.hypot(*hole.shape))
        bands = [
            fillnodata(band, known, max_search_distance=across, smoothing_iterations=0)
            for band in picture.transpose(2, 0, 1).astype(np.float32)
        ]
        return _bytes(np.stack(bands, axis=-1))

    return filled


def _bytes(values: NDArray[Any]) -> Pixels:
    return np.asarray(values.round().clip(0, 255).astype(np.uint8))


_LOADERS: dict[str, Callable[[], Method]] = {
    "telea": _telea,
    "ns": _ns,
    "biharmonic": _biharmonic,
    "fillnodata": _fillnodata,
}
METHODS: tuple[str, ...] = tuple(_LOADERS)
"""All methods, by the names that `--methods` takes."""
