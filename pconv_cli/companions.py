"""What lies beside a raster file and describes all of it, world files and their like, as plain bytes.

It knows how they are called, what of them, and of the notes that GDAL keeps in a TIFF, stays true of a restored copy,
and how they get their place with it. It knows nothing of pixels, coordinate systems or GDAL: which is not to read
`.aux.xml` files, for they can name other files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from pconv_cli import files

_LARGEST = 16 * 2**20  # bytes; what describes a raster has some thousand
_AUX = ".aux.xml"
_TABLE, _PROJECTION = ".tab", ".prj"
_FILE = re.compile(rb'^([ \t]*File[ \t]+")[^"\r\n]*(?=")', re.IGNORECASE | re.MULTILINE)
_OF_RASTER = re.compile(rb'^[ \t]*Type[ \t]+"RASTER"', re.IGNORECASE | re.MULTILINE)
_COUNTED = re.compile(rb"""\s*<Item\s(?:[^>]*\s)?name=["']STATISTICS_[^>]*?(?:/>|>[^<]*</Item\s*>)""")


def names(path: Path) -> list[Path]:
    """What the companions of a raster may be called, whether they are there or not."""
    others = (path.stem + ending for ending in _endings(path).values())
    return [path.with_name(name) for name in (path.name + _AUX, *others)]


@dataclass(frozen=True)
class Companions:
    """The companions of one raster.

    Attributes:
        lost: Names of those that cannot be carried over.
        crs: Where on earth it lies, as WKT, by `.aux.xml`; empty where that does not say it.
        geotransform: Six numbers in GDAL's order, by the same; None where it does not say it.
        nodata: The value that stands for "nothing here", by the same; None where it does not say it.
    """

    lost: tuple[str, ...] = ()
    crs: str = ""
    geotransform: tuple[float, ...] | None = None
    nodata: float | None = None
    _contents: dict[str, bytes] = field(default_factory=dict, repr=False)  # by kind: ".aux.xml", or see `_endings`

    @classmethod
    def of(cls, path: Path) -> Companions:
        """Read those that are there."""
        contents, lost = {}, []
        aux = path.with_name(path.name + _AUX)
        crs, geotransform, nodata = "", None, None
        try:
            data = _read(aux)
            if data is not None:
                root = ElementTree.fromstring(data)
                crs = (root.findtext("SRS") or "").strip()
                geotransform = _numbers(root.findtext("GeoTransform"))
                value = root.findtext("PAMRasterBand[@band='1']/NoDataValue")
                nodata = float(value) if value else None
                stale = _without_statistics(root)
                if len(root):
                    contents[_AUX] = ElementTree.tostring(root) + b"\n" if stale else data
        except (OSError, ValueError, ElementTree.ParseError):
            lost.append(aux.name)
            crs, geotransform, nodata = "", None, None
        for kind, ending in _endings(path).items():
            if kind == _PROJECTION and not contents.keys() & _world_endings(path).keys():
                continue  # it may be another's, of a layer of that name
            for found in dict.fromkeys((ending, ending.upper(), ending.lower())):
                name = path.stem + found
                try:
                    data = _read(path.with_name(name))
                except (OSError, ValueError):
                    lost.append(name)
                    continue
                if data is not None and (kind != _TABLE or (_OF_RASTER.search(data) and _FILE.search(data))):
                    contents.setdefault(kind, data)
        return cls(tuple(lost), crs, geotransform, nodata, contents)

    def targets(self, output: Path) -> dict[Path, bytes]:
        """What is to lie beside a copy, with what is in it."""
        endings = _endings(output)
        return {
            output.with_name(output.name + kind if kind == _AUX else output.stem + endings[kind]): (
                _FILE.sub(lambda found: found[1] + os.fsencode(output.name), data, 1) if kind == _TABLE else data
            )
            for kind, data in self._contents.items()
        }

    def refuse_taken(self, output: Path, *, overwrite: bool) -> None:
        """Make sure that the names beside a copy are free, or may be taken, or hold what they are to hold.

        Raises:
            files.Refused: Something else is there.
        """
        for target, data in self.targets(output).items():
            _refuse_taken(target, data, overwrite=overwrite)

    def stale(self, output: Path) -> tuple[str, ...]:
        """What to say of files beside a copy that none of this run has written, and that GDAL takes for parts of it."""
        made = self.targets(output)
        beside = [output.with_name(output.name + suffix) for suffix in (".ovr", ".msk", _AUX)]
        left = [path.name for path in beside if os.path.lexists(path) and path not in made]
        if not left:
            return ()
        lie, those, parts = ("lies", "it", "a part") if len(left) == 1 else ("lie", "them", "parts")
        of = f"{lie} beside the output and {'is' if len(left) == 1 else 'are'} of an earlier file"
        return (f"{' and '.join(left)} {of}: delete {those}, or GDAL takes {those} for {parts} of this one",)

    def are_beside(self, output: Path) -> bool:
        """Whether they lie beside a copy as they are."""
        return all(_content(target) == data for target, data in self.targets(output).items())

    @contextmanager
    def beside(self, output: Path, *, overwrite: bool) -> Iterator[None]:
        """Put them beside a copy, which gets its name inside the block; if it does not, all is as before.

        Raises:
            files.Refused: Something else is there.
            OSError: The disk says no.
        """
        self.refuse_taken(output, overwrite=overwrite)
        before: dict[Path, bytes | None] = {}
        try:
            for target, data in self.targets(output).items():
                old = _content(target)
                if old == data:
                    continue
                try:
                    with files.whole(target, overwrite=overwrite) as stream:
                        stream.write(data)
                    before[target] = old
                except files.Refused:  # a.tif and a.tiff share a.tfw: the other one may have put it there just now
                    if _content(target) != data:
                        raise
            yield
        except BaseException:
            for target, old in before.items():
                with suppress(OSError):
                    target.unlink(missing_ok=True) if old is None else target.write_bytes(old)
            raise


