"""`writing`: no half file is ever left, nothing is replaced by chance, and what was written is looked at again."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from handmade import fill, noise, save
from PIL import Image

from pconv_cli import images, writing
from pconv_cli.errors import ItemError
from pconv_cli.picture import Picture

# ---------------------------------------------------------------- putting files in place


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    return images.read_picture(save(tmp_path / "in.png", noise(32, 40, 3)))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folders_are_made_and_only_the_file_is_left(picture: Picture, tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out.png"
    writing.write_picture(picture, target, overwrite=False)
    assert files(target.parent) == ["out.png"]


def test_an_existing_file_is_kept_unless_overwrite(picture: Picture, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    target.write_text("precious")
    for write in (
        lambda **k: writing.write_picture(picture, target, **k),
        lambda **k: writing.copy_file(picture.path, target, **k),
    ):
        with pytest.raises(ItemError, match="--overwrite"):
            write(overwrite=False)
        assert target.read_text() == "precious"
    writing.write_picture(picture, target, overwrite=True)
    assert np.array_equal(images.read_picture(target).pixels, picture.pixels)
    writing.copy_file(picture.path, target, overwrite=True)
    assert target.read_bytes() == picture.path.read_bytes()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_clobbered(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    target = tmp_path / "out.png"
    real = os.fsync

    def racing(fd: int) -> None:
        real(fd)
        target.write_text("theirs")

    monkeypatch.setattr(os, "fsync", racing)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ItemError, match="is there already"):
        writing.write_picture(picture, target, overwrite=False)
    assert target.read_text() == "theirs"
    assert files(tmp_path) == ["in.png", "out.png"]


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("place", ["encoder", "fsync", "replace"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_write_that_fails_midway_leaves_nothing(
    picture: Picture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    place: str,
    suffix: str,
) -> None:
    def half(_image: Image.Image, stream: io.BufferedRandom, *_: object, **__: object) -> None:
        stream.write(b"half a file")
        raise error

    def fail(*_: object) -> None:
        raise error

    owner, name = {"encoder": (Image.Image, "save"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[place]
    monkeypatch.setattr(owner, name, half if place == "encoder" else fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ItemError) as caught:
        writing.write_picture(picture, tmp_path / f"out{suffix}", overwrite=True)
    assert files(tmp_path) == ["in.png"]
    if isinstance(error, OSError):
        assert "No space left" in caught.value.reason and "free some room" in caught.value.reason


def test_a_failed_overwrite_keeps_the_old_file(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.png").write_text("old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    for write in (writing.write_picture, lambda p, t, **k: writing.copy_file(p.path, t, **k)):
        with pytest.raises(ItemError, match="Input/output error"):
            write(picture, tmp_path / "out.png", overwrite=True)
    assert (tmp_path / "out.png").read_text() == "old"
    assert files(tmp_path) == ["in.png", "out.png"]


def test_a_picture_never_replaces_its_own_source(picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "soft.png").symlink_to(picture.path)
    (tmp_path / "hard.png").hardlink_to(picture.path)
    before = picture.path.read_bytes()
    for target in (picture.path, tmp_path / "soft.png", tmp_path / "hard.png", tmp_path / "." / "in.png"):
        for overwrite in (True, False):
            with pytest.raises(ItemError, match="own source"):
                writing.write_picture(picture, target, overwrite=overwrite)
            with pytest.raises(ItemError, match="own source"):
                writing.copy_file(picture.path, target, overwrite=overwrite)
    assert picture.path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_follow_the_umask(picture: Picture, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        writing.write_picture(picture, tmp_path / "a.png", overwrite=False)
        writing.copy_file(picture.path, tmp_path / "b.png", overwrite=False)
    finally:
        os.umask(old)
    assert [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("a.png", "b.png")] == [0o640, 0o640]


def test_copy_is_byte_for_byte_and_names_the_side_at_fault(tmp_path: Path) -> None:
    source = tmp_path / "a.jpg"
    source.write_bytes(noise(3_000_000).tobytes())
    writing.copy_file(source, tmp_path / "new" / "b.jpg", overwrite=False)
    assert (tmp_path / "new" / "b.jpg").read_bytes() == source.read_bytes()
    with pytest.raises(ItemError, match="no such file") as caught:
        writing.copy_file(tmp_path / "none.jpg", tmp_path / "c.jpg", overwrite=False)
    assert caught.value.path == str(tmp_path / "none.jpg")
    with pytest.raises(ItemError, match="cannot be written") as caught:
        writing.copy_file(source, source / "c.jpg", overwrite=False)  # its folder is a file
    assert caught.value.path == str(source / "c.jpg")


def test_an_unknown_suffix_names_the_known_ones(picture: Picture, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="jpeg, jpg, png, tif"):
        writing.write_picture(picture, tmp_path / "out.gif", overwrite=False)
    assert files(tmp_path) == ["in.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_pixels_that_are_read_only_are_not_written_to(tmp_path: Path, suffix: str) -> None:
    picture = images.read_picture(save(tmp_path / f"a{suffix}", noise(16, 16, 3)))
    picture.pixels.flags.writeable = False
    hole = np.eye(16, dtype=np.bool_)
    filled = fill(picture, noise(16, 16, 3), hole)
    filled.pixels.flags.writeable = False
    writing.write_picture(filled, tmp_path / f"b{suffix}", overwrite=False)
    assert not np.array_equal(images.read_picture(tmp_path / f"b{suffix}").pixels, picture.pixels)


# ---------------------------------------------------------------- reading back


@pytest.mark.parametrize("target", [".png", ".webp", ".bmp", ".tif"])
def test_a_file_that_does_not_read_back_as_written_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    picture = images.read_picture(save(tmp_path / "in.jpg", noise(24, 30, 3)))
    real = writing._encode

    def wrong(picture: Picture, pixels: np.ndarray, *others: object) -> tuple[str, ...]:
        pixels = pixels.copy()
        pixels[7, 9] ^= 1
        return real(picture, pixels, *others)

    monkeypatch.setattr(writing, "_encode", wrong)
    with pytest.raises(ItemError, match="does not read back"):
        writing.write_picture(picture, tmp_path / f"out{target}", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jpg"]


@pytest.mark.parametrize("name", ["in.png", "in.tif", "in.jpg"])
def test_whoever_is_told_of_a_finished_file_can_have_it_removed(tmp_path: Path, name: str) -> None:
    picture = images.read_picture(save(tmp_path / name, noise(24, 30, 3)))
    hole = np.zeros((24, 30), np.bool_)
    hole[3:9, 4:20] = True
    seen: list[np.ndarray] = []

    def refuse(part: Path, notices: object) -> None:
        seen.append(images.read_picture(part).pixels)
        raise ItemError(part, "no")

    filled = fill(picture, noise(24, 30, 3), hole)
    for write in (
        lambda: writing.write_picture(filled, tmp_path / f"out{picture.path.suffix}", overwrite=True, ready=refuse),
        lambda: writing.copy_file(picture.path, tmp_path / "copy", overwrite=True, ready=refuse),
    ):
        with pytest.raises(ItemError, match="no"):
            write()
    assert not np.array_equal(seen[0][hole], picture.pixels[hole]) and np.array_equal(seen[1], picture.pixels)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_changes_outside_the_hole_are_counted_in_what_was_written(tmp_path: Path) -> None:
    picture = images.read_picture(save(tmp_path / "in.png", noise(24, 30, 3)))
    hole = np.zeros((24, 30), np.bool_)
    hole[3:9, 4:20] = True
    written = writing.write_picture(fill(picture, noise(24, 30, 3), hole), tmp_path / "out.jpg", overwrite=False)
    differ = (images.read_picture(tmp_path / "out.jpg").pixels != picture.pixels).any(axis=2)
    assert written.outside_changed == (differ & ~hole).sum() > 500
