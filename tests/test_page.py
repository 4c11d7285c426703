"""The page of a report: complete in itself, harmless whatever is on it, readable, and never in the place of another."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import box, pixels, texture
from PIL import Image

from pconv_cli import page as module
from pconv_cli.drawings import reduced
from pconv_cli.errors import OutputError, UsageError
from pconv_cli.page import LAYER, THUMBNAIL, Entry, Failure, Folder, Page, common_folder, rendered, share

EVIL = "</script><script>document.title='taken'</script><!-- <b>&amp;"
TEMPLATE = Path(module.__file__).with_suffix(".html").read_text("utf-8")


def data_of(html: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    document = json.loads(found[1])
    assert isinstance(document, dict)
    return document


# ---------------------------------------------------------------- the file


def test_no_text_can_end_the_script_that_holds_it() -> None:
    html = rendered(Page("kind", EVIL, "", "", failures=(Failure(EVIL, EVIL, EVIL),), entries=(Entry(EVIL),)))
    assert EVIL not in html
    assert html.count("<script") == TEMPLATE.count("<script") and html.count("<!--") == TEMPLATE.count("<!--")
    document = data_of(html)
    assert document["title"] == EVIL
    assert document["entries"][0]["name"] == EVIL  # type: ignore[index]


def test_nothing_on_the_page_points_anywhere_else() -> None:
    html = rendered(Page("kind", "title", "", ""))
    assert not re.search(
        r"https?:|//[a-z]|@import|url\((?!#)|fetch\(|XMLHttpRequest|sendBeacon|<link(?! rel=\"icon\")", html
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy and policy[1].startswith("default-src 'none';")


def test_text_is_never_set_as_html() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", TEMPLATE)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
@pytest.mark.parametrize("ink", ["--ink", "--soft", "--alarm"])
@pytest.mark.parametrize("paper", ["--paper", "--sheet", "--stage"])
def test_text_stands_out_from_what_it_is_on(scheme: str, ink: str, paper: str) -> None:
    """4.5 to 1, as WCAG 2 asks of text."""
    blocks = re.findall(r":root \{(.*?)\}", TEMPLATE, re.S)
    colours: dict[str, str] = {}
    for block in [blocks[0], *({"light": [], "dark": [blocks[1]], "print": [blocks[2]]}[scheme])]:
        colours |= dict(re.findall(r"(--[a-z]+): (#[0-9a-f]+)", block))

    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        values = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    bright, dim = sorted((light(colours[ink]), light(colours[paper])), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 4.5


# ---------------------------------------------------------------- its folder


def test_a_report_is_never_written_over_another_without_being_asked(tmp_path: Path) -> None:
    Folder(tmp_path / "r", overwrite=False).write(Page("k", "one", "", ""), {}, "")
    with pytest.raises(OutputError, match="is there already: pass --overwrite"):
        Folder(tmp_path / "r", overwrite=False)
    Folder(tmp_path / "r", overwrite=True).write(Page("k", "two", "", ""), {}, "")
    assert data_of((tmp_path / "r/index.html").read_text("utf-8"))["title"] == "two"


def test_a_place_that_cannot_be_written_is_found_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"--report .*cannot be written"):
        Folder(tmp_path / "file", overwrite=False)


def test_a_run_that_goes_on_replaces_its_report_and_nothing_else(tmp_path: Path) -> None:
    for name in (module.NAME, module.DATA):
        place = tmp_path / f"with {name}"
        place.mkdir()
        (place / name).write_text('{"my": "own"}', "utf-8")
        with pytest.raises(OutputError, match="is there already"):
            Folder(place, overwrite=False, again={"o.png"})
        assert (place / name).read_text("utf-8") == '{"my": "own"}'
    place, page = tmp_path / "r", Page("k", "one", "", "")
    Folder(place, overwrite=False, again=()).write(page, {"pictures": []}, "")
    with pytest.raises(OutputError, match="is there already"):
        Folder(place, overwrite=False)
    told = {"pictures": [{"output": "o.png"}, {"output": "p.png"}]}
    Folder(place, overwrite=False, again={"o.png"}).write(page, told, "")
    with pytest.raises(OutputError, match="is there already"):  # of another run
        Folder(place, overwrite=False, again={"x.png"})
    assert json.loads((place / module.DATA).read_text("utf-8")) == told
    Folder(place, overwrite=False, again={"x.png", "p.png"}).write(page, {"pictures": [1]}, "")
    assert json.loads((place / module.DATA).read_text("utf-8")) == {"pictures": [1]}


def test_images_that_stand_where_those_of_a_report_would_are_not_replaced(tmp_path: Path) -> None:
    image = tmp_path / "r" / module.IMAGES / "00001-before.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"mine")
    with pytest.raises(OutputError, match="is there already"):
        Folder(tmp_path / "r", overwrite=False)
    assert image.read_bytes() == b"mine"


@pytest.mark.parametrize("inside", ["in", "in/deep/report"])
def test_a_report_does_not_lie_among_the_pictures_that_are_searched(tmp_path: Path, inside: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="taken for pictures the next time"):
        Folder(tmp_path / inside, overwrite=False, searched=[tmp_path / "in"])
    assert list((tmp_path / "in").iterdir()) == []
    Folder(tmp_path / "input", overwrite=False, searched=[tmp_path / "in"])  # another name


def test_a_report_on_one_picture_does_not_lie_beside_it_but_may_in_a_folder_there(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.touch()
    with pytest.raises(UsageError, match="taken for pictures the next time"):
        Folder(tmp_path, overwrite=False, searched=[picture])
    Folder(tmp_path / "report", overwrite=False, searched=[picture])


def test_a_report_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="a folder of this machine"):
        Folder(Path("s3://bucket/report"), overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_images_of_a_report_before_are_removed_and_nothing_else(tmp_path: Path) -> None:
    first = Folder(tmp_path, overwrite=False)
    for number in (1, 2):
        first.view(number, "after", "after", texture(20, 10))
    first.write(Page("k", "t", "", ""), {}, "")
    (tmp_path / "images/notes.jpg").write_bytes(b"the user's own")
    second = Folder(tmp_path, overwrite=True)
    second.view(1, "after", "after", texture(20, 10))
    second.write(Page("k", "t", "", ""), {}, "")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["00001-after.jpg", "notes.jpg"]


def test_an_earlier_report_that_is_damaged_counts_as_none(tmp_path: Path) -> None:
    folder = Folder(tmp_path, overwrite=True)
    assert folder.earlier() == {}
    (tmp_path / "report.json").write_text("[1, 2")
    assert folder.earlier() == {}


# ---------------------------------------------------------------- images


def test_a_view_has_the_pixels_of_the_picture_but_for_what_jpeg_loses(tmp_path: Path) -> None:
    picture = texture(64, 48)
    view = Folder(tmp_path, overwrite=False).view(1, "before", "before", picture)
    assert view.file == "images/00001-before.jpg"
    shown = pixels(tmp_path / view.file)
    assert shown.shape == picture.shape
    assert np.abs(shown.astype(int) - picture).mean() < 6


def test_a_layer_is_of_one_colour_where_the_hole_is_and_transparent_elsewhere(tmp_path: Path) -> None:
    hole = box(33, 20, 3, 4, 9, 7)
    file = Folder(tmp_path, overwrite=False).layer(1, "mask", hole)
    with Image.open(tmp_path / file) as image:
        shown = np.asarray(image.convert("RGBA"))
    assert (shown[hole] == (*LAYER, 255)).all()
    assert (shown[~hole, 3] == 0).all()


@pytest.mark.parametrize(("size", "wanted"), [((1000, 500), (400, 200)), ((4100, 41), (400, 4)), ((40, 30), (40, 30))])
def test_a_thumbnail_is_no_larger_than_it_may_be_and_never_enlarged(
    tmp_path: Path, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert THUMBNAIL == 400
    view = Folder(tmp_path, overwrite=False).thumbnail(1, "small", "before", texture(*size))
    with Image.open(tmp_path / view.file) as image:
        assert image.size == wanted


def test_making_smaller_keeps_the_mean() -> None:
    picture = texture(900, 700)
    assert abs(float(reduced(picture, 50).mean()) - float(picture.mean())) < 2


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("part", "said"), [(0, "0.0 %"), (1e-6, "< 0.1 %"), (0.031, "3.1 %"), (0.99999, "> 99.9 %"), (1, "100.0 %")]
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(part: float, said: str) -> None:
    assert share(part) == said


def test_the_folder_of_several_pictures_is_the_one_that_holds_them_all() -> None:
    assert common_folder(["scans/a", "scans/b/c"]) == "scans"
    assert common_folder(["a", "b"]) == "."
    assert common_folder(["a/b"]) == "a/b"
    assert Path(common_folder([str(Path("x").absolute()), "x/y"])) == Path("x").absolute()
