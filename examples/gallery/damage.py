"""Scratches, hairs, dust, stains, mould, folds, tears, felt pen and cracks, each leaving its trace in a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gallery.chart import smooth_path
from gallery.noise import Array, Colour, Point, fbm, mix, pixels, polygons, rgb, smoothstep, strokes, to_bytes


def grown(region: Array, radius: int) -> Array:
    """Widen a boolean region by a disc."""
    out = np.zeros_like(region)
    height, width = region.shape
    wide = np.pad(region, radius)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx * dx + dy * dy <= (radius + 0.5) ** 2:
                out |= wide[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
    return out


@dataclass
class Sheet:
    """A picture being damaged, and how far each pixel has been covered so far."""

    original: Array
    rng: np.random.Generator
    picture: Array = field(init=False)
    touched: Array = field(init=False)
    x: Array = field(init=False)
    y: Array = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.original.shape[:2]
        self.picture = self.original.reshape(height, width, -1).astype(np.float32) / 255
        self.touched = np.zeros((height, width), np.float32)
        self.x, self.y = pixels(width, height)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.touched.shape[1], self.touched.shape[0]

    def cover(self, alpha: Array, paint: Any) -> None:
        """Lay paint (a colour or a picture of colours) over the sheet; coverage below 2 % is dropped."""
        alpha = np.where(alpha < 0.02, 0, alpha).astype(np.float32)
        paint = np.asarray(paint, np.float32)
        if self.picture.shape[2] == 1:
            paint = paint.mean(axis=-1, keepdims=True) if paint.shape[-1] == 3 else paint
            self.picture = mix(self.picture, paint, alpha)
        else:
            self.picture[..., :3] = mix(self.picture[..., :3], paint, alpha)
        self.touched = np.maximum(self.touched, alpha)

    def stain(self, alpha: Array, filter_colour: Array) -> None:
        """Let a translucent colour soak in, darkening what is under it."""
        self.cover(alpha, self.picture[..., :3] * filter_colour)

    def finish(self, margin: int) -> tuple[Array, Array]:
        """Return the damaged picture and the mask of everything that differs from the original, plus a margin."""
        damaged = to_bytes(self.picture).reshape(self.original.shape)
        differs = (damaged != self.original).reshape(*self.touched.shape, -1).any(axis=-1) | (self.touched > 0)
        mask = np.where(grown(differs, margin), 255, 0).astype(np.uint8)
        assert np.array_equal(damaged[mask == 0], self.original[mask == 0]), "damage outside its mask"
        return damaged, mask


def scratches(sheet: Sheet, count: int, tone: Colour, tilt: float = 0.02, width: float = 1.1) -> None:
    """Draw long, wandering film scratches that come and go from top to bottom."""
    w, h = sheet.size
    for _ in range(count):
        y = np.linspace(-4, h + 4, h // 3)
        kind = int(sheet.rng.integers(1 << 20))
        x = (
            sheet.rng.uniform(0.05, 0.95) * w
            + (y - h / 2) * sheet.rng.normal(0, tilt)
            + 2.2 * fbm(y / 90, y * 0, 4, kind)
        )
        line = strokes(
            w, h, [(list(zip(x.tolist(), y.tolist(), strict=True)), width * float(sheet.rng.uniform(0.7, 1.5)))]
        )
        strength = smoothstep(-0.42, 0.0, fbm(sheet.y / 34, sheet.y * 0 + kind % 97, 3, kind))
        sheet.cover(line * strength * 0.92, rgb(*tone))


def cuts(sheet: Sheet, lines: Sequence[tuple[Point, Point]], tone: Colour, width: float = 1.6) -> None:
    """Scrape straight lines, given by end points as fractions of the size, slightly shaky and tapering."""
    w, h = sheet.size
    for (x0, y0), (x1, y1) in lines:
        t = np.linspace(0, 1, 80)
        kind = int(sheet.rng.integers(1 << 20))
        sway = 5 * fbm(t * 3, t * 0, 3, kind)
        x, y = (x0 + (x1 - x0) * t) * w + sway, (y0 + (y1 - y0) * t) * h + sway * 0.6
        path = list(zip(x.tolist(), y.tolist(), strict=True))
        pieces = [(path[k : k + 3], width * (0.35 + math.sin(math.pi * (k + 1) / 81) * 0.9)) for k in range(78)]
        sheet.cover(strokes(w, h, pieces) * 0.96, rgb(*tone))


def hairs(sheet: Sheet, count: int, tone: Colour, length: float, width: float = 1.3) -> None:
    """Let curled hairs and fibres lie on the picture."""
    w, h = sheet.size
    for _ in range(count):
        x, y, heading = sheet.rng.uniform(0.06, 0.94) * w, sheet.rng.uniform(0.06, 0.94) * h, sheet.rng.uniform(0, 6.28)
        curl, path = sheet.rng.normal(0, 0.05), []
        for _ in range(int(length * sheet.rng.uniform(0.5, 1.2) / 2)):
            path.append((float(x), float(y)))
            curl = 0.97 * curl + sheet.rng.normal(0, 0.017)
            heading += curl
            x, y = x + 2 * math.cos(heading), y + 2 * math.sin(heading)
        sheet.cover(strokes(w, h, [(path, width)]) * 0.92, rgb(*tone))


def dust(sheet: Sheet, count: int, tone: Colour, largest: float) -> None:
    """Scatter ragged specks, most of them tiny."""
    w, h = sheet.size
    shapes = []
    for _ in range(count):
        x, y, r = sheet.rng.uniform(0, w), sheet.rng.uniform(0, h), 0.7 + (largest - 0.7) * sheet.rng.uniform() ** 4
        turn, squash = sheet.rng.uniform(0, 3.14), sheet.rng.uniform(0.5, 1)
        corners = []
        for angle in np.linspace(0, 2 * math.pi, 14)[:-1].tolist():
            reach = r * sheet.rng.uniform(0.65, 1.25)
            a, b = reach * math.cos(angle), reach * squash * math.sin(angle)
            corners.append((x + a * math.cos(turn) - b * math.sin(turn), y + a * math.sin(turn) + b * math.cos(turn)))
        shapes.append(corners)
    sheet.cover(polygons(w, h, shapes, 4) * 0.95, rgb(*tone))


def blob(sheet: Sheet, centre: Point, radius: float, ragged: float, seed: int) -> Array:
    """Signed distance, in pixels and positive inside, to a blotch with a fractal outline."""
    w, h = sheet.size
    away = np.hypot(sheet.x - centre[0] * w, sheet.y - centre[1] * h)
    return radius * (1 + ragged * fbm(sheet.x / radius * 1.3, sheet.y / radius * 1.3, 6, seed)) - away


def water_stain(sheet: Sheet, centre: Point, radius: float, seed: int, colour: Colour = (176, 128, 74)) -> None:
    """Leave a dried puddle with the dark tide line that such stains have."""
    inside = blob(sheet, centre, radius, 0.55, seed)
    tide = np.exp(-((inside - 2.5) ** 2) / 7.0) + 0.45 * np.exp(-((inside - radius * 0.3) ** 2) / 14.0) * (inside > 0)
    wash = smoothstep(-0.5, 2.5, inside) * (0.42 + 0.2 * fbm(sheet.x / 24, sheet.y / 24, 5, seed + 9))
    sheet.stain(np.clip(wash + 0.55 * tide * (inside > -4), 0, 0.95), rgb(*colour))


def coffee_ring(sheet: Sheet, centre: Point, radius: float, seed: int) -> None:
    """Set a wet cup down: a ring that is thick on one side and broken on the other, with a few drops."""
    w, h = sheet.size
    dx, dy = sheet.x - centre[0] * w, sheet.y - centre[1] * h
    turn = np.arctan2(dy, dx)
    off = np.hypot(dx, dy) - radius + 3.0 * fbm(dx / 40, dy / 40, 4, seed)
    thick = 4.5 + 4.0 * np.cos(turn - 0.7) + 2.0 * fbm(dx / 18, dy / 18, 3, seed + 1)
    ring = smoothstep(1.0, -1.0, np.abs(off) - np.maximum(thick, 0))
    rim = np.exp(-((np.abs(off) - thick) ** 2) / 2.5) * (thick > 1)
    alpha = ring * (0.62 + 0.2 * fbm(dx / 9, dy / 9, 4, seed + 2)) + 0.3 * rim
    for _ in range(7):
        spot = (centre[0] + sheet.rng.normal(0, 0.11), centre[1] + sheet.rng.normal(0, 0.13))
        alpha = np.maximum(
            alpha, 0.75 * smoothstep(-0.6, 0.8, blob(sheet, spot, float(sheet.rng.uniform(1.5, 6)), 0.3, seed + 5))
        )
    sheet.stain(np.clip(alpha, 0, 0.92), rgb(112, 62, 26))


def mould(sheet: Sheet, centre: Point, radius: float, seed: int, colours: tuple[Colour, Colour]) -> None:
    """Grow a colony: a dense patch that thins out into spots."""
    w, h = sheet.size
    away = np.hypot(sheet.x - centre[0] * w, sheet.y - centre[1] * h) / radius
    grain = fbm(sheet.x / 9, sheet.y / 9, 5, seed, 0.6)
    alpha = smoothstep(0.0, 0.16, 0.62 - away + 0.85 * grain) * (away < 1.25)
    tone = mix(
        rgb(*colours[0]), rgb(*colours[1]), np.clip(0.5 + 1.2 * fbm(sheet.x / 4, sheet.y / 4, 4, seed + 3), 0, 1)
    )
    sheet.cover(alpha * 0.9, tone)


def fold(sheet: Sheet, start: Point, end: Point, width: float, seed: int, paper: Colour = (236, 230, 216)) -> None:
    """Crack the surface along a crease, paper showing where it flaked off and a shadow beside it."""
    w, h = sheet.size
    x0, y0, x1, y1 = start[0] * w, start[1] * h, end[0] * w, end[1] * h
    length = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    along, off = (sheet.x - x0) * ux + (sheet.y - y0) * uy, (sheet.y - y0) * ux - (sheet.x - x0) * uy
    off = off + 1.6 * fbm(along / 55, along * 0, 3, seed)
    on = smoothstep(-1, 1, along) * smoothstep(length + 1, length - 1, along)
    shade = np.exp(-(((off - width * 0.9) / width) ** 2)) * (off > 0) * on
    sheet.stain(0.55 * shade * (np.abs(off) < 2.6 * width), rgb(70, 62, 56))
    wide = width * (0.75 + 1.5 * np.maximum(fbm(along / 26, along * 0 + 5, 4, seed + 1), -0.2))
    flake = smoothstep(0.7, -0.7, np.abs(off + 0.9 * fbm(sheet.x / 3.5, sheet.y / 3.5, 3, seed + 2)) - wide)
    sheet.cover(0.96 * flake * on, rgb(*paper) * (1 + 0.06 * fbm(sheet.x / 2.5, sheet.y / 2.5, 2, seed + 4)[..., None]))


def torn(sheet: Sheet, inside: Array, seed: int, backing: Colour, core: float = 7.0) -> None:
    """Tear off where inside > 0 (a distance in pixels): white paper core, then whatever lies underneath."""
    jag = 5.0 * fbm(sheet.x / 22, sheet.y / 22, 5, seed, 0.6) + 1.2 * fbm(sheet.x / 3, sheet.y / 3, 2, seed + 1)
    d = inside + jag
    ridge = core * (0.75 + 0.7 * fbm(sheet.x / 16, sheet.y / 16, 4, seed + 2))
    fibre = rgb(238, 233, 222) * (0.96 + 0.09 * fbm(sheet.x / 2.2, sheet.y / 4, 3, seed + 3)[..., None])
    sheet.cover(smoothstep(-0.7, 0.7, d), fibre)
    beyond = d - np.maximum(ridge, 1.5)
    table = rgb(*backing) * (1 + 0.10 * fbm(sheet.x / 14, sheet.y / 2.5, 4, seed + 4)[..., None])
    shadow = 1 - 0.5 * np.exp(-np.maximum(beyond, 0) / 5)
    sheet.cover(smoothstep(-0.6, 0.6, beyond), table * shadow[..., None])


def marker(sheet: Sheet, lines: Sequence[Sequence[Point]], colour: Colour, width: float) -> None:
    """Scribble with a felt pen along control points given as fractions of the size."""
    w, h = sheet.size
    for points in lines:
        knots = np.array(points) * (w, h)
        t = np.linspace(0, len(knots) - 1, 40 * len(knots))
        path = np.stack([np.interp(t, np.arange(len(knots)), knots[:, c]) for c in (0, 1)], 1)
        path = smooth_path(path, 260)
        ink = strokes(w, h, [([(float(a), float(b)) for a, b in path], width)])
        dry = 1 - 0.35 * smoothstep(0.25, 0.6, fbm(sheet.x / 3, sheet.y / 26, 3, 1201))
        sheet.cover(ink * 0.93 * dry, rgb(*colour))


def impact(sheet: Sheet, centre: Point, reach: float, spokes: int) -> None:
    """Break the glass: a small hole, cracks running out of it, a few joining them."""
    w, h = sheet.size
    cx, cy = centre[0] * w, centre[1] * h
    lines: list[tuple[list[Point], float]] = []
    ends: list[list[Point]] = []
    for k in range(spokes):
        angle = (k + sheet.rng.uniform(-0.3, 0.3)) * 2 * math.pi / spokes
        path, x, y = [(cx, cy)], cx, cy
        for _ in range(int(reach * sheet.rng.uniform(0.5, 1.0) / 9)):
            angle += sheet.rng.normal(0, 0.09)
            x, y = x + 9 * math.cos(angle), y + 9 * math.sin(angle)
            path.append((x, y))
        ends.append(path)
        lines += [(path[i : i + 2], 2.0 - 1.2 * i / len(path)) for i in range(len(path) - 1)]
    for k in range(spokes):
        a, b = ends[k], ends[(k + 1) % spokes]
        level = int(sheet.rng.integers(2, 5))
        if len(a) > level and len(b) > level:
            lines.append(([a[level], b[level]], 1.0))
    crack = strokes(w, h, lines)
    sheet.cover(np.roll(crack, (1, 1), (0, 1)) * 0.8, rgb(18, 18, 22))
    sheet.cover(crack * 0.9, rgb(236, 240, 244))
    hole = blob(sheet, centre, 15, 0.7, 1301)
    sheet.cover(smoothstep(-0.5, 2.0, hole), rgb(240, 244, 246))
    sheet.cover(smoothstep(2.0, 3.4, hole), rgb(14, 15, 20))
