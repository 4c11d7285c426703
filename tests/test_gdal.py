"""`_gdal`: names mean nothing to it, and nothing of GDAL's own reaches the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasters import directories, filled, names, picture, refused, restore, save, whole

from pconv_cli.canvas import Canvas
from pconv_cli.errors import ItemError
from pconv_cli.tiff import Source


@pytest.mark.parametrize("photometric", ["RGB", "CMYK"])
@pytest.mark.parametrize(
    "name", ["a b.tif", "p%20q.tif", "h#x?y.tif", "c:d.tif", "GTIFF_DIR:2:a.tif", "n\nl.tif", "[é]*!.tif"]
)
def test_names_mean_nothing_to_gdal(tmp_path: Path, name: str, photometric: str) -> None:
    pixels = picture(len(photometric))
    path = save(tmp_path / "a.tif", pixels, photometric=photometric, compress="lzw").rename(tmp_path / name)
    (tmp_path / "out").mkdir()
    restore(path, tmp_path / "out" / name)
    assert names(tmp_path / "out") == [name]
    with Source(tmp_path / "out" / name) as made:
        np.testing.assert_array_equal(made.read(whole(made)), filled(pixels))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
@pytest.mark.parametrize("photometric", ["RGB", "CMYK"])
def test_a_name_that_is_not_unicode_is_refused_in_one_line(tmp_path: Path, photometric: str) -> None:
    path = save(tmp_path / "a.tif", picture(len(photometric)), photometric=photometric)
    odd = tmp_path / os.fsdecode(b"\xff.tif")
    with Source(path) as source, pytest.raises(ItemError, match=r"not Unicode.*rename"):
        Canvas(source, odd, overwrite=False)
    assert "not Unicode" in refused(path.rename(odd))


def test_nothing_of_gdals_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.tif", picture(), compress="deflate", blockysize=16)
    restore(path, tmp_path / "b.tif")
    data = bytearray(path.read_bytes())
    offsets = directories(path)[0][273].numbers
    data[offsets[3] : offsets[4]] = b"\xff" * (offsets[4] - offsets[3])
    path.write_bytes(data)
    with pytest.raises(ItemError, match="damaged"), Source(path) as source:
        source.read(whole(source))
    image = Image.fromarray(picture(1)[..., 0] > 100)
    image.save(tmp_path / "c.tif", compression="tiff_lzw", tiffinfo={278: 16})
    assert 277 not in directories(tmp_path / "c.tif")[0]  # samples of a pixel: one, where nothing is said
    restore(tmp_path / "c.tif", tmp_path / "d.tif", value=1)
    assert capfd.readouterr() == ("", "")
