"""Stained glass: a label map, lead between the labels, light behind the glass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gallery.noise import (
    SUPERSAMPLING,
    Array,
    Colour,
    Point,
    blur,
    fbm,
    lattice,
    mix,
    noise,
    pixels,
    rgb,
    shrink,
    smoothstep,
)


class Glazing:
    """A window under construction: which piece of glass every pixel belongs to, and each piece's colour."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self.x, self.y = pixels(width, height)
        self.rng = rng
        self.piece = np.zeros((height, width), np.int32)
        self.colours: list[Array] = [rgb(0, 0, 0)]

    def lay(self, where: Array, palette: Sequence[Colour], cells: Array | None = None) -> None:
        """Cut new glass into a region; cells splits it further, one colour of the palette for each."""
        keys = np.zeros(self.piece.shape, np.int64) if cells is None else cells.astype(np.int64)
        for key in np.unique(keys[where]).tolist():
            colour = np.array(palette[int(self.rng.integers(len(palette)))]) / 255
            self.piece[where & (keys == key)] = len(self.colours)
            self.colours.append(colour * self.rng.uniform(0.86, 1.1, 3))

    def shards(self, count: int, stretch: float = 1.0) -> Array:
        """Number every pixel by the nearest of some scattered points."""
        height, width = self.piece.shape
        spots = self.rng.uniform(0, 1, (count * 6, 2)) * (width, height)
        kept: list[Array] = []
        gap = 0.75 * math.sqrt(width * height / count)
        for spot in spots:
            if all(np.hypot(*(spot - other)) > gap for other in kept):
                kept.append(spot)
        best = np.full(self.piece.shape, np.inf, np.float32)
        index = np.zeros(self.piece.shape, np.int32)
        for k, (px, py) in enumerate(kept):
            d = (self.x - px) ** 2 + ((self.y - py) * stretch) ** 2
            index, best = np.where(d < best, k, index), np.minimum(d, best)
        return index


SKY = [(58, 120, 196), (84, 150, 214), (44, 96, 176), (120, 180, 224), (70, 132, 190), (150, 200, 228)]
GOLD = [(250, 190, 50), (252, 208, 86), (240, 160, 40), (255, 222, 120)]
RUBY = [(206, 26, 36), (224, 44, 40), (184, 16, 34), (236, 70, 46)]
LEAF = [(38, 128, 62), (62, 152, 70), (24, 104, 60), (104, 172, 74)]
HILL = [(70, 140, 84), (110, 166, 92), (50, 118, 96), (146, 184, 96)]
VIOLET = [(98, 60, 150), (124, 76, 168), (80, 50, 132)]


