"""`_jpeg`: blocks that the hole does not touch keep their coefficients, and a file all else that is in it."""

from __future__ import annotations

import io
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jpeglib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_cli import _jpeg, images, writing
from pconv_cli.errors import ItemError

HEIGHT, WIDTH = 83, 117  # whole blocks in neither direction, of no sampling
SAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1), "4:1:1": (1, 4), "4:1:0": (2, 4)}
KINDS = [
    *[(f"YCbCr {name}", progressive) for name in SAMPLINGS for progressive in (False, True) if name != "4:1:0"],
    *[(name, progressive) for name in ("L", "RGB", "RGB by id", "CMYK", "YCCK") for progressive in (False, True)],
    *[("CMYK 4:2:0", progressive) for progressive in (False, True)],
]
CASES = pytest.mark.parametrize(("kind", "progressive"), KINDS)


def smooth(channels: int, seed: int = 0, noise: int = 12) -> NDArray[np.uint8]:
    """Soft colours with some grain, in Pillow's shape."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 225, (6, 8, channels), dtype=np.uint8)
    bands = [np.asarray(Image.fromarray(coarse[..., at]).resize((WIDTH, HEIGHT), 3)) for at in range(channels)]
    fine = np.stack(bands, axis=2) + rng.integers(-noise, noise + 1, (HEIGHT, WIDTH, 1))
    array = fine.clip(0, 255).astype(np.uint8)
    return array[..., 0] if channels == 1 else array


def channels_of(kind: str) -> int:
    return 1 if kind == "L" else 4 if kind[:4] in ("CMYK", "YCCK") else 3


def encoded(kind: str, progressive: bool = False, seed: int = 0, **options: Any) -> bytes:
    """A JPEG of `smooth`, of any sampling and colours."""
    image = Image.fromarray(smooth(channels_of(kind), seed), "CMYK" if channels_of(kind) == 4 else None)
    return bytes_of(image, kind, progressive, **options)


def bytes_of(image: Image.Image, kind: str, progressive: bool = False, **options: Any) -> bytes:
    name, _, sampling = kind.partition(" ")
    sampling = sampling if sampling in SAMPLINGS else "4:4:4"
    out = io.BytesIO()
    options = {"quality": 90, "progressive": progressive, "keep_rgb": name == "RGB"} | options
    image.save(out, "JPEG", subsampling=0 if sampling not in ("4:2:2", "4:2:0") else sampling, **options)
    data = out.getvalue()
    if sampling in ("4:4:0", "4:1:1", "4:1:0"):
        data = resampled(image, sampling, progressive)
    if kind == "RGB by id":
        data = without(data, 0xEE)
    if name == "YCCK":  # as if what Pillow has written as CMYK were that: the colours are others, and as good
        data = data.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
    return data


def resampled(image: Image.Image, sampling: str, progressive: bool) -> bytes:
    """What Pillow cannot write: any sampling factors."""
    made = jpeglib.from_spatial(np.asarray(image))
    made.samp_factor = np.array([SAMPLINGS[sampling], (1, 1), (1, 1)])
    made.progressive_mode = progressive
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.jpg"
        made.write_spatial(str(path), qt=90)
        return path.read_bytes()


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and body of all up to the first scan: read without the code under test."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def without(data: bytes, marker: int) -> bytes:
    for found, body in segments(data):
        if found == marker:
            data = data.replace(segment(found, body), b"")
    return data


def decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def coefficients(data: bytes) -> tuple[list[NDArray[np.int16]], NDArray[np.int32], NDArray[np.int32]]:
    """Of every component, with its table and its sampling factors, as jpeglib reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "read.jpg"
        path.write_bytes(data)
        read = jpeglib.read_dct(str(path))
        planes = [read.Y, read.Cb, read.Cr, read.K][: read.num_components]
        tables = np.stack([read.qt[number] for number in read.quant_tbl_no]).astype(np.int32)
        return planes, tables, np.asarray(read.samp_factor)


def touched(hole: NDArray[np.bool_], shape: tuple[int, ...], down: int, across: int) -> NDArray[np.bool_]:
    """Which blocks of a component the hole touches."""
    found = np.zeros(shape[:2], np.bool_)
    for y, x in np.ndindex(found.shape):
        found[y, x] = hole[y * 8 * down :, x * 8 * across :][: 8 * down, : 8 * across].any()
    return found


