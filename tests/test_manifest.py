"""`manifest`: what a list says arrives as it was written, and one that makes no sense is refused with its line."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pconv_cli import manifest
from pconv_cli.errors import NothingToDo, OutputError, UsageError
from pconv_cli.manifest import Row

# Whatever a file may be called: any text, and on POSIX any bytes.
unicode_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
byte_names = st.binary(min_size=1, max_size=12).filter(lambda data: 0 not in data).map(os.fsdecode)
awkward = st.text(st.sampled_from(" \"'\n\r\t,;{}\\#=é\ufeff\u2028"), min_size=1, max_size=6)
names = st.one_of(unicode_names, awkward, *([byte_names] if os.name != "nt" else []))
rows = st.fixed_dictionaries(
    {"image": names, "mask": st.none() | names, "out": st.none() | names, "reason": st.just("") | names}
)


def read(place: Path, data: bytes | str, name: str = "list.csv") -> list[Row]:
    path = place / name
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return manifest.read(path)


def stdin(data: bytes) -> io.TextIOWrapper:
    """Standard input as Python opens it on a system that is not set to UTF-8."""
    return io.TextIOWrapper(io.BytesIO(data), "ascii", newline=None)


# ---------------------------------------------------------------- both ways


@given(st.lists(rows, min_size=1, max_size=5), st.sampled_from(["list.csv", "list.jsonl"]))
def test_what_is_written_is_read_as_it_was(given_rows: list[dict[str, Any]], name: str) -> None:
    wanted = [(row["image"], row["mask"], row["out"]) for row in given_rows]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, name)
        manifest.write(given_rows, target, overwrite=False)
        assert [(row.image, row.mask, row.out) for row in manifest.read(target)] == wanted
        assert [(row.image, row.mask, row.out) for row in manifest.read(None, stdin(target.read_bytes()))] == wanted


def test_a_written_list_is_a_table_that_others_read_too(tmp_path: Path) -> None:
    failed = [{"image": "a,b.png", "mask": None, "out": "o/é.png", "reason": 'says "no"'}]
    manifest.write(failed, tmp_path / "f.csv", overwrite=False)
    assert (tmp_path / "f.csv").read_bytes().decode("utf-8") == (
        'image,mask,out,reason\r\n"a,b.png",,o/é.png,"says ""no"""\r\n'
    )
    manifest.write(failed, tmp_path / "f.ndjson", overwrite=False)
    assert (tmp_path / "f.ndjson").read_bytes().decode("utf-8") == (
        '{"image": "a,b.png", "mask": null, "out": "o/é.png", "reason": "says \\"no\\""}\n'
    )


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_unicode_keeps_its_bytes_and_json_stays_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    failed = [{"image": name, "mask": None, "out": None, "reason": ""}]
    manifest.write(failed, tmp_path / "f.csv", overwrite=False)
    assert b"caf\xe9.png," in (tmp_path / "f.csv").read_bytes()
    manifest.write(failed, tmp_path / "f.jsonl", overwrite=False)
    assert (tmp_path / "f.jsonl").read_text("ascii").startswith('{"image": "caf\\udce9.png"')
    assert manifest.read(tmp_path / "f.csv") == [Row(name, None, None, 2)]
    assert manifest.read(tmp_path / "f.jsonl") == [Row(name, None, None, 1)]


def test_a_list_that_is_there_is_kept_unless_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "f.csv"
    target.write_text("precious")
    with pytest.raises(OutputError, match=r"f\.csv: is there already: pass --overwrite"):
        manifest.write([], target, overwrite=False)
    assert target.read_text() == "precious"
    manifest.write([], target, overwrite=True)
    assert target.read_text().strip() == "image,mask,out,reason"
    with pytest.raises(OutputError, match="cannot be written"):
        manifest.write([], tmp_path / "none" / "f.csv", overwrite=False)


def test_csv_says_so_where_it_cannot_hold_a_name(tmp_path: Path) -> None:
    half = [{"image": "\ud800.png", "mask": None, "out": None, "reason": ""}]
    with pytest.raises(OutputError, match=r"f\.csv: CSV cannot hold .*\.jsonl"):
        manifest.write(half, tmp_path / "f.csv", overwrite=False)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- CSV


def test_columns_stand_in_any_order_in_any_case_beside_others(tmp_path: Path) -> None:
    assert read(tmp_path, "note, OUT ,Mask,image\nx,o.png,m.png,i.png\n") == [Row("i.png", "m.png", "o.png", 2)]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_and_a_mark_at_the_start_do_not_matter(tmp_path: Path, mark: bytes, end: bytes) -> None:
    data = mark + end.join([b"", b"image,mask,out", b"  ", "é.png,m.png,o.png".encode(), b"", b"b.png,,"])
    wanted = [Row("é.png", "m.png", "o.png", 4), Row("b.png", None, None, 6)]
    assert read(tmp_path, data) == wanted
    assert manifest.read(None, stdin(data)) == wanted


def test_a_row_of_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    data = 'image,mask,out\n"a\r\nb.png",m,o\nc.png,m,o\n'
    assert read(tmp_path, data) == [Row("a\r\nb.png", "m", "o", 2), Row("c.png", "m", "o", 4)]