def poppy(glass: Glazing, cx: float, cy: float, size: float, turn: float) -> None:
    """Lay one open poppy: five overlapping petals around a dark heart."""
    x, y = glass.x - cx, glass.y - cy
    for k in (0, 2, 4, 1, 3):
        angle = turn + k * 2 * math.pi / 5
        px, py = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
        inside = ((px - size * 0.52) / (size * 0.56)) ** 2 + (py / (size * 0.52)) ** 2 < 1
        glass.lay(inside, RUBY, (py > 0) * 1)
    heart = np.hypot(x, y)
    glass.lay(heart < size * 0.30, [(60, 22, 70), (74, 30, 84)], (np.arctan2(y, x) / (math.pi / 3) + 9) // 1)
    glass.lay(heart < size * 0.13, GOLD)


def leaf(glass: Glazing, start: Point, end: Point, width: float, bend: float) -> None:
    """Lay a pointed leaf, split along its vein."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    t = ((glass.x - start[0]) * dx + (glass.y - start[1]) * dy) / length**2
    s = ((glass.x - start[0]) * -dy + (glass.y - start[1]) * dx) / length
    s = s - bend * np.sin(np.clip(t, 0, 1) * math.pi)
    inside = (t > 0) & (t < 1) & (np.abs(s) < width * np.sin(np.clip(t, 0, 1) ** 0.8 * math.pi))
    glass.lay(inside, LEAF, (s > 0) * 1 + 2 * (t > 0.55))


def stem(glass: Glazing, foot: Point, head: Point, sway: float, width: float) -> None:
    """Lay a curved stem between two points."""
    t = np.clip((glass.y - head[1]) / (foot[1] - head[1]), 0, 1)
    middle = head[0] + (foot[0] - head[0]) * t + sway * np.sin(t * math.pi)
    glass.lay((np.abs(glass.x - middle) < width) & (glass.y > head[1]) & (glass.y < foot[1]), LEAF[:3], t > 0.5)


def glaze(glass: Glazing, arch: Array) -> None:
    """Design the window: sun and rays, hills, a river, poppies, and a border along the arch."""
    height, width = glass.piece.shape
    x, y = glass.x, glass.y
    sun_x, sun_y = 0.5 * width, 0.285 * height
    radius, angle = np.hypot(x - sun_x, y - sun_y), np.arctan2(y - sun_y, x - sun_x)
    sector = np.floor((angle + math.pi) / (2 * math.pi) * 24 + 0.5) % 24
    ring = np.floor(radius / (0.115 * height) + 0.11 * np.sin(sector * 2.4) + 0.2)
    warm = [(252, 214, 130), (250, 190, 108), (240, 168, 116), (226, 150, 130)]
    glass.lay(np.ones_like(arch, bool), SKY, sector * 100 + ring)
    glass.lay(radius < 0.255 * height, warm, (sector // 1) * 10)
    petal = np.abs(((angle + math.pi) / (2 * math.pi) * 12) % 1 - 0.5)
    glass.lay(
        radius < 0.155 * height * (0.74 + 0.30 * np.sqrt(np.clip(1 - 2 * petal, 0, 1))),
        GOLD,
        (angle + math.pi) / (2 * math.pi) * 12 // 1,
    )
    glass.lay(radius < 0.083 * height, [*RUBY[:2], (240, 120, 40)], (angle + math.pi) / (2 * math.pi) * 8 // 1)
    glass.lay(radius < 0.044 * height, [(255, 232, 150)])
    shards = glass.shards(70, 1.6)
    for level, tall, wave, palette in (
        (0.60, 0.050, 2.1, VIOLET),
        (0.655, 0.035, 4.4, [HILL[2], (64, 120, 130)]),
        (0.715, 0.04, 0.6, HILL),
    ):
        line = height * (level + tall * np.sin(x / width * 5.2 + wave) + 0.4 * tall * np.sin(x / width * 11 + wave * 2))
        glass.lay(y > line, palette, shards)
    t = np.clip((y / height - 0.70) / 0.30, 0, 1)
    middle = width * (0.52 + 0.13 * np.sin(t * 5.2 + 0.4))
    inside = (np.abs(x - middle) < width * (0.018 + 0.13 * t)) & (y > 0.70 * height)
    glass.lay(inside, [(90, 170, 214), (120, 196, 226), (64, 140, 200)], np.floor(t * 7 + 0.5 * np.sin(x / width * 16)))
    flowers = (
        (0.26, 0.665, 0.128, 0.3, -0.03),
        (0.735, 0.70, 0.118, 0.9, 0.04),
        (0.47, 0.815, 0.108, 0.1, 0.02),
        (0.80, 0.885, 0.07, 0.5, 0.0),
    )
    for fx, fy, _, _, sway in flowers:
        stem(glass, (fx * width + sway * 500, height), (fx * width, fy * height), sway * width, 0.011 * width)
    for x0, y0, x1, y1, wide, bend in (
        (0.27, 0.98, 0.10, 0.73, 0.05, 20),
        (0.28, 0.97, 0.40, 0.76, 0.045, -16),
        (0.74, 0.99, 0.91, 0.75, 0.045, -20),
        (0.70, 1.0, 0.61, 0.80, 0.04, 14),
        (0.47, 1.0, 0.36, 0.86, 0.035, 8),
        (0.15, 1.0, 0.12, 0.87, 0.04, 4),
    ):
        leaf(glass, (x0 * width, y0 * height), (x1 * width, y1 * height), wide * width, bend)
    for fx, fy, size, turn, _ in flowers:
        poppy(glass, fx * width, fy * height, size * width * 1.15, turn)
    along = np.where(arch < 0, 0, np.floor(np.arctan2(y - 0.55 * height, (x - 0.5 * width) * 1.3) * 13))
    glass.lay(arch < 0.052 * width, [(196, 40, 46), (40, 84, 168), (236, 176, 60), (44, 128, 84)], along)
    glass.lay(arch < 0.014 * width, [(238, 226, 190)], along // 2)


def paint_window(seed: int) -> Array:
    """Glaze an arched window; the fourth channel is its outline."""
    width, height = 448 * SUPERSAMPLING, 672 * SUPERSAMPLING
    rng = np.random.default_rng([seed, 5])
    glass = Glazing(width, height, rng)
    x, y = glass.x, glass.y
    inset, half = 12.0, width / 2 - 12.0
    reach, spring = 1.42 * half, inset + half * math.sqrt(2 * 1.42 - 1)
    left, right = (
        reach - np.hypot(x - inset - reach, np.minimum(y - spring, 0)),
        reach - np.hypot(x - width + inset + reach, np.minimum(y - spring, 0)),
    )
    outline = np.minimum(np.minimum(left, right), height - inset - y)
    frame = 22.0
    glaze(glass, outline - frame)
    edges = np.zeros((height, width), bool)
    for axis in (0, 1):
        change = np.diff(glass.piece, axis=axis) != 0
        edges |= np.pad(change, [(0, 1), (0, 0)] if axis == 0 else [(0, 0), (0, 1)])
    lead = np.clip(blur(edges.astype(np.float32), 2.4) * 5.2, 0, 1)
    came = smoothstep(0.30, 0.62, lead)
    colours = np.array(glass.colours, np.float32)[glass.piece]
    phase = lattice(glass.piece, glass.piece * 0, 71) * 40
    turn = lattice(glass.piece, glass.piece * 0 + 3, 72) * math.pi
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    streak = fbm(along / 240 + phase, across / 42 + phase, 4, 73)
    seeds = smoothstep(0.55, 0.8, noise(along / 13 + phase, across / 6 + phase, 75)[0])
    grime = blur(came, 7)
    light = 1.06 - 0.30 * np.hypot((x - width / 2) / width, (y - 0.30 * height) / height) + 0.34 * streak
    light = (light + 0.05 * seeds) * (1 - 0.42 * grime)
    body = np.clip(colours, 0, 1.1) ** (2.35 + 0.5 * streak)[..., None] * light[..., None] * 1.22
    body += 0.05 * np.clip(light - 0.9, 0, 1)[..., None]
    gy, gx = np.gradient(blur(lead, 1.2))
    metal = 0.022 + np.clip(0.7 * (gx * 0.7 + gy * 0.7) * -1, -0.04, 0.22)
    picture = mix(body, metal[..., None] * rgb(220, 225, 240), came)
    stone = np.clip(outline / frame, 0, 1)
    bevel = (
        0.10
        + 0.16 * np.sin(np.clip(stone, 0, 1) * math.pi) * (0.8 - 0.2 * np.tanh((x - width / 2) / 90))
        + 0.03 * fbm(x / 6, y / 6, 4, 79)
    )
    picture = mix(picture, bevel[..., None] * rgb(230, 214, 190), smoothstep(frame + 1, frame - 1, outline))
    picture += 0.16 * blur(np.maximum(picture - 0.45, 0), 16)
    shown = np.clip(picture, 0, None) ** (1 / 2.2)
    shown = np.where(shown < 0.8, shown, 0.8 + 0.2 * np.tanh((shown - 0.8) / 0.2))
    return shrink(np.concatenate([shown, np.clip(outline + 0.5, 0, 1)[..., None]], axis=-1))
