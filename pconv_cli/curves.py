"""Draws curves of several methods over the share that is damaged: the only door to matplotlib.

Knows: the library, lines and colours. Does not know: what is measured, how a mean comes about, where the file goes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, BinaryIO

from pconv_cli import files
from pconv_cli.errors import UsageError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # for every eye: Okabe and Ito


def load() -> Any:
    """Import matplotlib: to be called before any work, so that a missing package is not told after it.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as error:
        raise UsageError(f"--plot: a package is missing ({error}); pip install 'pconv[evaluate]'") from error
    return matplotlib


def draw(
    stream: BinaryIO,
    panels: Mapping[str, Mapping[str, Sequence[float | None]]],
    buckets: Sequence[str],
    through: Collection[str],
) -> None:
    """Write four panels with a line for each method, as a PNG of 1320 x 960 px.

    Args:
        stream: Open for writing.
        panels: Title of each panel; in it, by method, a value for each bucket, None = a gap. All four have the same
            methods in the same order.
        buckets: Names of the buckets, left to right.
        through: The methods whose lines are drawn through; the others' are broken.

    Raises:
        UsageError: If matplotlib is not installed.
        OSError: If the stream takes no more.
    """
    matplotlib = load()
    # Whatever the user's own style is; a "$" in a name is a "$", and a font may lack a letter of one.
    with files.quietly(), matplotlib.style.context(["default", {"text.parse_math": False}]):
        figure = matplotlib.figure.Figure(figsize=(11, 8), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(h_pad=0.1)
        for axis, (title, methods) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            for number, (method, values) in enumerate(methods.items()):
                axis.plot(
                    buckets, [math.nan if value is None else value for value in values],
                    color=COLOURS[number % len(COLOURS)], linestyle="-" if method in through else "--",
                    marker="o", markersize=4,
                )  # fmt: skip
            axis.set_title(title, fontsize=11)
            axis.set_xlabel("share of the picture damaged")
            axis.grid(color="0.9")
            axis.spines[["top", "right"]].set_visible(False)
        lines = figure.axes[0].get_lines()
        labels = [method.encode("utf-8", "backslashreplace").decode() for method in methods]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
        figure.savefig(stream, format="png", dpi=120)
