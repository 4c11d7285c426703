"""What is saved beside results is exact: maps pixel by pixel, provenance in every format, and nothing else moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Workplace, box, pixels, texture
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin
from rasterio.errors import NotGeoreferencedWarning
from rasters import directories, give_tags
from test_confidence import by_definition
from test_provenance import OWN, entries, is_kept, packet, value
from test_raw import load, network
from test_raw import save as save_raw

from pconv_cli import bench, weights
from pconv_cli import tile as tiling
from pconv_cli.cli.app import run
from pconv_cli.images import read_mask, read_picture
from pconv_cli.journal import NAME
from pconv_cli.masks import dilate
from pconv_cli.regions import Damage, Window
from pconv_cli.tiff import Source

HOLE = box(48, 40, 10, 8, 30, 25)
pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")

BOTH = ["--weights", "none", "--device", "cpu"]


class Saved:
    """Runs a command with maps; gives its lines on stderr."""

    def __init__(self, work: Workplace, capture: pytest.CaptureFixture[str]) -> None:
        self.work, self._capture = work, capture
        self.filled, self.confidence = work.root / "filled", work.root / "confidence"
        self.maps = ["--save-filled", str(self.filled), "--save-confidence", str(self.confidence)]

    def pconv(self, *arguments: str | Path, code: int = 0) -> str:
        assert run([*map(str, arguments), *BOTH]) == code
        return self._capture.readouterr().err

    def restore(self, *options: str, code: int = 0) -> str:
        return self.pconv(
            "restore", self.work.pictures, self.work.masks, self.work.out, *self.maps, *options, code=code
        )


@pytest.fixture
def saved(work: Workplace, capsys: pytest.CaptureFixture[str]) -> Saved:
    return Saved(work, capsys)


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def xmp(path: Path) -> bytes:
    """The XMP of a file, as Pillow finds it."""
    with Image.open(path) as image:
        image.load()
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        return found.encode() if isinstance(found, str) else found


# ---------------------------------------------------------------- maps of pconv restore


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.bmp", "a.jpg"])
def test_white_is_what_was_restored_the_grown_damage_and_nothing_else(saved: Saved, name: str) -> None:
    saved.work.pair(name, hole=HOLE)
    saved.restore("--dilate", "2")
    grown = dilate(HOLE, 2)
    with Image.open(saved.filled / "a.png") as image:
        assert (image.mode, image.format) == ("L", "PNG")
    np.testing.assert_array_equal(pixels(saved.filled / "a.png"), np.where(grown, 255, 0))
    if name != "a.jpg":
        changed = read_picture(saved.work.out / name).rgb() != read_picture(saved.work.pictures / name).rgb()
        assert not changed[~grown].any() and changed.any(axis=2)[HOLE].all()


def test_confidence_is_the_distance_of_each_restored_pixel_to_the_nearest_known_one(saved: Saved) -> None:
    hole = np.random.default_rng(0).random((40, 48)) < 0.9
    saved.work.pair(hole=hole)
    saved.restore()
    with Image.open(saved.confidence / "a.png") as image:
        assert image.mode == "L"
    np.testing.assert_array_equal(pixels(saved.confidence / "a.png"), by_definition(~hole))


def test_maps_have_the_names_of_the_results_and_lie_as_deep(saved: Saved) -> None:
    for name in ("a.png", "box 1/ü.jpg", "box 1/deeper/c.tif"):
        saved.work.pair(name)
    saved.restore("--format", "tiff")
    expected = ["a.png", "box 1/deeper/c.png", "box 1/ü.png"]
    assert tree(saved.filled) == tree(saved.confidence) == expected


def test_a_single_result_and_those_of_a_list_have_maps_under_their_own_names(saved: Saved) -> None:
    source, _ = saved.work.pair()
    mask, out = saved.work.masks / "a.png", saved.work.out / "mended.tif"
    saved.pconv("restore", source, mask, out, *saved.maps)
    assert tree(saved.filled) == ["mended.png"]
    rows = [{"image": str(source), "mask": str(mask), "out": str(saved.work.root / f"{n}/r.png")} for n in "xy"]
    (saved.work.root / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    saved.pconv("restore", "--manifest", saved.work.root / "list.jsonl", *saved.maps)
    assert tree(saved.filled) == ["mended.png", "x/r.png", "y/r.png"]


def test_a_picture_without_damage_has_black_maps(saved: Saved) -> None:
    saved.work.pair(hole=np.zeros((40, 48), np.bool_))
    saved.restore("--provenance")
    assert not pixels(saved.filled / "a.png").any() and not pixels(saved.confidence / "a.png").any()
    assert (saved.work.out / "a.png").read_bytes() == (saved.work.pictures / "a.png").read_bytes()


def test_what_a_palette_keeps_transparent_was_not_restored(saved: Saved) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 3, (40, 48), dtype=np.uint8))
    image.putpalette([90, 90, 90, 30, 90, 90, 200, 60, 60])
    saved.work.pictures.mkdir(parents=True, exist_ok=True)
    image.save(saved.work.pictures / "a.png", transparency=1)
    saved.work.mask("a.png", HOLE)
    saved.restore("--provenance")
    shown = HOLE & (np.asarray(image) != 1)
    np.testing.assert_array_equal(pixels(saved.filled / "a.png") > 0, shown)
    np.testing.assert_array_equal(pixels(saved.confidence / "a.png") > 0, shown)
    (item,) = entries(xmp(saved.work.out / "a.png"))
    assert value(item, f"{OWN}RestoredPixels") == str(shown.sum())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_maps_lie_and_are_displayed_as_results_are(saved: Saved, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    hole = box(40, 40, 2, 5, 20, 12)  # square: nothing but its tag tells how it is turned
    saved.work.picture("a.jpg", size=(40, 40), exif=exif)
    saved.work.mask("a.png", hole)
    saved.restore("--mask-on", "stored", "--format", suffix)
    mask = read_mask(saved.filled / "a.png")
    assert mask.orientation == (orientation if suffix == "jpg" else 1)
    if suffix == "jpg":
        np.testing.assert_array_equal(mask.hole, hole)
    Image.fromarray(hole).save(saved.work.root / "hole.png", exif=exif)
    with Image.open(saved.work.root / "hole.png") as wanted, Image.open(saved.filled / "a.png") as shown:
        turned = ImageOps.exif_transpose(wanted)
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(shown)) > 0, np.asarray(turned) > 0)
    again = saved.work.root / f"again.{suffix}"  # and `restore` takes it for what it is
    saved.pconv(
        "restore", saved.work.out / f"a.{suffix}", saved.filled / "a.png", again, "--save-filled", again.parent / "b"
    )
    np.testing.assert_array_equal(pixels(again.parent / "b" / "again.png"), pixels(saved.filled / "a.png"))


def test_raw_bands_with_holes_of_their_own_are_restored_where_any_is_and_not_where_all_stay_nothing(
    saved: Saved,
) -> None:
    net = network()
    weights.write(saved.work.root / "net.safetensors", net, net.state_dict(), {"name": "net"}, half=False)
    values = texture(60, 50, 2).astype(np.float32)
    values[5:15, 5:15, 0] = values[10:20, 10:20, 1] = np.nan
    values[:, 30:] = np.nan  # far beyond the network's reach
    source = save_raw(saved.work.root / "in.tif", values)
    options = ["--mask-from", "nodata", *saved.maps, "--weights", saved.work.root / "net.safetensors"]
    assert run(["restore", str(source), str(saved.work.root / "out.tif"), *map(str, options), "--device", "cpu"]) == 0
    assert (
        run(["tile", str(source), "-o", str(saved.work.root / "o/out.tif"), *map(str, options), "--device", "cpu"]) == 0
    )
    after, missing = load(saved.work.root / "out.tif"), np.isnan(values)
    new = missing & ~np.isnan(after)
    assert new[:, 30:].any() and not new[:, 55:].any()
    steps = np.stack([by_definition(~missing[..., band]) * new[..., band] for band in (0, 1)]).max(axis=0)
    for name in ("out.png", "out.tif"):
        np.testing.assert_array_equal(pixels(saved.filled / name) > 0, new.any(axis=2))
        np.testing.assert_array_equal(pixels(saved.confidence / name), steps)


def test_what_is_nodata_is_no_known_pixel_to_be_near_to(saved: Saved) -> None:
    values = texture(48, 40, 1).astype(np.float32)
    values[:, :20] = -1
    saved.work.pictures.mkdir(parents=True, exist_ok=True)
    save_raw(saved.work.pictures / "a.tif", values, nodata=-1)
    hole = box(48, 40, 20, 10, 25, 20)
    saved.work.mask("a.png", hole)
    saved.restore()
    known = ~hole & (values[..., 0] != -1)
    np.testing.assert_array_equal(pixels(saved.confidence / "a.png"), np.where(hole, by_definition(known), 0))
    saved.pconv("tile", saved.work.pictures / "a.tif", "--mask", saved.work.masks / "a.png", *saved.maps)
    np.testing.assert_array_equal(pixels(saved.confidence / "a_restored.tif"), np.where(hole, by_definition(known), 0))


# ---------------------------------------------------------------- places


def test_a_map_that_is_there_is_not_replaced_without_overwrite_and_nothing_is_computed_for_it(saved: Saved) -> None:
    saved.work.pair()
    saved.filled.mkdir()
    (saved.filled / "a.png").write_bytes(b"somebody's")
    told = saved.restore(code=1)
    assert "filled/a.png" in told and "--overwrite" in told
    assert (saved.filled / "a.png").read_bytes() == b"somebody's"
    assert not tree(saved.confidence) and not (saved.work.out / "a.png").exists()
    saved.restore("--overwrite")
    assert pixels(saved.filled / "a.png").any()


def test_two_results_that_would_share_a_map_are_refused_before_anything_begins(saved: Saved) -> None:
    for name in ("a.png", "a.jpg"):
        saved.work.pair(name)
    told = saved.restore(code=2)
    assert "filled/a.png" in told and not saved.work.out.exists()


@pytest.mark.parametrize("place", ["in", "masks", "out"])
def test_maps_need_a_folder_of_their_own(saved: Saved, place: str) -> None:
    saved.work.pair("a.jpg")
    (saved.work.root / "out").mkdir()
    before = tree(saved.work.root)
    saved.maps = ["--save-filled", str(saved.work.root / place)]
    assert "a folder of its own" in saved.restore(code=2)
    saved.maps = ["--save-filled", str(saved.filled), "--save-confidence", str(saved.filled / ".." / "filled")]
    assert "same names" in saved.restore(code=2)
    saved.maps = ["--save-filled", str(saved.work.masks / "a.png")]
    assert "is a file" in saved.restore(code=2)
    saved.maps = ["--save-filled", "s3://bucket/filled"]
    assert "is a URL" in saved.restore(code=2)
    assert tree(saved.work.root) == before


def test_saved_maps_are_no_pictures_to_a_later_run_though_they_lie_among_them(saved: Saved) -> None:
    saved.work.pair()
    saved.filled, saved.confidence = saved.work.pictures / "filled", saved.work.pictures / "confidence"
    saved.maps = ["--save-filled", str(saved.filled), "--save-confidence", str(saved.confidence)]
    saved.restore("--resume")
    assert "1 done before" in saved.restore("--resume")
    assert tree(saved.work.out) == [NAME, "a.png"]


def test_resume_takes_what_a_killed_run_has_left_and_makes_no_picture_again_that_is_whole(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved.work.pair()
    wanted = bench.Bench._record

    def killed(self: Any, of: Any, target: Path, part: Path) -> None:
        wanted(self, of, target, part)
        if target == saved.work.out / "a.png":  # maps have their names by now, the result has not
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.Bench, "_record", killed)
        saved.restore("--resume", code=130)
    assert tree(saved.filled) == tree(saved.confidence) == ["a.png"] and not (saved.work.out / "a.png").exists()
    assert "is there already" in saved.restore(code=1)
    assert "1 restored" in saved.restore("--resume")
    assert "1 done before" in saved.restore("--resume")
    (saved.filled / "a.png").unlink()
    assert "filled/a.png" in (told := saved.restore("--resume", code=1)) and "--overwrite" in told
    assert "1 restored" in saved.restore("--resume", "--overwrite")


def test_maps_that_somebody_has_changed_are_not_replaced_by_resume(saved: Saved) -> None:
    saved.work.pair()
    saved.restore("--resume")
    (saved.work.out / "a.png").unlink()
    (saved.filled / "a.png").write_bytes(b"changed")
    assert "is there already" in saved.restore("--resume", code=1)
    assert (saved.filled / "a.png").read_bytes() == b"changed"


@pytest.mark.parametrize("which", ["filled", "confidence"])
def test_a_map_counts_as_made_only_if_it_was_made_with_the_result(saved: Saved, which: str) -> None:
    saved.work.pair()
    saved.restore("--resume")
    assert "1 done before" in saved.restore("--resume")
    path = getattr(saved, which) / "a.png"
    own = path.read_bytes()
    path.write_bytes(own[:-1] + b"!")
    told = saved.restore("--resume", code=1)
    assert f"{which}/a.png" in told and "is not what was saved with its picture" in told and "--overwrite" in told
    path.write_bytes(own)
    assert "1 done before" in saved.restore("--resume")
    # A result of other content, without maps: those that are there are older.
    saved.work.picture("a.png", hole=HOLE, seed=3)
    kept, saved.maps = saved.maps, []
    assert "1 restored" in saved.restore("--overwrite")
    saved.maps = kept
    assert "is not what was saved with its picture" in saved.restore("--resume", code=1)
    assert "1 restored" in saved.restore("--resume", "--overwrite")
    assert "1 done before" in saved.restore("--resume")


# ---------------------------------------------------------------- provenance of pconv restore


def dressed(path: Path, xmp: bytes, *, packed: bool = True, **save: Any) -> Path:
    """A damaged picture with XMP."""
    colours = texture(48, 40)
    colours[HOLE] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=packed)
        info.add_text("Title", "kept")
        save["pnginfo"] = info
    elif path.suffix == ".webp":
        save |= {"lossless": True, "exact": True}
    Image.fromarray(colours).save(path, **save, **({"xmp": xmp} if path.suffix in (".jpg", ".webp") else {}))
    if path.suffix == ".tif":
        give_tags(path, {700: (1, len(xmp), xmp), 65000: (2, 5, b"ours\0")})
    return path


@pytest.mark.parametrize("target", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("source", [".jpg", ".png", ".tif", ".webp"])
def test_provenance_joins_the_xmp_that_is_there_and_moves_no_pixel(saved: Saved, source: str, target: str) -> None:
    before = packet("")
    path = dressed(saved.work.pictures / f"a{source}", before)
    mask = saved.work.mask("a.png", HOLE)
    form = target.removeprefix(".")
    saved.pconv("restore", path, mask, saved.work.root / f"plain{target}", "--format", form)
    saved.restore("--provenance", "--format", form)
    out = saved.work.out / f"a{target}"
    np.testing.assert_array_equal(pixels(out), pixels(saved.work.root / f"plain{target}"))
    assert is_kept(before, xmp(out))
    (item,) = entries(xmp(out))
    assert value(item, f"{OWN}Weights") == "none"
    assert value(item, f"{OWN}MaskSHA256") == hashlib.sha256(mask.read_bytes()).hexdigest()
    assert value(item, f"{OWN}RestoredPixels") == str(HOLE.sum())
    assert value(item, f"{OWN}RestoredShare") == f"{HOLE.mean():.8f}"
    assert not list(saved.work.out.glob("*.xmp"))


def test_nothing_but_the_xmp_differs_from_a_run_without_provenance(saved: Saved) -> None:
    paths = {suffix: dressed(saved.work.root / f"a{suffix}", packet("")) for suffix in (".jpg", ".png", ".tif")}
    mask = saved.work.mask("a.png", HOLE)
    for suffix, path in paths.items():
        plain, told = saved.work.root / f"plain{suffix}", saved.work.root / f"told{suffix}"
        saved.pconv("restore", path, mask, plain)
        saved.pconv("restore", path, mask, told, "--provenance")
        one, other = plain.read_bytes(), told.read_bytes()
        if suffix == ".tif":
            two = [
                {tag: entry for tag, entry in d.items() if tag != 700} for p in (plain, told) for d in directories(p)
            ]
            assert two[0] == two[1] and 65000 in two[0]
            assert other.startswith(one[:4]) and other[8 : len(one)] == one[8:], "the rest is only added to"
        elif suffix == ".jpg":
            old, new = xmp(plain), xmp(told)
            assert other.count(new) == 1
            assert len(other) - len(one) == len(new) - len(old)
            assert other.replace(new, old)[other.index(new) :] == one[one.index(old) :]
        else:
            assert other.count(b"XML:com.adobe.xmp") == 1 and b"tEXtTitle\0kept" in other


def test_a_file_without_xmp_gets_one_behind_its_exif(saved: Saved) -> None:
    exif = Image.Exif()
    exif[271] = "Maker"
    saved.work.pair("a.jpg", exif=exif)
    saved.restore("--provenance")
    assert len(entries(xmp(saved.work.out / "a.jpg"))) == 1
    with Image.open(saved.work.out / "a.jpg") as image:
        names = [data[:4] for name, data in image.applist if name == "APP1"]  # type: ignore[attr-defined]
        assert names == [b"Exif", b"http"] and image.getexif()[271] == "Maker"


@pytest.mark.parametrize("second", ["2.png", "2.webp"])
def test_a_second_restoration_is_a_second_entry(saved: Saved, second: str) -> None:
    source, _ = saved.work.pair("a.jpg")
    mask, root = saved.work.masks / "a.png", saved.work.root
    saved.pconv("restore", source, mask, root / "1.jpg", "--provenance")
    saved.pconv("restore", root / "1.jpg", mask, root / second, "--provenance")
    saved.pconv("tile", root / second, "--mask", mask, "-o", root / "3.tif", "--provenance")
    assert [len(entries(xmp(root / name))) for name in ("1.jpg", second, "3.tif")] == [1, 2, 3]


def test_what_has_no_place_in_the_file_is_in_a_sidecar(saved: Saved) -> None:
    long = packet("<dc:rights>" + "x" * 64000 + "</dc:rights>")
    assert len(long) < 65503
    dressed(saved.work.pictures / "long.jpg", long)
    dressed(saved.work.pictures / "odd.png", b"<not XMP>")
    saved.work.picture("a.bmp", hole=HOLE)
    for name in ("long", "odd", "a"):
        saved.work.mask(f"{name}.png", HOLE)
    told = saved.restore("--provenance")
    assert tree(saved.work.out) == [
        NAME, "a.bmp", "a.bmp.xmp", "long.jpg", "long.jpg.xmp", "odd.png", "odd.png.xmp",
    ]  # fmt: skip
    assert xmp(saved.work.out / "long.jpg") == long and is_kept(long, (saved.work.out / "long.jpg.xmp").read_bytes())
    assert xmp(saved.work.out / "odd.png") == b"<not XMP>"
    for name in ("a.bmp", "long.jpg", "odd.png"):
        assert len(entries((saved.work.out / f"{name}.xmp").read_bytes())) == 1
        assert f"{name}.xmp" in told
    assert "3 done before" in saved.restore("--provenance", "--resume")


def test_standard_output_has_no_place_for_a_sidecar(work: Workplace, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    source, _ = work.pair("a.bmp")
    for form, code in (("bmp", 5), ("png", 0)):
        places = [str(source), str(work.masks / "a.png"), "-", "--format", form, "--provenance"]
        assert run(["restore", *places, *BOTH]) == code
        out, err = capfdbinary.readouterr()
        assert (out[1:4] == b"PNG") == (b"name a file OUT" not in err) == (code == 0)


def test_a_sidecar_that_is_there_is_not_replaced_without_overwrite(saved: Saved) -> None:
    saved.work.pair("a.bmp")
    saved.work.out.mkdir(exist_ok=True)
    (saved.work.out / "a.bmp.xmp").write_bytes(b"somebody's")
    assert "a.bmp.xmp" in saved.restore("--provenance", code=1)
    assert (saved.work.out / "a.bmp.xmp").read_bytes() == b"somebody's" and not (saved.work.out / "a.bmp").exists()


def test_the_date_can_be_set_and_two_runs_then_make_the_same_bytes(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    saved.work.pair("a.jpg")
    saved.restore("--provenance")
    once = (saved.work.out / "a.jpg").read_bytes()
    assert b"<stEvt:when>2001-09-09T01:46:40Z<" in once
    saved.restore("--provenance", "--overwrite")
    assert (saved.work.out / "a.jpg").read_bytes() == once
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert "SOURCE_DATE_EPOCH=soon" in saved.restore("--provenance", "--overwrite", code=2)


def test_of_damage_that_the_picture_shows_itself_provenance_says_so(saved: Saved) -> None:
    colours = np.dstack([texture(48, 40), np.where(HOLE, 0, 255)]).astype(np.uint8)
    Image.fromarray(colours).save(saved.work.root / "a.png")
    Image.fromarray(colours).save(saved.work.root / "a.tif")
    saved.pconv("restore", saved.work.root / "a.png", saved.work.root / "o.png", "--mask-from", "alpha", "--provenance")
    saved.pconv("tile", saved.work.root / "a.tif", "-o", saved.work.root / "o.tif", "--provenance")
    for name in ("o.png", "o.tif"):
        (item,) = entries(xmp(saved.work.root / name))
        assert (value(item, f"{OWN}MaskSource"), value(item, f"{OWN}Mask")) == ("picture", "alpha")
        assert value(item, f"{OWN}MaskSHA256") is None


def test_resume_knows_results_with_provenance_from_those_without(saved: Saved) -> None:
    saved.work.pair()
    saved.restore("--resume")
    assert "other settings" in saved.restore("--provenance", "--resume", code=1)


# ---------------------------------------------------------------- pconv tile


@pytest.fixture
def big(saved: Saved) -> Path:
    """A picture of several strips of rows, tiles, and holes deeper than what is looked at first round a strip."""
    hole = np.zeros((700, 600), np.bool_)
    hole[150:360, 100:330] = hole[250:262, 400:600] = True
    hole[np.random.default_rng(0).integers(0, 700, 60), np.random.default_rng(1).integers(0, 600, 60)] = True
    colours = texture(600, 700)
    colours[hole] = 255
    saved.work.mask("m.png", hole)
    Image.fromarray(colours).save(saved.work.root / "big.tif", compression="tiff_lzw")
    return saved.work.root / "big.tif"


def test_maps_of_a_big_picture_are_those_of_the_whole_across_all_borders(saved: Saved, big: Path) -> None:
    mask = saved.work.masks / "m.png"
    saved.pconv("tile", big, "--mask", mask, "--size", "128", "--dilate", "1", *saved.maps)
    hole = dilate(read_mask(mask).hole, 1)
    with Image.open(saved.filled / "big_restored.tif") as image:
        assert (image.mode, image.format, image.info["compression"]) == ("L", "TIFF", "tiff_adobe_deflate")
        np.testing.assert_array_equal(np.asarray(image), np.where(hole, 255, 0))
    steps = pixels(saved.confidence / "big_restored.tif")
    np.testing.assert_array_equal(steps > 0, hole)
    np.testing.assert_array_equal(steps[140:370:7, 90:340:7], Steps(hole)(140, 370, 90, 340)[::7, ::7])
    assert steps.max() > 100
    saved.pconv("restore", big, mask, saved.work.root / "same.tif", "--tile-size", "128", "--dilate", "1", *saved.maps)
    np.testing.assert_array_equal(pixels(saved.confidence / "same.png"), steps)


class Steps:
    """Distances in a part of a plane, by definition."""

    def __init__(self, hole: NDArray[np.bool_]) -> None:
        self._known = np.argwhere(~hole)

    def __call__(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.int64]:
        near = self._known[((self._known >= (top - 9, left - 9)) & (self._known < (bottom + 9, right + 9))).all(axis=1)]
        y, x = np.mgrid[top:bottom, left:right]
        found = np.full(y.shape, 255)
        for row, column in near:
            np.minimum(found, np.maximum(abs(y - row), abs(x - column)), out=found)
        return found


def test_provenance_of_a_big_picture_is_in_its_xmp_and_all_other_tags_and_blocks_stay(saved: Saved, big: Path) -> None:
    mask = saved.work.masks / "m.png"
    old = packet("<xmpMM:History><rdf:Seq><rdf:li e:action='scanned'/></rdf:Seq></xmpMM:History>")
    give_tags(big, {700: (1, len(old), old), 65000: (2, 5, b"ours\0")})
    saved.pconv("tile", big, "--mask", mask, "-o", saved.work.root / "plain.tif")
    saved.pconv("tile", big, "--mask", mask, "-o", saved.work.root / "told.tif", "--provenance")
    plain, told = ((saved.work.root / f"{name}.tif") for name in ("plain", "told"))
    one, other = ({tag: entry for tag, entry in directories(path)[0].items() if tag != 700} for path in (plain, told))
    assert one == other and 65000 in other
    assert told.read_bytes()[8 : plain.stat().st_size] == plain.read_bytes()[8:]
    with Source(told) as source:
        new = source.xmp
    assert is_kept(old, new) and len(entries(new)) == 2
    hole = read_mask(mask).hole
    assert value(entries(new)[1], f"{OWN}RestoredPixels") == str(hole.sum())
    assert value(entries(new)[1], f"{OWN}MaskSHA256") == hashlib.sha256(mask.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_big_picture_that_is_written_anew_keeps_the_xmp_it_had(saved: Saved, suffix: str) -> None:
    path = dressed(saved.work.root / f"a{suffix}", packet(""), packed=False)
    mask = saved.work.mask("a.png", HOLE)
    saved.pconv("tile", path, "--mask", mask, "-o", saved.work.root / "out.tif", "--provenance")
    with Source(saved.work.root / "out.tif") as source:
        assert is_kept(packet(""), source.xmp) and len(entries(source.xmp)) == 1


def test_xmp_that_cannot_be_read_stays_in_a_big_picture_and_a_sidecar_tells(saved: Saved, big: Path) -> None:
    give_tags(big, {700: (1, 9, b"<not XMP>")})
    told = saved.pconv("tile", big, "--mask", saved.work.masks / "m.png", "--provenance")
    out = saved.work.root / "big_restored.tif"
    assert directories(out)[0][700].data == b"<not XMP>" and "big_restored.tif.xmp" in told
    assert len(entries((saved.work.root / "big_restored.tif.xmp").read_bytes())) == 1


def test_a_big_picture_without_damage_has_black_maps(saved: Saved, big: Path) -> None:
    mask = saved.work.mask("none.png", np.zeros((700, 600), np.bool_))
    saved.pconv("tile", big, "--mask", mask, *saved.maps, "--provenance")
    for folder in (saved.filled, saved.confidence):
        plane = pixels(folder / "big_restored.tif")
        assert plane.shape == (700, 600) and not plane.any()
    assert (saved.work.root / "big_restored.tif").read_bytes() == big.read_bytes()


def test_maps_of_a_big_picture_are_turned_and_placed_as_it_is(saved: Saved, big: Path) -> None:
    give_tags(big, {274: (3, 1, b"\x06\0"), 33550: (12, 3, np.array([2.0, 2, 0]).tobytes()),
                    33922: (12, 6, np.array([0.0, 0, 0, 500, 900, 0]).tobytes())})  # fmt: skip
    saved.pconv("tile", big, "--mask", saved.work.masks / "m.png", *saved.maps)
    tags = directories(saved.filled / "big_restored.tif")[0]
    assert tags[274].numbers[0] == 6
    with rasterio.open(saved.filled / "big_restored.tif") as raster:
        assert raster.transform == rasterio.Affine(2, 0, 500, 0, -2, 900)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (lambda root: ["--save-filled", root / "there"], "there/big_restored.tif): is there already"),
        (lambda root: ["--save-filled", root], "both the result and a map"),
        (
            lambda root: ["--save-filled", root / "there", "-o", root / "deep/big.tif", "--save-confidence", root],
            "big.tif",
        ),
    ],
)
def test_a_big_picture_s_maps_replace_nothing(
    saved: Saved, big: Path, options: Callable[[Path], list[Path | str]], told: str
) -> None:
    (saved.work.root / "there").mkdir()
    (saved.work.root / "there" / "big_restored.tif").write_bytes(b"somebody's")
    before = big.read_bytes()
    code = 1 if told.endswith("already") else 2
    arguments = ["tile", big, "--mask", saved.work.masks / "m.png", *options(saved.work.root)]
    assert told in saved.pconv(*arguments, code=code)
    assert big.read_bytes() == before and not (saved.work.root / "big_restored.tif").exists()
    assert (saved.work.root / "there" / "big_restored.tif").read_bytes() == b"somebody's"


def test_strips_hold_all_of_a_map() -> None:
    """The parts of which a big map is put together leave out nothing but what is nothing."""
    damage = Damage.of_strips([box(20, 30, 5, 11, 9, 12)], 20)
    seen: list[Window] = []

    def plane(window: Window) -> NDArray[np.uint8]:
        seen.append(window)
        return damage.window(window).astype(np.uint8)

    found = list(tiling.beside.in_strips(plane, lambda window: damage.window(window).any(), (30, 20), 8))
    np.testing.assert_array_equal(np.concatenate(found), damage.window(Window(0, 0, 20, 30)))
    assert seen == [Window(0, 8, 20, 8)]
