"""`companions`: what lies beside a raster and describes it goes with a copy, or everything stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from pconv_cli import files
from pconv_cli.companions import Companions, names

WORLD = b"2\n0\n0\n-2\n100\n200\n"
TABLE = (
    b'!table\r\n!version 300\r\n\r\nDefinition Table\r\n  File "%s"\r\n  Type "%s"\r\n  (0,0) (0,0) Label "File",\r\n'
)
PLACED = (
    b"<PAMDataset>\n  <SRS>LOCAL_CS[&quot;here&quot;]</SRS>\n"
    b"  <GeoTransform>1, 2, 3, 4, 5, 6</GeoTransform>%s</PAMDataset>\n"
)
COUNTED = (
    b'<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">7</MDI>%s</Metadata>'
    b"<Histograms><HistItem/></Histograms></PAMRasterBand>"
)


def beside(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in path.parent.iterdir() if found != path}


def test_what_is_there_is_found_and_named_as_the_copy_is(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    expected = ["a.tif.aux.xml", "a.tfw", "a.tifw", "a.wld", "a.prj", "a.tab", "a_RPC.TXT"]
    assert [name.name for name in names(path)] == expected
    assert Companions.of(path) == Companions()
    (tmp_path / "a.tif.aux.xml").write_bytes(PLACED % b"")
    (tmp_path / "a.TFW").write_bytes(WORLD)
    (tmp_path / "a.tifw").write_bytes(WORLD)
    (tmp_path / "a.wld").write_bytes(WORLD)
    (tmp_path / "a.txt").write_bytes(b"of another kind")
    found = Companions.of(path)
    assert found.lost == () and found.crs == 'LOCAL_CS["here"]' and found.geotransform == (1, 2, 3, 4, 5, 6)
    targets = found.targets(tmp_path / "b.c.TIFF")
    assert {name.name: data for name, data in targets.items()} == {
        "b.c.TIFF.aux.xml": PLACED % b"",
        "b.c.tfw": WORLD,
        "b.c.tiffw": WORLD,
        "b.c.wld": WORLD,
    }


def test_a_table_comes_with_the_copy_s_name_in_it_and_that_of_a_layer_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for name in ("a.tab", "a.TAB"):
        table = tmp_path / name
        table.write_bytes(TABLE % (b"a.tif", b"RASTER"))
        targets = Companions.of(path).targets(tmp_path / r"b\1.tif")
        assert targets == {tmp_path / r"b\1.tab": TABLE % (rb"b\1.tif", b"RASTER")}
        table.write_bytes(TABLE % (b"a.tif", b"NATIVE"))
        assert Companions.of(path) == Companions()
        table.unlink()


def test_a_projection_comes_with_a_world_file_alone_and_coefficients_with_nothing_else(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    (tmp_path / "a.prj").write_bytes(b"PROJCS[]")
    assert Companions.of(path) == Companions()
    (tmp_path / "a.tfw").write_bytes(WORLD)
    (tmp_path / "a_rpc.txt").write_bytes(b"LINE_OFF: 1")
    made = {target.name: data for target, data in Companions.of(path).targets(out).items()}
    assert made == {"b.tfw": WORLD, "b.prj": b"PROJCS[]", "b_RPC.TXT": b"LINE_OFF: 1"}


def test_statistics_are_left_behind_and_nothing_else(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    aux = tmp_path / "a.tif.aux.xml"
    aux.write_bytes(b"<PAMDataset>%s</PAMDataset>" % (COUNTED % b""))
    assert Companions.of(path).targets(out) == {} and Companions.of(path).lost == ()
    aux.write_bytes(PLACED % (COUNTED % b'<MDI key="kept">8</MDI>'))
    (data,) = Companions.of(path).targets(out).values()
    assert b"STATISTICS" not in data and b"Hist" not in data
    assert b'<MDI key="kept">8</MDI>' in data and b"<SRS>" in data and b"<GeoTransform>" in data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<PAMDataset>",
        b"\xff" * 99,
        b"<P><SRS>here</SRS><GeoTransform>a,b</GeoTransform></P>",
        b'<P><SRS>here</SRS><PAMRasterBand band="1"><NoDataValue>x</NoDataValue></PAMRasterBand></P>',
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif.aux.xml").write_bytes(content)
    found = Companions.of(tmp_path / "a.tif")
    assert found == Companions(lost=("a.tif.aux.xml",))


def test_what_is_far_too_large_is_named(tmp_path: Path) -> None:
    for name in ("a.tif.aux.xml", "a.tfw"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(2**30)
    assert Companions.of(tmp_path / "a.tif").lost == ("a.tif.aux.xml", "a.tfw")


def test_what_an_earlier_file_has_left_beside_the_copy_is_told_unless_it_is_replaced(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    (tmp_path / "b.ovr").write_bytes(b"of no file that is there")
    (tmp_path / "b.tif.txt").write_bytes(b"of another kind")
    assert Companions.of(path).stale(out) == ()
    (tmp_path / "b.tif.aux.xml").write_bytes(PLACED % b"")
    (told,) = Companions.of(path).stale(out)
    assert told.startswith("b.tif.aux.xml lies beside the output and is of an earlier file: delete it")
    (tmp_path / "b.tif.ovr").write_bytes(b"")
    (told,) = Companions.of(path).stale(out)
    assert told.startswith("b.tif.ovr and b.tif.aux.xml lie beside the output and are")
    (tmp_path / "a.tif.aux.xml").write_bytes(PLACED % b"")
    (told,) = Companions.of(path).stale(out)
    assert told.startswith("b.tif.ovr lies")


def test_they_come_with_the_copy_or_not_at_all(tmp_path: Path) -> None:
    path, out = tmp_path / "in" / "a.tif", tmp_path / "out" / "b.tif"
    for folder in (path.parent, out.parent):
        folder.mkdir()
    (path.parent / "a.tfw").write_bytes(WORLD)
    (path.parent / "a.tif.aux.xml").write_bytes(PLACED % b"")
    found = Companions.of(path)
    with pytest.raises(KeyError), found.beside(out, overwrite=False):
        assert set(beside(out)) == {"b.tfw", "b.tif.aux.xml"}
        raise KeyError
    assert beside(out) == {}
    (out.parent / "b.tfw").write_bytes(b"another")
    with pytest.raises(files.Refused, match=r"b\.tfw beside it is there already"):
        found.refuse_taken(out, overwrite=False)
    with pytest.raises(files.Refused, match=r"b\.tfw"), found.beside(out, overwrite=False):
        pytest.fail("not refused")
    assert beside(out) == {"b.tfw": b"another"}
    with pytest.raises(KeyError), found.beside(out, overwrite=True):
        assert beside(out)["b.tfw"] == WORLD
        raise KeyError
    assert beside(out) == {"b.tfw": b"another"}
    with found.beside(out, overwrite=True):
        pass
    with found.beside(out, overwrite=False):  # what a killed run has left is just what is wanted
        pass
    assert beside(out) == {"b.tfw": WORLD, "b.tif.aux.xml": PLACED % b""}