def without_statistics(notes: bytes) -> bytes:
    """What GDAL notes in a TIFF, its XML, without what was counted in pixels that are no longer the same."""
    return _COUNTED.sub(b"", notes)


def _refuse_taken(target: Path, data: bytes, *, overwrite: bool) -> None:
    try:
        files.refuse_taken(target, overwrite=overwrite)
    except files.Refused as error:
        if _content(target) == data:  # looked at only now: it may have come this moment, see `beside`
            return
        raise files.Refused(f"{target.name} beside it {error}") from error


def _endings(path: Path) -> dict[str, str]:
    """What stands for a raster's suffix in the names of all but `.aux.xml`, by kind.

    A table of MapInfo's names its raster, which is the only thing that changes in any of them.
    """
    return _world_endings(path) | {_PROJECTION: _PROJECTION, _TABLE: _TABLE, "rational": "_RPC.TXT"}


def _world_endings(path: Path) -> dict[str, str]:
    """The same of world files: for `.tif` these are `.tfw`, `.tifw` and `.wld`."""
    suffix = path.suffix.lower()
    named = {"short": f"{suffix[:2]}{suffix[-1]}w", "long": f"{suffix}w"} if len(suffix) > 2 else {}
    return named | {"plain": ".wld"}


def _read(path: Path) -> bytes | None:
    """A companion; None where there is none.

    Raises:
        ValueError: It is none, by its size.
        OSError: It cannot be read.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} is too large")
    return path.read_bytes()


def _content(path: Path) -> bytes | None:
    with suppress(OSError, ValueError):
        return _read(path)
    return None


def _without_statistics(root: ElementTree.Element) -> bool:
    """Drop what was counted in pixels that are no longer the same; whether there was any."""
    found = False
    for parent in (root, *root.findall("PAMRasterBand")):
        for metadata in parent.findall("Metadata"):
            stale = [item for item in metadata if item.get("key", "").startswith("STATISTICS_")]
            for item in stale:
                metadata.remove(item)
            if stale and not len(metadata):
                parent.remove(metadata)
            found = found or bool(stale)
        for histograms in parent.findall("Histograms"):
            parent.remove(histograms)
            found = True
    for band in root.findall("PAMRasterBand"):
        if not len(band):
            root.remove(band)
    return found


def _numbers(text: str | None) -> tuple[float, ...] | None:
    numbers = tuple(float(number) for number in (text or "").split(",")) if text else ()
    return numbers if len(numbers) == 6 else None
