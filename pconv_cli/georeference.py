"""Where rasters lie on the map, and how far a mask lies from the picture that it is for.

Knows coordinate systems, transforms and the commands that people bring rasters together with; what lies beside a file
comes before what is in it. Does not know pixels, or what a mask marks.
"""

from __future__ import annotations

import math
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as transform_points

from pconv_cli import _gdal
from pconv_cli.companions import Companions
from pconv_cli.errors import ItemError
from pconv_cli.files import quietly
from pconv_cli.tiff import Source

MOST_AWAY = 0.5
"""Pixels that a mask may lie beside its picture on the map: less is rounding."""


def refuse_elsewhere(path: Path, source: Source) -> None:
    """Make sure that a mask as large as its picture does not lie elsewhere on the map.

    Raises:
        ItemError: It does, by more than `MOST_AWAY`, or a file cannot be opened.
    """
    away, way_out = off_the_map(path, source)
    if not away <= MOST_AWAY:
        far = "its coordinate system cannot be compared with that of the picture"
        if not math.isnan(away):
            far = f"mask lies elsewhere on the map, {away:.6g} pixels from the picture"
        raise ItemError(path, f"{far}: {way_out}")


def off_the_map(path: Path, source: Source) -> tuple[float, str]:
    """How far from its picture a mask lies on the map, if both say where they lie.

    Args:
        path: The mask.
        source: The picture.

    Returns:
        How far the farthest corner of the mask is from where it belongs, in pixels of the picture, NaN where the two
        cannot be compared; and the way out. 0 and nothing where either file does not say where it lies.

    Raises:
        ItemError: A file cannot be opened.
    """
    with _gdal.reading(path), closing(_gdal.open(path)) as raster:
        (crs, transform), width, height = _placement(raster, Companions.of(path)), raster.width, raster.height
    target, grid = placement(source)
    counted = crs is None and transform is not None and abs(transform.a) == abs(transform.e) == 1  # in pixels, no place
    if transform is None or counted or grid is None or grid.is_degenerate:
        return 0.0, ""
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], float)
    x, y = _mapped(transform, corners)
    elsewhere = bool(crs and target and crs != target)
    if elsewhere:
        try:
            with quietly():
                x, y = (np.array(axis) for axis in transform_points(crs, target, x, y))
        except (CPLE_BaseError, RasterioError):  # there is no way from one to the other
            x = y = np.full(4, np.nan)
    belongs = corners / (width, height) * (source.width, source.height)
    with np.errstate(invalid="ignore"):
        away = float(np.abs(np.stack(_mapped(~grid, np.stack((x, y), axis=1)), axis=1) - belongs).max())
    ways = [f"bring it there ({_warping(path, source, target if elsewhere else None, grid)})"]
    if not np.isfinite(away):
        away, ways = float("nan"), []
    if (width, height) == (source.width, source.height):
        ways.append(f"if it fits pixel by pixel, take its place on the map from it (gdal_edit.py -unsetgt {path.name})")
    return away, ", or, ".join(ways)


def placement(source: Source) -> tuple[Any, Any]:
    """Coordinate system and transform of a picture, None for either that nothing tells.

    Raises:
        ItemError: The file is damaged there, or gone.
    """
    with source.raster() as raster:
        return _placement(raster, source.companions)


def _placement(raster: Any, companions: Companions) -> tuple[Any, Any]:
    """Coordinate system and transform of a raster, None for either that nothing tells; what lies beside comes first."""
    crs, transform = raster.crs or None, None if raster.transform.is_identity else raster.transform
    with suppress(CRSError):
        crs = CRS.from_wkt(companions.crs) if companions.crs else crs
    if companions.geotransform is not None:
        transform = Affine.from_gdal(*companions.geotransform)
    return crs, transform


def _mapped(transform: Any, points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Take points, (n, 2), through a transform."""
    x, y = points.T
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def _warping(path: Path, source: Source, crs: Any, grid: Any) -> str:
    """The command that brings a raster onto the grid of a picture, if one does."""
    code = None
    with suppress(CRSError):
        code = crs.to_epsg() if crs else None
    if grid.b or grid.d or grid.e > 0 or (crs and code is None):
        return "with gdalwarp, onto the picture's grid"
    (left, right), (top, bottom) = _mapped(grid, np.array([(0, 0), (source.width, source.height)], float))
    edges = " ".join(f"{edge:.15g}" for edge in (left, bottom, right, top))
    system = f"-t_srs EPSG:{code} " if code else ""
    return f"gdalwarp {system}-te {edges} -ts {source.width} {source.height} {path.name} moved.tif"
