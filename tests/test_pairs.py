"""Pairs: what is found, which bucket it falls into, and a draw that is even, repeatable and as large as it can be."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import box
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pconv_cli.errors import NothingToDo, UsageError
from pconv_cli.pairs import (
    BUCKETS,
    Pair,
    at_border,
    bucket_of,
    buckets_over,
    common_centre,
    draw_pairs,
    find_files,
)

Hole = NDArray[np.bool_]


def square(side: int, left: int = 50, top: int = 50) -> Hole:
    """A square hole in 128 x 128 px; at 50, 50 with a side of 28 it keeps 50 px away from all borders."""
    return box(128, 128, left, top, left + side, top + side)


# ---------------------------------------------------------------- files


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_folders_are_searched_deeply_for_the_suffixes_and_what_is_hidden_is_left_alone(tmp_path: Path) -> None:
    photos = touch(tmp_path / "photos", "b.png", "a/deep/c.JPG", "notes.txt", ".b.png", ".cache/d.png")
    (photos / "folder.png").mkdir()
    masks = touch(tmp_path / "masks", "m.png", "z.bmp")
    found = find_files(photos, masks, {".png", ".jpg"})
    assert found == ({"a/deep/c.JPG": photos / "a/deep/c.JPG", "b.png": photos / "b.png"}, {"m.png": masks / "m.png"})
    assert list(found[0]) == ["a/deep/c.JPG", "b.png"]


def test_a_file_is_a_folder_of_one_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "m.raw")
    found = find_files(tmp_path / "a.png", tmp_path / "m.raw", {".png"})
    assert found == ({"a.png": tmp_path / "a.png"}, {"m.raw": tmp_path / "m.raw"})


def test_masks_among_the_pictures_are_no_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "masks/a.png")
    pictures, masks = find_files(tmp_path, tmp_path / "masks", {".png"})
    assert list(pictures) == list(masks) == ["a.png"] and pictures["a.png"] != masks["a.png"]
    with pytest.raises(NothingToDo, match="must be two places"):
        find_files(tmp_path, tmp_path, {".png"})


def test_masks_among_the_pictures_are_no_pictures_however_the_places_are_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "photos/a.png", "photos/masks/m.png")
    monkeypatch.chdir(tmp_path)
    for masks in (tmp_path / "photos/masks", Path("photos/../photos/masks")):
        assert list(find_files(Path("photos"), masks, {".png"})[0]) == ["a.png"]


def test_a_place_without_files_is_an_error_that_names_it(tmp_path: Path) -> None:
    touch(tmp_path, "some/a.png", "other/a.txt")
    some, other, nowhere = tmp_path / "some", tmp_path / "other", tmp_path / "nowhere"
    with pytest.raises(NothingToDo, match=r"no masks in .*other: looked for \.jpg, \.png$"):
        find_files(some, other, {".png", ".jpg"})
    with pytest.raises(UsageError, match="nowhere: not found; pictures are looked for there"):
        find_files(nowhere, some, {".png"})


# ---------------------------------------------------------------- the draw

WORDS = st.text("abcdef", min_size=1, max_size=3)
SIZES = st.sampled_from([(20, 30), (40, 40)])


@st.composite
def folders(draw: st.DrawFn) -> tuple[dict[str, tuple[int, int]], dict[str, dict[tuple[int, int], int | None]]]:
    pictures = draw(st.dictionaries(WORDS, SIZES, min_size=1, max_size=7))
    names = draw(st.sets(st.tuples(st.sampled_from(["obj", "film", "put"]), st.integers(0, 9)), max_size=12))
    number = st.sampled_from([None, 0, 0, 1, 5])
    masks = {f"{kind}_{i}.png": {size: draw(number) for size in ((20, 30), (40, 40))} for kind, i in sorted(names)}
    return pictures, masks


@settings(deadline=None, max_examples=200)
@given(folders(), st.integers(1, 9), st.integers(0, 3))
def test_pairs_are_all_there_are_or_as_many_as_asked_for_and_none_comes_twice(
    given_: tuple[dict[str, Any], dict[str, Any]], per_bucket: int, seed: int
) -> None:
    pictures, masks = given_
    pairs = draw_pairs(pictures, masks, per_bucket, seed)
    assert len(set(pairs)) == len(pairs) and list(pairs) == sorted(pairs, key=lambda pair: pair.bucket)
    assert all(masks[pair.mask][pictures[pair.picture]] == pair.bucket for pair in pairs)
    possible = Counter(masks[m][size] for m in masks for size in pictures.values())
    taken = Counter(pair.bucket for pair in pairs)
    assert all(taken[bucket] == min(per_bucket, possible[bucket]) for bucket in range(len(BUCKETS)))


@settings(deadline=None, max_examples=100)
@given(folders(), st.integers(1, 9), st.integers(0, 3), st.randoms())
def test_pairs_go_by_names_and_seed_and_not_by_the_order_of_files(
    given_: tuple[dict[str, Any], dict[str, Any]], per_bucket: int, seed: int, random: Any
) -> None:
    pictures, masks = given_
    mixed = [list(pictures.items()), list(masks.items())]
    for items in mixed:
        random.shuffle(items)
    assert draw_pairs(pictures, masks, per_bucket, seed) == draw_pairs(*map(dict, mixed), per_bucket, seed)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(WORDS, SIZES, min_size=1, max_size=7), st.integers(1, 4), st.integers(1, 9), st.integers(0, 3))
def test_kinds_and_pictures_take_turns_evenly_while_masks_last(
    pictures: dict[str, tuple[int, int]], kinds: int, per_bucket: int, seed: int
) -> None:
    masks = {
        f"{'abcd'[kind]}_{bucket}_{i}.png": dict.fromkeys([(20, 30), (40, 40)], bucket)
        for kind in range(kinds)
        for bucket in (0, 4)
        for i in range(per_bucket)
    }
    pairs = draw_pairs(pictures, masks, per_bucket, seed)
    for bucket in (0, 4):
        turns = Counter(dict.fromkeys("abcd"[:kinds], 0))
        turns.update(pair.mask[0] for pair in pairs if pair.bucket == bucket)
        assert turns.total() == per_bucket and max(turns.values()) - min(turns.values()) <= 1
    turns = Counter(dict.fromkeys(pictures, 0))
    turns.update(pair.picture for pair in pairs)
    assert max(turns.values()) - min(turns.values()) <= 1


def test_pictures_and_masks_rotate() -> None:
    pictures = {f"p{i}": (8, 8) for i in range(10)}
    masks = {f"{kind}_{bucket}{i}": {(8, 8): bucket} for bucket in (0, 3) for kind in "ab" for i in range(5)}
    pairs = draw_pairs(pictures, masks, 20, 0)
    assert set(Counter(pair.picture for pair in pairs).values()) == {4}
    assert set(Counter(pair.mask for pair in pairs).values()) <= {1, 2, 3}
    assert {pair.mask for pair in pairs} == masks.keys()
    assert all(a.picture != b.picture and a.mask != b.mask for a, b in itertools.pairwise(pairs))


def test_another_seed_pairs_anew_and_a_new_mask_leaves_the_others_in_their_order() -> None:
    pictures = {f"p{i}": (8, 8) for i in range(5)}
    masks = {f"a_{i}": {(8, 8): 2} for i in range(20)}
    first = draw_pairs(pictures, masks, 10, 0)
    assert first != draw_pairs(pictures, masks, 10, 1)
    more = [pair.mask for pair in draw_pairs(pictures, masks | {"a_new": {(8, 8): 2}}, 11, 0)]
    assert [mask for mask in more if mask != "a_new"][:10] == [pair.mask for pair in first][: len(more)]


def test_pairing_stays_as_it_is() -> None:
    """Published figures name a seed, so a seed must mean the same for ever."""
    pictures = {"a.png": (8, 8), "b.png": (8, 8), "c.png": (8, 8)}
    masks = {f"{kind}_{i}.png": {(8, 8): 1} for kind in ("film", "obj") for i in range(3)}
    assert draw_pairs(pictures, masks, 4, 0) == (
        Pair(1, "b.png", "obj_0.png"),
        Pair(1, "a.png", "film_0.png"),
        Pair(1, "c.png", "obj_1.png"),
        Pair(1, "b.png", "film_1.png"),
    )


# ---------------------------------------------------------------- holes


@pytest.mark.parametrize(
    ("ratio", "bucket"),
    [
        (0, None), (0.01, None), (0.0101, 0), (10 / 100, 0), (0.1001, 1), (30 / 100, 2), (3 / 10 + 1e-9, 3), (0.6, 5),
        (0.6001, None), (1, None),
    ],
)  # fmt: skip
def test_the_upper_end_belongs_to_a_bucket_and_the_lower_does_not(ratio: float, bucket: int | None) -> None:
    assert bucket_of(ratio) == bucket


@pytest.mark.parametrize(
    ("hole", "border"),
    [
        (square(28), False),
        (square(28, 49), True),
        (square(28, 50, 49), True),
        (square(28, 51), True),
        (square(28, 50, 51), True),
        (box(99, 300, 40, 140, 60, 160), True),
        (box(101, 300, 50, 140, 51, 160), False),
    ],
)
def test_a_hole_is_at_the_border_within_50_px(hole: Hole, border: bool) -> None:
    assert at_border(hole) == border


def test_picture_and_hole_are_cut_to_their_common_centre() -> None:
    picture = np.arange(61 * 90 * 3, dtype=np.uint32).reshape(61, 90, 3).astype(np.uint8)
    hole = np.zeros((71, 80), np.bool_)  # taller than the picture, and not as wide
    hole[:25] = True
    cut, cut_hole = common_centre(picture, hole)
    assert cut.shape == (61, 80, 3) and (cut == picture[:, 5:85]).all()
    assert cut_hole.shape == (61, 80) and (cut_hole == hole[5:66]).all()


def test_the_share_that_counts_is_that_of_the_hole_as_it_is_cut() -> None:
    hole = box(80, 80, 20, 20, 40, 40)  # 6 % of 80 x 80, a quarter of the 40 x 40 in its middle
    assert buckets_over(hole, [(80, 80), (200, 200), (40, 40)]) == {(80, 80): 0, (200, 200): 0, (40, 40): 2}
