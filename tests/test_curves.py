"""Curves: a PNG that shows every method in its colour, whatever a method is called and whatever is missing."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_cli import curves
from pconv_cli.errors import UsageError

BUCKETS = ("0.01-0.1", "0.1-0.2", "0.5-0.6")


def drawn(methods: dict[str, list[float | None]], *through: str) -> NDArray[np.uint8]:
    """Draw the same lines in four panels; pixels `(h, w, 3)`."""
    stream = io.BytesIO()
    buckets = BUCKETS[: max(map(len, methods.values()))]
    curves.draw(stream, dict.fromkeys(("a, dB", "b", "c, %", "d"), methods), buckets, through)
    image = Image.open(stream)
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def amount(picture: NDArray[np.uint8], number: int) -> int:
    """How many pixels are in the colour of a line."""
    rgb = [int(curves.COLOURS[number][i : i + 2], 16) for i in (1, 3, 5)]
    return int((picture == rgb).all(axis=2).sum())


def test_plot_is_a_light_png_with_a_colour_for_each_method() -> None:
    picture = drawn({"photo-3": [23.5, 20.2, 16.4], "ns": [21.3, 18.5, 15.1]}, "photo-3")
    assert (picture[0, 0] == 255).all() and picture.shape == (960, 1320, 3)
    assert amount(picture, 0) > 200 and amount(picture, 1) > 200 and amount(picture, 2) == 0
    assert "matplotlib.pyplot" not in sys.modules, "no window, no state of the whole process"


def test_lines_are_drawn_through_where_asked_for_and_broken_elsewhere() -> None:
    values: list[float | None] = [1.0, 2.0, 3.0]
    assert amount(drawn({"net": values}, "net"), 0) > 1.2 * amount(drawn({"net": values}), 0)


def test_a_value_that_is_missing_leaves_a_gap() -> None:
    assert amount(drawn({"net": [1.0, None, 1.0]}, "net"), 0) < amount(drawn({"net": [1.0, 1.0, 1.0]}, "net"), 0) / 2
    assert (drawn({"net": [None, None, None]}, "net")[0, 0] == 255).all()


def test_nothing_measured_and_many_methods_are_drawn_too() -> None:
    assert drawn({"net": []}).shape == (960, 1320, 3)
    assert drawn({f"m{i}": [float(i)] for i in range(len(curves.COLOURS) + 2)}).shape == (960, 1320, 3)


@pytest.mark.parametrize("name", ["_under", "$a^", "絵", "a\udcff"])
def test_plot_takes_any_name(name: str) -> None:
    assert amount(drawn({name: [1.0]}), 0) > 20


def test_a_style_of_the_user_s_changes_nothing() -> None:
    matplotlib = curves.load()
    plain = drawn({"net": [1.0, 2.0]})
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "black", "text.color": "red"}):
        assert (drawn({"net": [1.0, 2.0]}) == plain).all()


def test_without_its_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'pconv\[evaluate\]'"):
        curves.load()
