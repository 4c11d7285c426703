"""Finding pictures, pairing masks, naming outputs: each rule with a case that breaks when the rule is broken."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pconv_cli.errors import NothingToDo, UsageError
from pconv_cli.jobs import Job, JobList, among, find_jobs, listed_jobs, natural_key
from pconv_cli.manifest import Row

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test runs in an empty folder with relative paths, as a user would."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture(scope="session")
def case_matters(tmp_path_factory: pytest.TempPathFactory) -> bool:
    place = tmp_path_factory.mktemp("case")
    (place / "a").touch()
    return not (place / "A").exists()


def make(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def link(name: str, target: str) -> None:
    try:
        Path(name).symlink_to(target, target_is_directory=(Path(name).parent / target).is_dir())
    except OSError as error:
        pytest.skip(f"links cannot be made here: {error}")


def find(source: str = "in", masks: str = "masks", output: str = "out", out_suffix: str | None = None) -> JobList:
    return find_jobs(Path(source), Path(masks), output, suffixes=SUFFIXES, out_suffix=out_suffix)


def pairs(found: JobList) -> dict[str, str | None]:
    return {job.name: job.mask.as_posix() if job.mask else None for job in found.jobs}


def outputs(found: JobList) -> list[str]:
    return [job.output.as_posix() for job in found.jobs]


# Searching


def test_a_folder_is_searched_with_its_subfolders_and_the_tree_is_kept() -> None:
    make("in/a.jpg", "in/x/y/b.PNG", "masks/a.png", "masks/x/y/b.png")
    found = find()
    assert pairs(found) == {"a.jpg": "masks/a.png", "x/y/b.PNG": "masks/x/y/b.png"}
    assert [job.image for job in found.jobs] == [Path("in/a.jpg"), Path("in/x/y/b.PNG")]
    assert outputs(found) == ["out/a.jpg", "out/x/y/b.PNG"]
    assert found.unused_masks == ()
    assert not Path("out").exists()


def test_hidden_names_are_passed_over_and_other_files_counted() -> None:
    make("in/a.jpg", "in/.b.jpg", "in/.git/c.jpg", "in/Thumbs.db", "in/notes.txt", "in/sub/readme", "masks/a.png")
    found = find()
    assert list(pairs(found)) == ["a.jpg"]
    assert found.skipped == {".db": 1, ".txt": 1, "": 1}


def test_masks_in_no_format_that_can_be_read_are_told_of_where_a_picture_has_none() -> None:
    make("in/a.png", "in/b.png", "masks/a.png", "masks/b.gif", "masks/notes.txt")
    assert find().left_out == "left out of the masks, for they are in no format that can be read: 1 .gif, 1 .txt"
    make("masks/b.png")
    assert find().left_out == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_with_the_name_of_a_picture_is_not_said_to_be_in_a_wrong_format() -> None:
    make("in/a.png", "masks/a.png")
    os.mkfifo("in/pipe.png")
    assert dict(find().skipped) == {"no file but a pipe or a device": 1}


def test_hidden_masks_are_no_masks() -> None:
    make("in/a.jpg", "masks/._a.png", "masks/.old/a.png", "masks/.a_mask.png")
    found = find()
    assert pairs(found) == {"a.jpg": None}
    assert found.unused_masks == ()


def test_order_is_natural_and_folder_by_folder() -> None:
    names = ["b2.jpg", "B10.jpg", "b1.jpg", "a10/x.jpg", "a2/x.jpg", "a2/x/z.jpg", "a2/y.jpg"]
    make(*(f"in/{name}" for name in names), "m.png")
    expected = ["b1.jpg", "b2.jpg", "B10.jpg", "a2/x.jpg", "a2/y.jpg", "a2/x/z.jpg", "a10/x.jpg"]
    assert list(pairs(find(masks="m.png"))) == expected


def test_linked_folders_are_entered_but_loops_end() -> None:
    make("in/a.jpg", "in/sub/b.jpg", "elsewhere/c.jpg", "stray.jpg", "m.png")
    link("in/link", "../elsewhere")
    link("elsewhere/back", "../in")
    link("in/sub/up", "..")
    link("in/itself", "itself")
    link("elsewhere/root", "..")
    assert list(pairs(find(masks="m.png"))) == ["a.jpg", "link/c.jpg", "sub/b.jpg"]


def test_a_loop_between_linked_folders_ends() -> None:
    make("in/a.jpg", "one/b.jpg", "two/c.jpg", "m.png")
    link("in/one", "../one")
    link("one/two", "../two")
    link("two/one", "../one")
    assert list(pairs(find(masks="m.png"))) == ["a.jpg", "one/b.jpg", "one/two/c.jpg"]


def test_a_picture_link_that_leads_nowhere_is_not_lost() -> None:
    make("in/a.jpg", "m.png")
    link("in/b.jpg", "gone.jpg")
    assert list(pairs(find(masks="m.png"))) == ["a.jpg", "b.jpg"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_that_cannot_be_opened_ends_the_run() -> None:
    make("in/a.jpg", "in/shut/b.jpg", "m.png")
    Path("in/shut").chmod(0)
    try:
        with pytest.raises(UsageError, match=r"shut: cannot be opened"):
            find(masks="m.png")
    finally:
        Path("in/shut").chmod(0o700)


def test_a_folder_that_fails_on_listing_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/a.jpg", "m.png")

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"^in: cannot be opened \(Permission denied\): "):
        find(masks="m.png")


def test_masks_and_results_inside_the_source_are_not_pictures() -> None:
    make("in/a.jpg", "in/masks/a.png", "in/masks/deep/z.png", "in/out/a.jpg", "in/outer/b.jpg")
    found = find(masks="in/masks", output="in/out")
    assert pairs(found) == {"a.jpg": "in/masks/a.png", "outer/b.jpg": None}
    assert [mask.as_posix() for mask in found.unused_masks] == ["in/masks/deep/z.png"]


def test_pictures_in_a_place_for_results_inside_the_source_are_found() -> None:
    make("in/a.jpg", "in/out/b.jpg", "in/out/sub/c.png", "in/out/masks/b.png", "in/out/.x.jpg", "in/.out/d.jpg")

    def found(output: str, source: str = "in") -> list[str]:
        return [path.as_posix() for path in among(Path(source), Path(output), SUFFIXES, [Path("in/out/masks")])]

    assert found("in/out") == ["in/out/b.jpg", "in/out/sub/c.png"]
    assert found("in/.out") == found("in/new") == found("out") == found("in/out", "in/a.jpg") == []
    link("elsewhere", "in/out")
    assert found("elsewhere") == ["elsewhere/b.jpg", "elsewhere/sub/c.png"]


def test_masks_inside_the_source_are_recognised_through_a_link() -> None:
    make("in/a.jpg", "in/masks/a.png")
    link("m", "in/masks")
    assert pairs(find(masks="m")) == {"a.jpg": "m/a.png"}


def test_pictures_and_results_inside_the_masks_folder_are_not_masks() -> None:
    make("all/a.png", "all/in/a.jpg", "all/out/a.jpg", "all/sub/b.png")
    found = find(source="all/in", masks="all", output="all/out")
    assert pairs(found) == {"a.jpg": "all/a.png"}
    assert [mask.as_posix() for mask in found.unused_masks] == ["all/sub/b.png"]


# Pairing


@pytest.mark.parametrize("mask", ["b.png", "b.TIF", "b_mask.png", "b-mask.jpg", "b.mask.png", "b_MASK.Png"])
def test_a_mask_is_found_by_stem_whatever_its_suffix(mask: str) -> None:
    make("in/a/b.JPG", f"masks/a/{mask}", "masks/b.png", "masks/a/bmask.png", "masks/a/b_masks.png")
    found = find()
    assert pairs(found) == {"a/b.JPG": f"masks/a/{mask}"}
    assert len(found.unused_masks) == 3


def test_a_picture_that_is_itself_called_a_mask_has_its_own() -> None:
    make("in/b.jpg", "in/b_mask.jpg", "masks/b.png", "masks/b_mask.png")
    assert pairs(find()) == {"b.jpg": "masks/b.png", "b_mask.jpg": "masks/b_mask.png"}


def test_a_mask_may_have_the_full_name_of_its_picture() -> None:
    make("in/b.jpg", "in/b.tif", "in/c.tif", "masks/b.jpg.png", "masks/b.tif.png", "masks/c.jpg.png", "masks/c.png")
    found = find()
    assert pairs(found) == {"b.jpg": "masks/b.jpg.png", "b.tif": "masks/b.tif.png", "c.tif": "masks/c.png"}
    assert [mask.name for mask in found.unused_masks] == ["c.jpg.png"]


def test_full_names_are_kept_where_only_suffixes_tell_pictures_apart() -> None:
    make("in/b.jpg", "in/b.tif", "in/sub/b.jpg", "in/c.jpg", "masks/b.png")
    found = find_jobs(Path("in"), None, "out", suffixes=SUFFIXES, out_suffix=".png", full_names=True)
    assert outputs(found) == ["out/b.jpg.png", "out/b.tif.png", "out/c.png", "out/sub/b.png"]
    with pytest.raises(UsageError, match="both results would be"):
        find(out_suffix=".png")


def test_a_picture_without_a_mask_says_where_one_was_looked_for() -> None:
    make("in/b.jpg", "in/sub/c.jpg", "masks/b.png")
    assert [job.wanted for job in find().jobs] == [None, Path("masks/sub/c.png")]


RIVALS = [
    ("b.png", "b.tif"), ("b_mask.png", "b-mask.png"), ("B.png", "B.tif"), ("b.png", "b_mask.png"),
    ("b.png", "b.jpg.png"),
]  # fmt: skip


@pytest.mark.parametrize("rivals", RIVALS)
def test_two_masks_of_one_picture_are_refused_by_name(rivals: tuple[str, str]) -> None:
    make("in/b.jpg", *(f"masks/{name}" for name in rivals))
    with pytest.raises(UsageError) as caught:
        find()
    message = str(caught.value)
    assert message.startswith(f"{Path('in/b.jpg')}: two masks fit")
    assert all(str(Path("masks") / name) in message for name in rivals)
    assert "\n" not in message


def test_all_pictures_that_two_masks_fit_are_refused_together_or_left_out() -> None:
    make(*(f"in/{name}.jpg" for name in "abcdef"), *(f"masks/{name}.png" for name in "abcdef"))
    make(*(f"masks/{name}_mask.png" for name in "bcdef"))
    told = [str(Path(f"in/{name}.jpg")) for name in "bcde"]
    with pytest.raises(UsageError, match="two masks fit") as caught:
        find()
    assert str(caught.value).startswith(told[0])
    assert str(caught.value).endswith(f"; the same of 4 more: {', '.join(told[1:])}, ...")
    found = find_jobs(Path("in"), Path("masks"), "out", suffixes=SUFFIXES, lenient=True)
    assert pairs(found) == {"a.jpg": "masks/a.png"} and found.unused_masks == ()
    assert list(found.unclear) == [f"{name}.jpg" for name in "bcdef"]


def test_two_pictures_of_one_stem_share_a_mask() -> None:
    make("in/b.jpg", "in/b.png", "masks/b.tif")
    assert pairs(find()) == {"b.jpg": "masks/b.tif", "b.png": "masks/b.tif"}


def test_another_case_is_taken_where_nothing_else_can_be_meant() -> None:
    make("in/Sub/b.jpg", "in/c.jpg", "masks/sub/B.png", "masks/C_mask.png")
    assert pairs(find()) == {"c.jpg": "masks/C_mask.png", "Sub/b.jpg": "masks/sub/B.png"}


def test_the_same_case_wins_however_accents_are_stored(case_matters: bool) -> None:
    if not case_matters:
        pytest.skip("the file system ignores case")
    make("in/\u00e9.jpg", "masks/e\u0301.png", "masks/\u00c9.png")
    assert pairs(find()) == {"\u00e9.jpg": "masks/e\u0301.png"}


def test_the_same_case_wins(case_matters: bool) -> None:
    if not case_matters:
        pytest.skip("the file system ignores case")
    make("in/b.jpg", "masks/B.png", "masks/b_mask.png")
    assert pairs(find()) == {"b.jpg": "masks/b_mask.png"}


def test_an_ambiguous_case_is_not_guessed(case_matters: bool) -> None:
    if not case_matters:
        pytest.skip("the file system ignores case")
    make("in/bild.jpg", "masks/Bild.png", "masks/BILD.png")
    found = find()
    assert pairs(found) == {"bild.jpg": None}
    assert len(found.unused_masks) == 2


def test_a_mask_is_not_lent_to_a_second_spelling(case_matters: bool) -> None:
    if not case_matters:
        pytest.skip("the file system ignores case")
    # The suffixes differ, so that the two results do not clash.
    make("in/b.jpg", "in/B.png", "masks/b.png")
    assert pairs(find()) == {"b.jpg": "masks/b.png", "B.png": None}


@pytest.mark.parametrize("picture_form", ["NFC", "NFD"])
def test_accents_match_however_they_are_stored(picture_form: Literal["NFC", "NFD"]) -> None:
    mask_form: Literal["NFC", "NFD"] = "NFD" if picture_form == "NFC" else "NFC"
    stem = "Übermalt/Fête é 東京"
    picture = unicodedata.normalize(picture_form, stem)
    mask = unicodedata.normalize(mask_form, stem)
    assert picture != mask
    make(f"in/{picture}.jpg", f"masks/{mask}_mask.png")
    found = find()
    assert [job.mask for job in found.jobs] != [None]
    assert found.unused_masks == ()
    # The result keeps the picture's own spelling.
    assert found.jobs[0].output == Path("out") / found.jobs[0].name


def test_one_mask_serves_a_whole_folder_and_is_no_picture_itself() -> None:
    make("in/a.jpg", "in/sub/b.jpg", "in/sub/frame.png")
    found = find(masks="in/sub/frame.png")
    assert pairs(found) == {"a.jpg": "in/sub/frame.png", "sub/b.jpg": "in/sub/frame.png"}
    assert found.unused_masks == ()


def test_a_shared_folder_is_told_apart_by_the_mask_word() -> None:
    make("in/b.jpg", "in/b_mask.png", "in/c.jpg", "in/c.png", "in/death_mask.jpg", "in/sub/b_mask.png")
    found = find(masks="in")
    # A second picture of the same stem is no mask, and a mask word without its picture is part of a name.
    assert pairs(found) == {
        "b.jpg": "in/b_mask.png",
        "c.jpg": None,
        "c.png": None,
        "death_mask.jpg": None,
        "sub/b_mask.png": None,
    }
    assert found.unused_masks == ()


def test_a_shared_folder_is_recognised_through_a_link() -> None:
    make("in/B.jpg", "in/b_mask.png")
    link("same", "in")
    assert pairs(find(masks="same")) == {"B.jpg": "in/b_mask.png"}


def test_a_picture_without_a_mask_is_still_a_job() -> None:
    make("in/a.jpg", "in/b.jpg", "masks/b.png", "masks/z10.png", "masks/z9.png", "masks/notes.txt")
    found = find()
    assert pairs(found) == {"a.jpg": None, "b.jpg": "masks/b.png"}
    assert [mask.name for mask in found.unused_masks] == ["z9.png", "z10.png"]


# One picture


def test_one_picture_finds_its_mask_in_a_folder() -> None:
    make("scans/b.jpg", "masks/b_mask.png", "masks/c.png", "masks/sub/b.png")
    found = find(source="scans/b.jpg")
    assert pairs(found) == {"b.jpg": "masks/b_mask.png"}
    assert found.unused_masks == ()


def test_one_picture_does_not_search_a_whole_tree_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    make("b.jpg", "masks/b.png", "masks/sub/c.png")
    seen: list[Path] = []

    def entries(folder: Path) -> list[os.DirEntry[str]]:
        seen.append(folder)
        return list(os.scandir(folder))

    monkeypatch.setattr("pconv_cli.jobs._entries", entries)
    find(source="b.jpg")
    assert seen == [Path("masks")]


def test_one_picture_is_not_its_own_mask() -> None:
    make("scans/b.png", "scans/b-mask.png")
    assert pairs(find(source="scans/b.png", masks="scans")) == {"b.png": "scans/b-mask.png"}
    with pytest.raises(UsageError, match="both as the picture and as its mask"):
        find(source="scans/b.png", masks="scans/../scans/b.png")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("out", "out/b.JPG"),
        ("results.2024", "results.2024/b.JPG"),
        ("out.png/", "out.png/b.JPG"),
        ("there.png", "there.png/b.JPG"),
        ("out.png", "out.png"),
        ("deep/OUT.TIFF", "deep/OUT.TIFF"),
    ],
)
def test_where_one_picture_goes(output: str, expected: str) -> None:
    make("b.JPG", "m.png")
    Path("there.png").mkdir()
    assert outputs(find(source="b.JPG", masks="m.png", output=output)) == [expected]


def test_a_folder_of_pictures_needs_a_folder() -> None:
    make("in/a.jpg", "m.png", "out")
    with pytest.raises(UsageError, match=r"^out: is a file"):
        find(masks="m.png")


# Formats


def test_the_suffix_asked_for_replaces_the_picture_s_own() -> None:
    make("in/a.b.JPG", "in/c.tiff", "m.png")
    assert outputs(find(masks="m.png", out_suffix=".png")) == ["out/a.b.png", "out/c.png"]
    assert outputs(find(source="in/c.tiff", masks="m.png", out_suffix=".png")) == ["out/c.png"]


def test_a_folder_is_not_made_under_the_name_of_a_picture_unless_it_is_said_to_be_one() -> None:
    make("in/a.jpg", "m.png")
    with pytest.raises(UsageError, match="is a picture's name, but results of a folder need a folder: end its name"):
        find(masks="m.png", output="new/out.jpg")
    assert outputs(find(masks="m.png", output="new/out.jpg/")) == ["new/out.jpg/a.jpg"]
    Path("there.png").mkdir()
    assert outputs(find(masks="m.png", output="there.png")) == ["there.png/a.jpg"]


def test_a_named_file_and_a_contradicting_format_are_refused() -> None:
    make("b.jpg", "m.png")
    with pytest.raises(UsageError, match=r"^out\.png: its name says \.png, the format asked for is \.jpg"):
        find(source="b.jpg", masks="m.png", output="out.png", out_suffix=".jpg")
    assert outputs(find(source="b.jpg", masks="m.png", output="o.JPG", out_suffix=".jpeg")) == ["o.JPG"]
    assert outputs(find(source="b.jpg", masks="m.png", output="o.tif", out_suffix=".tiff")) == ["o.tif"]


# Clashes


def test_two_pictures_may_not_become_one_file() -> None:
    make("in/a.jpg", "in/a.png", "m.png")
    assert len(find(masks="m.png").jobs) == 2
    with pytest.raises(UsageError) as caught:
        find(masks="m.png", out_suffix=".png")
    message = str(caught.value)
    assert all(str(Path(name)) in message for name in ("in/a.jpg", "in/a.png", "out/a.png"))
    assert "rename" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.jpg", "A.jpg"), ("a.jpg", "a.JPG"), ("x/a.jpg", "X/a.jpg"), ("\u00e9.jpg", "e\u0301.jpg")],
)
def test_names_that_some_systems_hold_to_be_one_are_refused(first: str, second: str) -> None:
    make(f"in/{first}", f"in/{second}", "m.png")
    if Path(f"in/{first}").samefile(f"in/{second}"):
        pytest.skip("this file system holds them to be one already")
    with pytest.raises(UsageError) as caught:
        find(masks="m.png")
    message = str(caught.value)
    assert all(str(Path("in") / name) in message for name in (first, second))


def test_names_that_systems_keep_apart_are_accepted() -> None:
    make("in/straße.jpg", "in/strasse.jpg", "m.png")
    assert len(find(masks="m.png").jobs) == 2


@pytest.mark.parametrize("output", ["in", "in/", "./other/../in", "link"])
def test_results_of_a_folder_do_not_get_among_its_pictures(output: str) -> None:
    make("in/a.jpg", "in/sub/b.jpg", "m.png", "other/x")
    link("link", "in")
    for suffix in (None, ".png"):  # a.png would be a picture to the next run
        with pytest.raises(UsageError, match=f"^{output}: is IN itself: what is written there would be pictures"):
            find(masks="m.png", output=output, out_suffix=suffix)


def test_results_of_a_folder_do_not_get_among_its_masks() -> None:
    make("in/a.jpg", "masks/a.png")
    with pytest.raises(UsageError, match=r"^masks: is the folder of masks itself: what"):
        find(output="masks")
    assert outputs(find(output="masks/out")) == ["masks/out/a.jpg"]


def test_the_result_of_one_picture_may_lie_beside_it_and_its_mask() -> None:
    make("in/a.jpg", "in/a_mask.png", "masks/a.png")
    assert outputs(find(source="in/a.jpg", masks="in", output="in", out_suffix=".png")) == ["in/a.png"]
    assert outputs(find(source="in/a.jpg", masks="masks/a.png", output="masks")) == ["masks/a.jpg"]


def test_results_may_not_replace_what_a_linked_picture_stands_for() -> None:
    make("store/a.jpg", "m.png", "in/b.jpg")
    link("in/a.jpg", "../store/a.jpg")
    with pytest.raises(UsageError, match="written over"):
        find(masks="m.png", output="store")


def test_results_may_not_replace_masks_that_no_picture_uses() -> None:
    make("in/masks/z.png", "masks/z.png")
    with pytest.raises(UsageError, match="written over masks"):
        find(output=".")


def test_one_picture_may_not_be_written_over_itself_or_its_mask() -> None:
    make("b.jpg", "m.png")
    for output in ("b.jpg", ".", "m.png"):
        with pytest.raises(UsageError, match="written over"):
            find(source="b.jpg", masks="m.png", output=output)


def test_an_output_that_differs_in_case_from_a_picture_is_asked_of_the_file_system(case_matters: bool) -> None:
    make("in/a.jpg", "m.png")
    if case_matters:
        assert outputs(find(masks="m.png", output="IN")) == ["IN/a.jpg"]
    else:
        with pytest.raises(UsageError, match="written over"):
            find(masks="m.png", output="IN")


def test_existing_outputs_are_not_judged_here() -> None:
    make("in/a.jpg", "m.png", "out/a.jpg")
    assert outputs(find(masks="m.png")) == ["out/a.jpg"]


# What cannot be run


def test_missing_places_are_named() -> None:
    make("in/a.jpg", "masks/a.png")
    with pytest.raises(UsageError, match=r"^nowhere: not found"):
        find(source="nowhere")
    with pytest.raises(UsageError, match=r"^nowhere: not found"):
        find(masks="nowhere")


def test_files_of_unreadable_kinds_are_refused_with_the_readable_ones() -> None:
    make("a.psd", "a.jpg", "m.txt")
    with pytest.raises(UsageError, match=r"^a\.psd: .*\.jpeg, \.jpg, \.png"):
        find(source="a.psd", masks="a.jpg")
    with pytest.raises(UsageError, match=r"^m\.txt: .*\.jpeg, \.jpg, \.png"):
        find(source="a.jpg", masks="m.txt")


def test_no_pictures_is_nothing_to_do() -> None:
    make("in/notes.txt", "masks/a.png")
    with pytest.raises(NothingToDo, match=r"no pictures in in: looked for \.jpeg, \.jpg, \.png"):
        find()
    make("in/frame.png")
    with pytest.raises(NothingToDo):
        find(masks="in/frame.png")


@pytest.mark.parametrize(("suffix", "way_out"), [(".dpx", "ffmpeg -i shot_%04d.dpx"), (".EXR", "TIFFs of floats")])
def test_a_folder_of_frames_alone_is_told_what_is_there_and_how_to_make_pictures_of_it(
    suffix: str, way_out: str
) -> None:
    make(f"in/1{suffix}", f"in/2{suffix}", "in/notes.txt", "masks/1.png")
    with pytest.raises(NothingToDo, match=rf"looked for .*; left out, .*: 2 {suffix.lower()}, 1 \.txt \(") as raised:
        find()
    assert way_out in str(raised.value)
    with pytest.raises(UsageError, match=re.escape(way_out)):
        find(source=f"in/1{suffix}")
    make("in/3.png", "masks/3.png")
    assert way_out in find().left_out


# Natural order

names = st.text(st.sampled_from("aAbB019 ._-éÉe\u0301ß٣²"), min_size=1, max_size=8)


@given(st.lists(names, unique=True))
def test_the_order_is_total_and_does_not_depend_on_the_start(given_names: list[str]) -> None:
    ordered = sorted(given_names, key=natural_key)
    # Sorting is stable: were two keys equal, another start would give another order.
    given_names.reverse()
    assert sorted(given_names, key=natural_key) == ordered
    for first, second in pairwise(ordered):
        assert natural_key(first) < natural_key(second)


@given(st.text(st.characters(exclude_characters="0123456789/\\."), max_size=5), st.integers(0), st.integers(0))
def test_numbers_count_as_numbers(text: str, first: int, second: int) -> None:
    if first != second:
        keys = natural_key(f"{text}{first}.jpg"), natural_key(f"{text}{second:03}.jpg")
        assert (keys[0] < keys[1]) == (first < second)


def test_natural_order_examples() -> None:
    ordered = ["img.png", "IMG0.png", "img1.png", "IMG2.png", "img02.png", "img10.png", "img10b.png", "Ink.png"]
    start = list(reversed(ordered))
    assert sorted(start, key=natural_key) == ordered


def test_an_output_name_of_an_unknown_format_is_refused_and_not_made_a_folder() -> None:
    make("b.jpg", "m.png")
    with pytest.raises(UsageError, match=r"o\.gif: not a format"):
        find(source="b.jpg", masks="m.png", output="o.gif")
    with pytest.raises(UsageError, match=r"o\.jp2: not a format"):
        find(source="b.jpg", masks="m.png", output="o.jp2")
    assert outputs(find(source="b.jpg", masks="m.png", output="o.gif/")) == ["o.gif/b.jpg"]
    assert outputs(find(source="b.jpg", masks="m.png", output="scans.2026")) == ["scans.2026/b.jpg"]


# Lists


def listed(
    *rows: tuple[str, str | None, str | None], output: str | None = None, out_suffix: str | None = None
) -> JobList:
    numbered = [Row(*row, line) for line, row in enumerate(rows, 2)]
    return listed_jobs(numbered, output, suffixes=SUFFIXES, out_suffix=out_suffix)


def test_a_list_is_taken_as_it_stands_in_its_order_whether_files_are_there_or_not() -> None:
    found = listed(("z/b.jpg", "m/1.png", "o/x.tif"), ("a.jpg", None, None), ("z/b.jpg", "m/2.png", None), output="out")
    assert found.jobs == (
        Job(Path("z/b.jpg"), Path("m/1.png"), Path("o/x.tif"), "z/b.jpg"),
        Job(Path("a.jpg"), None, Path("out/a.jpg"), "a.jpg"),
        Job(Path("z/b.jpg"), Path("m/2.png"), Path("out/b.jpg"), "z/b.jpg"),
    )
    assert (found.unused_masks, found.skipped) == ((), {})


def test_a_format_asked_for_names_what_has_no_name_and_must_fit_what_has_one() -> None:
    assert outputs(listed(("a.b.jpg", None, None), output="out", out_suffix=".png")) == ["out/a.b.png"]
    with pytest.raises(UsageError, match=r"^o\.jpg: its name says \.jpg, the format asked for is \.png"):
        listed(("a.jpg", None, "o.jpg"), out_suffix=".png")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a.jpg", None, None), r"^line 2: no file to write for a\.jpg: fill the column out"),
        (("a.jpg", None, "o.gif"), r"^line 2: o\.gif: not a format that can be written"),
        (("a.jpg", None, "o"), r"^line 2: o: not a format"),
        (("a.jpg", "m.png", "./x/../a.jpg"), r"written over a\.jpg"),
        (("a.jpg", "m.png", "m.png"), r"written over m\.png"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_by_name(row: tuple[str, str | None, str | None], message: str) -> None:
    make("x/y", "m.png", "a.jpg")
    with pytest.raises(UsageError, match=message):
        listed(row)


def test_results_of_a_list_may_not_fall_on_each_other_or_on_what_another_row_reads() -> None:
    with pytest.raises(UsageError, match="both results would be out"):
        listed(("x/a.jpg", None, None), ("y/a.jpg", None, None), output="out")
    with pytest.raises(UsageError, match=r"written over b\.jpg"):
        listed(("a.jpg", None, "b.jpg"), ("b.jpg", None, "c.jpg"))


@pytest.mark.parametrize("name", ["/", "..", "."])
def test_a_folder_in_a_list_is_no_picture(name: str) -> None:
    with pytest.raises(UsageError, match="a folder, not a picture"):
        listed((name, "m.png", None), output="out", out_suffix=".png")


def test_a_file_whose_name_tells_no_format_is_no_result() -> None:
    make("in/a.png", "masks/a.png", "out")
    with pytest.raises(UsageError, match="out: is a file whose name tells no format"):
        find("in/a.png", "masks/a.png", "out")
    with pytest.raises(UsageError, match="out: is a file, but the results need a folder"):
        find("in", "masks", "out")


def test_the_folder_for_the_results_of_a_list_is_no_file() -> None:
    make("out")
    with pytest.raises(UsageError, match="is a file, but the results need a folder"):
        listed(("a.png", "m.png", None), output="out")


@pytest.mark.parametrize(
    ("written", "home"),
    [
        (["out/b.png"], "out"),
        (["out/a.png", "out/x/b.png"], "out"),
        (["out/x/a.png", "out/y/b.png"], "out"),
        (["out/x/a.png", "out/x/deep/b.png", "./other/../out/y/z/c.png"], "out"),
    ],
)
def test_the_results_of_a_list_have_the_folder_that_holds_them_all(written: list[str], home: str) -> None:
    make("other/x")
    rows = [(f"{number}.png", "m.png", name) for number, name in enumerate(written)]
    assert listed(*rows).home.resolve() == Path(home).resolve()
    assert listed(*rows, output="elsewhere").home == Path("elsewhere")


@pytest.mark.parametrize("why", ["a root", "no right"])
def test_results_of_a_list_that_are_too_far_apart_have_the_folder_of_the_first(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "x" / "a.png", tmp_path / "y" / "b.png"
    if why == "a root":
        second = Path(tmp_path.anchor) / "pconv-nowhere" / "b.png"
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert listed(("a.png", "m.png", str(first)), ("b.png", "m.png", str(second))).home == tmp_path / "x"