def test_cells_keep_their_spaces_and_may_be_left_out_at_the_end(tmp_path: Path) -> None:
    assert read(tmp_path, "image,mask,out\n a .png \nb,m\n") == [Row(" a .png ", None, None, 2), Row("b", "m", None, 3)]


def test_a_table_need_not_have_a_column_out_that_no_row_would_fill(tmp_path: Path) -> None:
    rows = read(tmp_path, "mask,image\nm.png,a.png\n,b.png\n")
    assert rows == [Row("a.png", "m.png", None, 2), Row("b.png", None, None, 3)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a.png,m.png,o.png\n", "line 1: no header: begin with a line image,mask,out"),
        ("\nimage;mask;out\na;b;c\n", "line 2: no header"),
        ("mask,out\nm,o\n", "line 1: the header has no column 'image': add it"),
        ("image,masks,out\na,b,c\n", "line 1: the header has no column 'mask': add it, its cells may stay empty"),
        ("image,mask,output\na,b,c\n", "line 1: the header has no column 'out'"),
        ("image,mask,out,Image\na,b,c,d\n", "line 1: the header has two columns 'image'"),
        ("image,mask,out\na,b,c\n,b,c\n", "line 3: no image: name the picture"),
        ("image,mask,out\nParis, 1.png,b,c\n", "line 2: 4 cells, but the header has 3: put names that hold commas"),
        ('image,mask,out\na,b,c\n"a,b,c\nd,e,f\n', "line 3: not CSV (unexpected end of data)"),
        ('image,mask,out\n"a"b,c,d\n', "line 2: not CSV"),
        ("image,mask,out\n" + "a" * 200_000, "line 2: not CSV (field larger"),
        ("image,mask,out\na\0,b,c\n", "line 2: "),
        (b"\xff\xfe" + "image,mask,out\r\na,b,c\r\n".encode("utf-16-le"), "line 1: "),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, data: bytes | str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, data)
    assert f"list.csv, {message}" in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- JSON Lines


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json-lines", "a.JSONL"])
def test_json_needs_only_the_image_and_takes_null_and_empty_for_none(tmp_path: Path, name: str) -> None:
    data = '\ufeff{"image": "a", "more": [1]}\r\n\n{"out": "o", "mask": null, "image": "b"}\n{"image": "c", "mask": ""}'
    assert read(tmp_path, data, name) == [Row("a", None, None, 1), Row("b", None, "o", 3), Row("c", None, None, 4)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"image": "a"}\n{"image": "b"\n', "line 2: not JSON (Expecting ',' delimiter): write one object a line"),
        ('[{"image": "a"}]\n', "line 1: not a JSON object"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"mask": "a"}\n', "line 1: no image"),
        ('{"image": ""}\n', "line 1: no image"),
        ('{"image": 5}\n', "line 1: 'image' is no text"),
        ('{"image": "a", "mask": ["m"]}\n', "line 1: 'mask' is no text"),
        ('{"image": "a", "out": false}\n', "line 1: 'out' is no text"),
        ('{"image": "a\\u0000b"}\n', "line 1: 'image' holds what no file's name can"),
        ('{"image": "é\\u0000b"}\n', "line 1: 'image' holds what no file's name can"),
    ],
)
def test_lines_that_make_no_sense_are_refused_with_their_number(tmp_path: Path, data: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, data, "list.jsonl")
    assert f"list.jsonl, {message}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="half a character may be part of a name there")
def test_text_that_the_system_cannot_make_a_name_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"list\.jsonl, line 1: 'out' holds what no file's name can"):
        read(tmp_path, '{"image": "a", "out": "\\ud800"}\n', "list.jsonl")


# ---------------------------------------------------------------- where it comes from


def test_standard_input_that_begins_with_a_brace_is_json() -> None:
    assert manifest.read(None, stdin(b'\n {"image": "a"}\n')) == [Row("a", None, None, 2)]
    assert manifest.read(None, io.StringIO('{"image": "a"}\n')) == [Row("a", None, None, 1)]
    with pytest.raises(UsageError, match=r"^standard input, line 1: no header"):
        manifest.read(None, stdin(b'[{"image": "a"}]'))


def test_standard_input_stays_open() -> None:
    stream = stdin(b"image,mask,out\na,,\n")
    manifest.read(None, stream)
    assert not stream.buffer.closed


@pytest.mark.parametrize("data", ["", "\n  \n", "image,mask,out\n", "image,mask,out\n\n"])
def test_a_list_without_rows_is_nothing_to_do(tmp_path: Path, data: str) -> None:
    with pytest.raises(NothingToDo, match=r"list\.csv: lists no pictures"):
        read(tmp_path, data)
    with pytest.raises(NothingToDo, match=r"^standard input: lists no pictures"):
        manifest.read(None, stdin(data.encode()))


def test_an_unknown_suffix_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    for name in ("list.txt", "list", "list.json"):
        with pytest.raises(UsageError, match=r"not a list by its name: use \.csv, \.jsonl"):
            manifest.read(tmp_path / name)
        with pytest.raises(UsageError, match="not a list by its name"):
            manifest.write([], tmp_path / name, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("gone.csv", "folder.csv"):
        with pytest.raises(UsageError, match=rf"{name}: cannot be read \(.+\): check the path"):
            manifest.read(tmp_path / name)
