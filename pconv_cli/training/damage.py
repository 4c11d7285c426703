"""Damage as it really looks: random masks of scratches, hairs, dust, blotches, strokes, patches and lost borders.

Knows: how to draw on a plane of pixels from a random generator. Does not know: photographs, tensors, training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rng = np.random.Generator
Draw = Callable[[ImageDraw.ImageDraw, int, Rng], None]

SMALLEST, LARGEST = 0.005, 0.6
"""Share of a picture that random damage covers, drawn uniformly between these."""


def random_damage(size: int, rng: Rng) -> NDArray[np.bool_]:
    """Draw damage until it covers a random share of a square plane.

    Args:
        size: Side, pixels.
        rng: The source of all randomness: the same state draws the same damage.

    Returns:
        `(size, size)`, True = damaged; never all True, never all False.
    """
    share = rng.uniform(SMALLEST, LARGEST)
    kinds = rng.permutation(len(_KINDS))[: rng.integers(1, 4)]
    canvas = Image.new("1", (size, size))
    draw = ImageDraw.Draw(canvas)
    if rng.random() < 0.25:
        _lost_border(draw, size, rng)
    hole = np.asarray(canvas)
    if rng.random() < 0.3:
        hole = hole | _patches(size, rng, share * rng.uniform(0.4, 1.0))
    canvas = Image.fromarray(hole)
    draw = ImageDraw.Draw(canvas)
    for _ in range(400):
        if np.asarray(canvas).mean() >= share:
            break
        # Thin things never add up to large shares; large shares come from large things.
        pool = [_KINDS[k] for k in kinds] if share < 0.15 or rng.random() < 0.3 else _LARGE
        pool[rng.integers(len(pool))](draw, size, rng)
    hole = np.array(canvas, np.bool_)
    if hole.all():
        hole[rng.integers(size), rng.integers(size)] = False
    if not hole.any():
        hole[rng.integers(size), rng.integers(size)] = True
    return hole


def _scratch(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    """A long, thin, nearly straight line, often right through the picture, often in a bundle."""
    angle = rng.normal(np.pi / 2, 0.1) if rng.random() < 0.6 else rng.uniform(0, np.pi)
    width = int(rng.integers(1, 7))
    for _ in range(int(rng.integers(1, 4))):
        length = size * rng.uniform(0.3, 2.0)
        x, y = rng.uniform(0, size, 2)
        bend = rng.normal(0, 0.03) * length
        t = np.linspace(-0.5, 0.5, 9)
        along, across = t * length, bend * (1 - 4 * t**2)
        xs = x + along * np.cos(angle) - across * np.sin(angle)
        ys = y + along * np.sin(angle) + across * np.cos(angle)
        _line(draw, xs, ys, max(1, width + int(rng.integers(-1, 2))))


def _hair(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    """A thin curl."""
    steps = int(rng.integers(12, 40))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25) + rng.normal(0, 0.15, steps))
    step = size * rng.uniform(0.005, 0.025)
    x, y = rng.uniform(0, size, 2)
    _line(draw, x + np.cumsum(np.cos(heading)) * step, y + np.cumsum(np.sin(heading)) * step, int(rng.integers(1, 4)))


def _dust(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    """A handful of specks."""
    for _ in range(int(rng.integers(4, 25))):
        x, y = rng.uniform(0, size, 2)
        r, s = rng.uniform(0.6, 5, 2)
        draw.ellipse((x - r, y - s, x + r, y + s), fill=1)


def _blotch(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    """A ragged blob: a closed curve whose radius wanders."""
    corners = int(rng.integers(8, 24))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = size * rng.uniform(0.02, 0.16) * rng.uniform(0.5, 1.3, corners)
    x, y = rng.uniform(0, size, 2)
    squash, turn = rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)
    px, py = radius * np.cos(angles), radius * np.sin(angles) * squash
    xs, ys = x + px * np.cos(turn) - py * np.sin(turn), y + px * np.sin(turn) + py * np.cos(turn)
    draw.polygon(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=1)


def _outline(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    """A band along a closed ragged curve, as where something moved in front of something else."""
    corners = int(rng.integers(8, 20))
    angles = np.linspace(0, 2 * np.pi, corners)
    radius = size * rng.uniform(0.08, 0.35) * rng.uniform(0.6, 1.2, corners)
    radius[-1] = radius[0]
    x, y = rng.uniform(0, size, 2)
    part = slice(0, int(rng.integers(4, corners + 1)))
    xs, ys = x + radius * np.cos(angles), y + radius * np.sin(angles)
    _line(draw, xs[part], ys[part], int(rng.integers(4, max(6, size // 9))))


def _stroke(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    """A free-form brush stroke."""
    steps = int(rng.integers(2, 10))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.9, steps))
    step = size * rng.uniform(0.04, 0.16, steps)
    x, y = rng.uniform(0, size, 2)
    width = int(size * rng.uniform(0.015, 0.12)) + 1
    _line(draw, x + np.cumsum(np.cos(heading) * step), y + np.cumsum(np.sin(heading) * step), width)


def _block(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    x, y = rng.uniform(-0.1, 1, 2) * size
    w, h = rng.uniform(0.05, 0.4, 2) * size
    draw.rectangle((x, y, x + w, y + h), fill=1)


def _lost_border(draw: ImageDraw.ImageDraw, size: int, rng: Rng) -> None:
    """A missing margin or a torn corner: known on one side only, as at the edge of a tile."""
    depth = size * rng.uniform(0.02, 0.3)
    wobble = rng.normal(0, rng.choice([0, 0.01 * size]), 12)
    along = np.linspace(0, size, 12)
    edge = np.clip(depth + wobble, 0, size)
    if rng.random() < 0.4:
        edge = edge * np.linspace(1.5, -0.5, 12)
    points = [(0.0, 0.0), *zip(along.tolist(), edge.tolist(), strict=True), (float(size), 0.0)]
    turn = rng.integers(4)
    for _ in range(turn):
        points = [(size - y, x) for x, y in points]
    draw.polygon(points, fill=1)


def _patches(size: int, rng: Rng, share: float) -> NDArray[np.bool_]:
    """The highest places of a random landscape, at a given share: stains and lost emulsion of any shape."""
    cells = int(rng.integers(3, 12))
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    fine = Image.fromarray(rng.normal(0, 1, (cells * 4, cells * 4)).astype(np.float32))
    height = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    height = height + rng.uniform(0, 0.35) * np.asarray(fine.resize((size, size), Image.Resampling.BICUBIC))
    return np.asarray(height > np.quantile(height, 1 - share))


def _line(draw: ImageDraw.ImageDraw, xs: NDArray[np.float64], ys: NDArray[np.float64], width: int) -> None:
    points = list(zip(xs.tolist(), ys.tolist(), strict=True))
    draw.line(points, fill=1, width=width, joint="curve")
    if width > 3:
        r = width / 2
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=1)


_KINDS: list[Draw] = [_scratch, _hair, _dust, _blotch, _outline, _stroke, _block]
_LARGE: list[Draw] = [_blotch, _outline, _stroke, _block, _stroke]
