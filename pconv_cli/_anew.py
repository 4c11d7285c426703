"""How a new TIFF comes to say what another raster says: what it is made with, what it is told, and tags at its end.

It knows what GDAL keeps of a file besides its pixels, and what of that it gives to nobody. It does not know pixels, or
when a file is written anew: the private part of `canvas`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rasterio.enums import ColorInterp

from pconv_cli import _carry, _gdal
from pconv_cli._ifd import POINTERS, graft, graft_from
from pconv_cli.images import metadata
from pconv_cli.tiff import Source


def profile(raster: Any, source: Source, side: int) -> dict[str, Any]:
    """How a new file is created that is to hold the same picture."""
    colours = "CMYK" if source.raw else "RGB" if raster.colorinterp[0] == ColorInterp.red else "MINISBLACK"
    # Black and white are two colours to GDAL, and a palette to nobody else.
    named = {0: "MINISWHITE", 1: "MINISBLACK"}.get(source.tiff.number(262, 3) if source.tiff else 3)
    photometric = "PALETTE" if source.palette is not None else colours
    photometric = named if named and colours == "MINISBLACK" else photometric
    alpha = "NO" if source.alpha is None else "PREMULTIPLIED" if source.premultiplied else "NON-PREMULTIPLIED"
    profile = {"width": source.width, "height": source.height, "count": source.bands, "dtype": source.dtype.name}
    profile |= {"tiled": True, "blockxsize": side, "blockysize": side, "interleave": "pixel", "BIGTIFF": "IF_SAFER"}
    profile["ENDIANNESS"] = "LITTLE"  # as are the tags that it is given of other formats
    # Differences of numbers of colours mean nothing, and those of fewer than 8 bits cannot be taken.
    predictor = 1 if source.palette is not None else 3 if source.dtype.kind == "f" else 2
    profile |= {"compress": "deflate", "predictor": predictor, "ZLEVEL": 1, "photometric": photometric, "ALPHA": alpha}
    if source.nodata is not None:
        profile["nodata"] = source.nodata
    if raster.crs:
        profile["crs"] = raster.crs
    if not raster.transform.is_identity:
        profile["transform"] = raster.transform
    icc = raster.tags(ns="COLOR_PROFILE").get("SOURCE_ICC_PROFILE")
    bits = _gdal.bits(raster)
    profile |= {"NBITS": bits.pop()} if bits else {}
    return profile | ({"SOURCE_ICC_PROFILE": icc} if icc else {})


def description(raster: Any, *, palette: bool) -> Callable[[Any], None]:
    """What a new file is told after it has been created: read from one file now, applied to another later."""
    points, reference = raster.gcps
    rpcs, described = raster.rpcs, raster.descriptions
    own, spaces = raster.tags(), _tags_by_namespace(raster, 0)
    of_bands = {band: (raster.tags(band), _tags_by_namespace(raster, band)) for band in raster.indexes}
    scales, offsets, units = raster.scales, raster.offsets, raster.units
    colours = raster.colormap(1) if palette else None

    def apply(target: Any) -> None:
        if colours is not None:
            target.write_colormap(1, colours)
        if points:
            target.gcps = points, reference
        if rpcs:
            target.rpcs = rpcs
        if any(described):
            target.descriptions = described
        if set(scales) != {1.0} or any(offsets):
            target.scales, target.offsets = scales, offsets
        if any(units):
            target.units = [unit or "" for unit in units]
        target.update_tags(**own)
        for name, values in spaces.items():
            target.update_tags(ns=name, **values)
        for band, (plain, named) in of_bands.items():
            target.update_tags(band, **plain)
            for name, values in named.items():
                target.update_tags(band, ns=name, **values)

    return apply


def _tags_by_namespace(raster: Any, band: int) -> dict[str, dict[str, str]]:
    """What a band, or with 0 the whole, is tagged with in namespaces; without those that GDAL fills by itself."""
    made = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "COLOR_PROFILE", "SUBDATASETS", "RPC", "TIFF", "EXIF", "xml:XMP"}
    return {name: raster.tags(band, ns=name) for name in raster.tag_namespaces(band) if name not in made}


def carry_tags(source: Source, part: Path) -> list[str]:
    """Give a new file the tags that GDAL did not; the names of those that cannot be given."""
    if source.tiff is not None:
        return graft_from(source.tiff, part)
    with closing(_gdal.open(part)) as made:
        carried, lost = metadata(source.path, made.tags())
    turn = _carry.orientation_of(carried.tags) if carried.tags else source.orientation
    tags = _carry.tiff_tags(replace(carried, xmp=carried.xmp or source.xmp), b"" if source.icc else carried.icc, turn)
    graft(part, _carry.plain(tags))
    return [*(POINTERS[tag] for tag in sorted(tags.keys() & POINTERS)), *lost]