def holes() -> NDArray[np.bool_]:
    """One inside, one in a corner beyond which blocks go on, one of a single pixel."""
    hole = np.zeros((HEIGHT, WIDTH), np.bool_)
    hole[20:37, 30:61] = hole[80:, 110:] = hole[5, 100] = True
    return hole


def near_touched(data: bytes, hole: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Pixels not farther than `reach` from a touched block of any component."""
    planes, _, factors = coefficients(data)
    found = np.zeros_like(hole)
    for plane, (down, across) in zip(planes, factors.max(axis=0) // factors, strict=True):
        for y, x in np.argwhere(touched(hole, plane.shape, down, across)):
            top, left = y * 8 * down, x * 8 * across
            rows = slice(max(top - reach, 0), top + 8 * down + reach)
            found[rows, max(left - reach, 0) : left + 8 * across + reach] = True
    return found


def repainted(data: bytes, hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    pixels = decoded(data).copy()
    pixels[hole] = smooth(1 if pixels.ndim == 2 else pixels.shape[2], seed=1, noise=0)[hole]
    return pixels


@CASES
def test_untouched_blocks_keep_their_coefficients(kind: str, progressive: bool) -> None:
    data, hole = encoded(kind, progressive), holes()
    result = _jpeg.patch(data, repainted(data, hole), hole)
    before, tables, factors = coefficients(data)
    after, tables_after, factors_after = coefficients(result)
    assert np.array_equal(tables, tables_after)
    assert np.array_equal(factors, factors_after)
    for old, new, (down, across) in zip(before, after, factors.max(axis=0) // factors, strict=True):
        inside = touched(hole, old.shape, down, across)
        assert 0 < inside.sum() < inside.size
        assert np.array_equal(old[~inside], new[~inside])
        assert (old[inside] != new[inside]).any()
    with Image.open(io.BytesIO(result)) as image:
        assert bool(image.info.get("progressive")) is progressive


@CASES
def test_pixels_change_at_most_one_pixel_beside_touched_blocks_and_without_subsampling_not_even_there(
    kind: str, progressive: bool
) -> None:
    data, hole = encoded(kind, progressive), holes()
    pixels = repainted(data, hole)
    shown = decoded(_jpeg.patch(data, pixels, hole))
    changed = shown != decoded(data)
    changed = changed if changed.ndim == 2 else changed.any(axis=2)
    assert changed[hole].mean() > 0.9
    assert not (changed & ~near_touched(data, hole, 1 if kind[-5:] in SAMPLINGS else 0)).any()


@CASES
def test_filled_pixels_are_shown_within_quantisation(kind: str, progressive: bool) -> None:
    data, hole = encoded(kind, progressive), holes()
    pixels = repainted(data, hole)
    error = np.abs(decoded(_jpeg.patch(data, pixels, hole)).astype(int) - pixels)
    assert error[24:33, 38:53].mean() < 4  # at the rim, pixels may share their chroma with what is beside the hole
    assert error[hole].mean() < 10


@pytest.mark.parametrize("kind", ["L", "RGB", "CMYK", "YCbCr 4:4:4", "YCbCr 4:2:2", "YCbCr 4:2:0", "CMYK 4:2:0"])
def test_a_hole_that_is_everything_gives_what_an_encoder_gives(kind: str) -> None:
    data = encoded(kind)
    other = Image.fromarray(smooth(channels_of(kind), seed=1), "CMYK" if channels_of(kind) == 4 else None)
    result = _jpeg.patch(data, np.asarray(other), np.ones((HEIGHT, WIDTH), np.bool_))
    for ours, theirs in zip(coefficients(result)[0], coefficients(bytes_of(other, kind))[0], strict=True):
        assert np.abs(ours - theirs).max() <= 1
        assert (ours != theirs).mean() < 0.05  # encoders round in between


@CASES
def test_no_hole_changes_no_coefficient(kind: str, progressive: bool) -> None:
    data = encoded(kind, progressive)
    result = _jpeg.patch(data, np.zeros_like(decoded(data)), np.zeros((HEIGHT, WIDTH), np.bool_))
    assert all(map(np.array_equal, coefficients(result)[0], coefficients(data)[0]))
    assert np.array_equal(decoded(result), decoded(data))


@pytest.mark.parametrize("kind", ["L", "YCbCr 4:4:4", "CMYK"])
def test_pixels_outside_the_hole_are_not_looked_at(kind: str) -> None:
    data, hole = encoded(kind), holes()
    pixels = repainted(data, hole)
    elsewhere = np.where(hole if pixels.ndim == 2 else hole[..., None], pixels, 255 - pixels)
    assert _jpeg.patch(data, pixels, hole) == _jpeg.patch(data, elsewhere, hole)


def test_pixels_beside_the_hole_in_a_touched_block_stay_close() -> None:
    data, hole = encoded("L"), holes()
    shown = decoded(_jpeg.patch(data, repainted(data, hole), hole)).astype(int)
    beside = near_touched(data, hole, 0) & ~hole
    assert np.abs(shown - decoded(data))[beside].mean() < 2.5


ICC = [b"ICC_PROFILE\0" + bytes([at + 1, 60]) + bytes([at]) * 900 for at in range(60)]
SEGMENTS = [
    (0xE1, b"Exif\0\0" + bytes(range(256))),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40 + b"more"),
    *[(0xE2, body) for body in ICC],  # more than jpeglib itself could take
    (0xFE, b""),
    (0xFE, b"\xff\xd9 a comment that looks like an end \xff\xda"),
    (0xED, b"Photoshop 3.0\x008BIM"),
    (0xEB, b"anything\xff\xd8\xff"),
]
MPF = (0xE2, b"MPF\0II*\0")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", ["L", "YCbCr 4:2:0", "RGB", "RGB by id", "CMYK", "YCCK"])
def test_metadata_stands_verbatim_in_its_order_and_further_pictures_are_left_out(kind: str, progressive: bool) -> None:
    plain = encoded(kind, progressive)
    extra = b"".join(segment(*item) for item in [*SEGMENTS[:2], MPF, *SEGMENTS[2:]])
    behind = 2 + sum(len(segment(*item)) for item in segments(plain)[:1])
    data = plain[:behind] + extra + plain[behind:] + encoded("L")
    own = [item for item in segments(data) if item[0] >= 0xE0]
    result = _jpeg.patch(data, repainted(plain, holes()), holes())
    assert [item for item in segments(result) if item[0] >= 0xE0] == [item for item in own if item != MPF]
    assert len(own) > len(SEGMENTS)
    assert result == _jpeg.patch(result, repainted(plain, holes()), np.zeros((HEIGHT, WIDTH), np.bool_))
    ids = [body[6::3] for marker, body in segments(data) if marker in (0xC0, 0xC2)]
    assert [body[6::3] for marker, body in segments(result) if marker in (0xC0, 0xC2)] == ids
    assert len(result) < len(data)


@pytest.mark.parametrize("kind", ["L", "YCbCr 4:2:0", "YCbCr 4:4:4"])
def test_a_file_of_standard_codes_keeps_them_and_one_of_codes_of_its_own_gets_new_ones(kind: str) -> None:
    for optimize in (False, True):
        data = encoded(kind, optimize=optimize)
        result = _jpeg.patch(data, repainted(data, holes()), holes())
        codes = [[item for item in segments(file) if item[0] == 0xC4] for file in (data, result)]
        assert (tables(codes[0]) == tables(codes[1])) is not optimize


def tables(items: list[tuple[int, bytes]]) -> bytes:
    return b"".join(body for _, body in items)


def test_pictures_of_one_header_do_not_get_each_others_pixels() -> None:
    files = [encoded("YCbCr 4:2:0", seed=seed) for seed in range(3)]
    wanted = [repainted(data, holes()) for data in files]
    for _ in range(2):  # the second time all that goes by a header is remembered
        for data, pixels in zip(files, wanted, strict=True):
            shown = decoded(_jpeg.patch(data, pixels, holes()))
            away = ~near_touched(data, holes(), 1)
            assert np.array_equal(shown[away], decoded(data)[away])


def test_segments_between_scans_are_kept() -> None:
    data = not_interleaved([encoded("L", seed=at) for at in range(3)], segment(0xFE, b"between"))
    result = _jpeg.patch(data, repainted(data, holes()), holes())
    assert (0xFE, b"between") in segments(result)


def not_interleaved(greys: list[bytes], between: bytes = b"") -> bytes:
    """One sequential file with each component in a scan of its own, put together of grey ones."""
    size = struct.pack(">BHHB", 8, HEIGHT, WIDTH, len(greys))
    data = b"\xff\xd8" + b"".join(segment(*item) for item in segments(greys[0]) if item[0] in (0xE0, 0xDB))
    data += segment(0xC0, size + b"".join(bytes([at + 1, 0x11, 0]) for at in range(len(greys))))
    for at, grey in enumerate(greys):
        scan = grey[grey.index(b"\xff\xda") : -2]
        data += between + b"".join(segment(*item) for item in segments(grey) if item[0] == 0xC4)
        data += scan[:5] + bytes([at + 1]) + scan[6:]
    return data + b"\xff\xd9"


UNUSUAL = {
    "restart intervals": lambda: encoded("YCbCr 4:2:0", restart_marker_blocks=2),
    "scans of one component each": lambda: not_interleaved([encoded("L", seed=at) for at in range(3)]),
    "tables above 255": lambda: encoded("YCbCr 4:4:4", qtables=[[16] * 32 + [300] * 32, [20] * 32 + [999] * 32]),
    "three tables": lambda: encoded("YCbCr 4:4:4", qtables=[[3] * 64, [5] * 64, [9] * 64]),
    "optimised codes": lambda: encoded("YCbCr 4:2:0", optimize=True),
    "filling bytes": lambda: encoded("L").replace(b"\xff\xdb", b"\xff\xff\xff\xdb")[:-2] + b"\xff\xff\xff\xd9",
    "the finest quantisation": lambda: encoded("YCbCr 4:4:4", qtables=[[1] * 64, [1] * 64]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_keep_their_coefficients(name: str) -> None:
    data, hole = UNUSUAL[name](), holes()
    before, tables, factors = coefficients(data)
    result = _jpeg.patch(data, repainted(data, hole), hole)
    after, tables_after, _ = coefficients(result)
    assert np.array_equal(tables, tables_after)
    for old, new, (down, across) in zip(before, after, factors.max(axis=0) // factors, strict=True):
        inside = touched(hole, old.shape, down, across)
        assert np.array_equal(old[~inside], new[~inside])
    assert not (decoded(result) != decoded(data))[~near_touched(data, hole, 1)].any()


def test_what_no_code_could_hold_is_clipped() -> None:
    data = encoded("L", qtables=[[1] * 64])
    stripes = np.where(np.arange(WIDTH) % 8 < 4, 255, 0).astype(np.uint8) + np.zeros((HEIGHT, 1), np.uint8)
    for pixels in (stripes, stripes.clip(255), stripes * 0, np.random.default_rng(0).choice(stripes[0], stripes.shape)):
        shown = decoded(_jpeg.patch(data, pixels, np.ones_like(pixels, np.bool_)))
        assert np.abs(shown.astype(int) - pixels).max() <= 2


def changed_byte(data: bytes, marker: int, at: int, value: int) -> bytes:
    start = data.index(bytes([0xFF, marker])) + at
    return data[:start] + bytes([value]) + data[start + 1 :]


def first_scans(data: bytes, count: int) -> bytes:
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    return data[: starts[count]].rpartition(b"\xff\xc4")[0] + b"\xff\xd9"


REFUSED = {
    "cut short": lambda data: data[: len(data) // 2],
    "no JPEG": lambda data: b"GIF89a" + data,
    "nothing": lambda data: b"",
    "a marker that no encoder writes": lambda data: data[:-2] + b"\xff\x15" + data[-2:],
    "a damaged Huffman table": lambda data: changed_byte(data, 0xC4, 6, 200),
    "12 bits": lambda data: changed_byte(data, 0xC0, 4, 12),
    "arithmetic": lambda data: data.replace(b"\xff\xc0", b"\xff\xc9"),
    "lossless": lambda data: data.replace(b"\xff\xc0", b"\xff\xc3"),
    "height in a DNL segment": lambda data: changed_byte(changed_byte(data, 0xC0, 5, 0), 0xC0, 6, 0),
    "no scan": lambda data: data[: data.index(b"\xff\xda")] + b"\xff\xd9",
    "two frames": lambda data: data.replace(b"\xff\xda", segment(0xC0, dict(segments(data))[0xC0]) + b"\xff\xda"),
    "a sampling factor of 0": lambda data: changed_byte(data, 0xC0, 11, 0x20),
    "sampling factors of 3 and 2": lambda data: changed_byte(changed_byte(data, 0xC0, 11, 0x31), 0xC0, 14, 0x21),
    "16 blocks interleaved": lambda data: changed_byte(data, 0xC0, 11, 0x44),
    "no quantisation table": lambda data: without(data, 0xDB),
    "zeros in a quantisation table": lambda data: changed_byte(data, 0xDB, 9, 0),
    "another width": lambda data: changed_byte(data, 0xC0, 8, WIDTH - 1),
    "other tables between scans": lambda data: not_interleaved(
        [encoded("L")] * 3, segment(0xDB, bytes(1) + bytes([7]) * 64)
    ),
    "missing progressive scans": lambda data: first_scans(encoded("YCbCr 4:2:0", progressive=True), 4),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_a_value_error_and_leaves_nothing_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = REFUSED[name](encoded("YCbCr 4:2:0"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=r"^[^\n]{5,100}$"):
        _jpeg.patch(data, smooth(3), holes())
    assert not list(tmp_path.iterdir())


def test_arrays_of_other_sizes_are_a_value_error() -> None:
    data, hole = encoded("L"), holes()
    for pixels, mask in ((smooth(3), hole), (smooth(1)[1:], hole), (smooth(1), hole[:, 1:])):
        with pytest.raises(ValueError, match="differ"):
            _jpeg.patch(data, pixels, mask)


def test_a_library_that_writes_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("L"))
    picture = images.read_picture(tmp_path / "a.jpg")
    hole = np.zeros(picture.pixels.shape, np.bool_)
    hole[2:5, 3:9] = True
    filled = picture.filled({layer: picture.seen(layer).copy() for layer in picture.layers}, hole)
    other = encoded("L", seed=1)
    monkeypatch.setattr(_jpeg, "_write", lambda *_: other)
    with pytest.raises(ItemError, match="blocks do not come back as they were"):
        writing.write_picture(filled, tmp_path / "b.jpg", overwrite=False)
    assert not (tmp_path / "b.jpg").exists()


def test_of_what_lies_beside_a_library_nothing_is_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in jpeglib's package for Windows, in the order of names."""
    real = next((Path(jpeglib.__file__).parent / "cjpeglib").glob("cjpeglib_turbo210.*"))
    folder = tmp_path / "cjpeglib"
    folder.mkdir()
    for name in ("cjpeglib_turbo210.exp", "cjpeglib_turbo210.lib"):
        (folder / name).write_bytes(b"what it was linked with")
    monkeypatch.setattr(jpeglib, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ValueError, match="jpeglib's turbo210 cannot be loaded"):
        _jpeg._library.__wrapped__("turbo210")
    (folder / real.name).symlink_to(real)
    assert _jpeg._library.__wrapped__("turbo210").read_jpeg_info


def test_no_disk_space_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    data = encoded("L")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match="No space left"):
        _jpeg.patch(data, repainted(data, holes()), holes())


def test_threads_do_not_mix_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = [encoded(kind, progressive, seed) for seed, (kind, progressive) in enumerate(KINDS)]
    files = [data for data in files for _ in range(3)]
    broken = changed_byte(files[0], 0xC4, 6, 200)
    tasks = [(data, repainted(data, holes()), holes()) for data in files]
    alone = [_jpeg.patch(*task) for task in tasks[::3]]
    with ThreadPoolExecutor(6) as pool:
        wrong = [pool.submit(_jpeg.patch, broken, tasks[0][1], holes()) for _ in range(20)]
        together = list(pool.map(lambda task: _jpeg.patch(*task), tasks))
        assert all(isinstance(item.exception(), ValueError) for item in wrong)
    assert together == [result for result in alone for _ in range(3)]
    assert not list(tmp_path.iterdir())
