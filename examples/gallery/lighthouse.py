"""Lighthouse: an old black and white print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gallery.landscape import View, clouds
from gallery.noise import (
    SUPERSAMPLING,
    Array,
    Point,
    blur,
    eroded,
    fbm,
    pixels,
    polygons,
    shrink,
    smoothstep,
    strokes,
    unit,
)


def headland(x: Array, z: Array, octaves: int = 9) -> Array:
    """Height of the rocky point that the lighthouse stands on, with a few skerries off it."""
    wobble = 0.35 * fbm(x * 1.1 + 9, z * 1.1, 4, 301)
    point = (
        smoothstep(0.0, 1.5, x + 0.18 * (z - 4) + wobble) * smoothstep(2.5, 3.7, z + wobble) * smoothstep(9.5, 6.0, z)
    )
    skerry = np.exp(-(((x + 0.35) / 0.32) ** 2) - ((z - 3.9) / 0.3) ** 2) + 0.9 * np.exp(
        -(((x + 1.45) / 0.22) ** 2) - ((z - 4.8) / 0.3) ** 2
    )
    crag = eroded(x * 1.9 + 2.0, z * 1.9, octaves, 311)
    return point * (0.22 + 0.30 * crag) + 0.16 * skerry * (0.5 + crag) - 0.075


def rock_tone(x: Array, z: Array) -> Array:
    """Brightness of rock and turf, lit from the upper left."""
    e = 0.0035 * z
    h = headland(x, z)
    normal = unit(
        np.stack([headland(x - e, z) - headland(x + e, z), 2 * e, headland(x, z - e) - headland(x, z + e)], -1)
    )
    grain = fbm(x * 22, z * 22, 4, 331)
    lit = np.clip(normal @ unit([-0.75, 0.62, -0.35]), 0, 1)
    turf = smoothstep(0.75, 0.9, normal[..., 1] + 0.1 * grain) * smoothstep(0.14, 0.24, h)
    tone = (0.30 + 0.10 * grain) * (1 - turf) + (0.24 + 0.08 * grain) * turf
    wet = smoothstep(0.07, 0.0, h + 0.02 * grain)
    return tone * (0.10 + 1.65 * lit**1.3) * (1 - 0.55 * wet)


def grey_sea(width: int, height: int, horizon: float, sky: Array, land: Array) -> Array:
    """Sea under a bright, broken sky, with swell, glitter and surf around the rocks."""
    x, y = pixels(width, height)
    below = np.maximum(y - horizon, 0.5)
    depth = 150 / (below + 6)
    u = (x - width / 2) / 180 * depth
    swell = fbm(u * 0.9 + 0.2 * depth, depth * 5.0, 5, 351, 0.6)
    chop = fbm(u * 3.6, depth * 15.0, 4, 361, 0.6)
    near = smoothstep(0, height - horizon, below)
    tone = 0.36 - 0.20 * near + 0.13 * swell + 0.14 * chop * (0.4 + near)
    glitter = np.exp(-((x / width - 0.24) ** 2) / 0.03) * smoothstep(0.08, 0.5, chop + 0.5 * swell)
    tone += glitter * (0.42 - 0.25 * near)
    fine = fbm(u * 14, depth * 60, 3, 365)
    crest = smoothstep(0.35, 0.75, 0.6 * swell + 0.7 * chop + 0.35 * fine) * smoothstep(0.1, 0.5, near)
    tone = tone + 0.36 * crest + 0.05 * fine
    surf = blur(land, 9) * 1.5 + blur(land, 26) * 0.9
    foam = smoothstep(0.28, 0.75, surf + 0.42 * fbm(x / 16, y / 6, 5, 371))
    tone = tone * (1 - foam) + (0.72 + 0.2 * fbm(x / 5, y / 3, 3, 381)) * foam
    far = np.exp(-below / 16)
    tone = tone * (1 - 0.55 * far) + 0.55 * far * sky[int(horizon) - 3].mean()
    return np.where(y > horizon, tone, sky)


@dataclass
class Tower:
    """Where the lighthouse stands and how large it is, in canvas pixels."""

    x: float
    base: float
    tall: float

    @property
    def top(self) -> float:
        """Row where the masonry ends and the gallery begins."""
        return self.base - self.tall * 0.80

    def half_width(self, y: Array) -> Array:
        """Half the width of the tapering tower at a row."""
        t = np.clip((self.base - y) / (self.base - self.top), 0, 1)
        return self.tall * (0.115 - 0.050 * t**0.75)


def paint_tower(grey: Array, tower: Tower) -> Array:
    """Paint the lighthouse over a grey picture."""
    height, width = grey.shape
    x, y = pixels(width, height)
    cx, size = tower.x, tower.tall

    def lay(cover: Array, tone: Any) -> None:
        nonlocal grey
        grey = grey * (1 - cover) + tone * cover

    def box(left: float, top: float, right: float, bottom: float) -> Array:
        soft = np.clip(np.minimum(x - cx - left, right - x + cx) + 0.5, 0, 1)
        return soft * np.clip(np.minimum(y - top, bottom - y) + 0.5, 0, 1)

    def round_light(half: Any) -> Array:
        u = np.clip((x - cx) / half, -1, 1)
        return 0.30 + 0.74 * np.clip(-0.62 * u + 0.62 * np.sqrt(1 - u * u), 0, 1)

    half = tower.half_width(y)
    body = np.clip(half - np.abs(x - cx) + 0.5, 0, 1) * np.clip(y - tower.top, 0, 1) * np.clip(tower.base - y, 0, 1)
    stain = fbm((x - cx) / 9, y / 60, 4, 401) * 0.07 + fbm(x / 4, y / 4, 3, 402) * 0.03
    curve = 0.10 * half * (1 - ((x - cx) / np.maximum(half, 1)) ** 2)
    t = (tower.base - y + curve) / (tower.base - tower.top)
    band = smoothstep(0.262, 0.268, t) * smoothstep(0.478, 0.472, t) + smoothstep(0.692, 0.698, t) * smoothstep(
        0.888, 0.882, t
    )
    lay(body, (0.93 * (1 - band) + 0.24 * band + stain) * round_light(half))
    for at, wide in ((0.12, 0.020), (0.40, 0.013), (0.58, 0.012), (0.80, 0.011)):
        mid = tower.base - at * (tower.base - tower.top)
        lay(box(-size * wide * 1.5, mid - size * 0.029, size * wide * 1.1, mid + size * 0.024), 0.62)
        lay(box(-size * wide, mid - size * 0.024, size * wide * 0.9, mid + size * 0.022), 0.07)
    lay(box(-size * 0.024, tower.base - size * 0.075, size * 0.024, tower.base), 0.10)
    deck = tower.top
    for grow, lift, thick in ((0.076, 0.0, 0.014), (0.092, 0.014, 0.012)):
        lay(
            box(-size * grow, deck - size * (lift + thick), size * grow, deck - size * lift),
            0.42 * round_light(size * grow),
        )
    rail = deck - size * 0.026
    lamp = box(-size * 0.044, rail - size * 0.098, size * 0.044, rail)
    lay(
        lamp,
        0.30 + 0.55 * np.exp(-(((x - cx) / (size * 0.020)) ** 2) - ((y - rail + size * 0.05) / (size * 0.035)) ** 2),
    )
    for k in range(-3, 4):
        at = size * 0.044 * math.sin(k / 3 * 1.45)
        lay(box(at - 1.2, rail - size * 0.098, at + 1.2, rail), 0.12)
    lay(box(-size * 0.046, rail - size * 0.055, size * 0.046, rail - size * 0.051), 0.13)
    roof = rail - size * 0.098
    rise = np.clip((roof - y) / (size * 0.058), 0, 1)
    dome = (
        np.clip(size * 0.054 * np.sqrt(np.clip(1 - rise**2, 0, 1)) - np.abs(x - cx) + 0.5, 0, 1)
        * (y <= roof)
        * (rise < 1)
    )
    lay(dome, 0.30 * round_light(size * 0.054) + 0.04)
    lay(box(-size * 0.056, roof - 2, size * 0.056, roof + 3), 0.16)
    ball = np.clip(size * 0.011 - np.hypot(x - cx, y - roof + size * 0.066) + 0.5, 0, 1)
    lay(ball, 0.2)
    lay(box(-1.0, roof - size * 0.125, 1.0, roof - size * 0.06), 0.15)
    for k in range(-6, 7):
        at = size * 0.088 * math.sin(k / 6 * 1.5)
        lay(box(at - 0.8, rail - size * 0.040, at + 0.8, rail), 0.16)
    for level in (0.040, 0.022):
        lay(box(-size * 0.089, rail - size * level - 0.9, size * 0.089, rail - size * level + 0.9), 0.16)
    return grey


def paint_cottage(grey: Array, left: float, base: float, size: float) -> Array:
    """Paint the keeper's cottage: a gable end in the light, a long roof, chimneys, windows."""
    height, width = grey.shape
    x, y = pixels(width, height)
    grain = fbm(x / 5, y / 3, 4, 451)
    slates = 0.05 * np.sin(y * 1.35 + 0.4 * np.sin(x * 0.8)) + 0.05 * grain

    def at(px: float, py: float) -> Point:
        return left + px * size, base - py * size

    def lay(shape: Sequence[Point], tone: Any) -> None:
        nonlocal grey
        cover = polygons(width, height, [[at(*corner) for corner in shape]])
        grey = grey * (1 - cover) + tone * cover

    lay([(0.55, 0.0), (2.1, 0.0), (2.1, 0.52), (0.55, 0.52)], 0.42 + 0.05 * grain)
    for px in (0.48, 2.0):
        lay([(px - 0.07, 0.75), (px + 0.07, 0.75), (px + 0.07, 1.18), (px - 0.07, 1.18)], 0.36 + 0.08 * grain)
        lay([(px - 0.10, 1.14), (px + 0.10, 1.14), (px + 0.10, 1.21), (px - 0.10, 1.21)], 0.22)
    lay([(0.27, 1.02), (2.02, 1.02), (2.2, 0.46), (0.58, 0.46)], 0.22 + slates)
    lay([(0.0, 0.0), (0.55, 0.0), (0.55, 0.5), (0.275, 1.0), (0.0, 0.5)], 0.80 + 0.05 * grain)
    lay([(-0.05, 0.44), (0.275, 1.06), (0.60, 0.44), (0.55, 0.42), (0.275, 0.95), (0.0, 0.42)], 0.17)
    for px in (0.19, 0.80, 1.22, 1.64):
        lay([(px - 0.02, 0.13), (px + 0.19, 0.13), (px + 0.19, 0.41), (px - 0.02, 0.41)], 0.62)
        lay([(px, 0.15), (px + 0.17, 0.15), (px + 0.17, 0.39), (px, 0.39)], 0.08)
        lay([(px + 0.078, 0.15), (px + 0.095, 0.15), (px + 0.095, 0.39), (px + 0.078, 0.39)], 0.6)
        lay([(px, 0.262), (px + 0.17, 0.262), (px + 0.17, 0.28), (px, 0.28)], 0.6)
    return grey


def paint_rigging(grey: Array, horizon: float, rng: np.random.Generator) -> Array:
    """Put a two-masted ship on the horizon and some gulls in the air."""
    height, width = grey.shape
    x0, s = 0.155 * width, height * 0.1
    hull = [(-0.62, -0.10), (0.70, -0.13), (0.55, 0.03), (-0.5, 0.03)]
    sails = [
        [(-0.28, -0.16), (-0.30, -0.92), (-0.78, -0.2)],
        [(-0.22, -0.16), (-0.24, -0.95), (0.10, -0.24)],
        [(0.18, -0.16), (0.16, -0.80), (0.62, -0.20)],
        [(0.66, -0.15), (0.2, -0.76), (1.0, -0.2)],
    ]
    cover = polygons(width, height, [[(x0 + px * s, horizon + py * s + 2) for px, py in hull]])
    grey = grey * (1 - cover) + 0.14 * cover
    cover = polygons(width, height, [[(x0 + px * s, horizon + py * s + 2) for px, py in sail] for sail in sails])
    shade = 0.72 + 0.3 * fbm(pixels(width, height)[0] / 12, pixels(width, height)[1] / 30, 2, 471)
    grey = grey * (1 - 0.95 * cover) + shade * 0.95 * cover
    lines: list[tuple[list[Point], float]] = []
    for _ in range(9):
        gx, gy, span = rng.normal(0.42, 0.10) * width, rng.uniform(0.16, 0.46) * height, rng.uniform(6, 15)
        dip, tilt = rng.uniform(0.15, 0.5), rng.normal(0, 0.25)
        wing = [(t, -dip * math.sin(abs(t) * 2.3) + tilt * t) for t in np.linspace(-1, 1, 13).tolist()]
        lines.append(([(gx + px * span, gy + py * span) for px, py in wing], 1.7))
    birds = strokes(width, height, lines)
    return grey * (1 - 0.8 * birds) + 0.10 * birds


def paint_lighthouse(seed: int) -> Array:
    """Print an old photograph of a lighthouse: soft lens, faded blacks, vignette, grain and a white border."""
    width, height = 768 * SUPERSAMPLING, 512 * SUPERSAMPLING
    rng = np.random.default_rng([seed, 2])
    horizon = 0.645 * height
    x, y = pixels(width, height)
    rise = (horizon - y) / height
    opacity, lit = clouds(x / width, rise, 640, (0.2, 0.42), -0.22)
    sky = 0.50 + 0.22 * smoothstep(0.4, 0.0, rise) - 0.16 * smoothstep(0.2, 0.65, rise)
    opacity = opacity * smoothstep(-0.02, 0.10, rise)
    sky = sky * (1 - opacity) + (0.42 + 0.52 * lit) * opacity
    view = View(width, height, horizon, 1.2 * height, 0.30, 2.0, 12.0)
    found, wx, wz = view.look(headland)
    above = np.zeros_like(sky)
    above[found] = headland(wx[found], wz[found])
    land = (found & (above > 0)).astype(np.float32)
    grey = grey_sea(width, height, horizon, sky, land)
    solid = land > 0
    rock = rock_tone(wx[solid], wz[solid])
    grey[solid] = rock
    foot = int(0.72 * width)
    ground = float(np.argmax(solid[:, foot]))
    grey = paint_cottage(grey, 0.755 * width, ground + 0.036 * height, 0.083 * height)
    grey = paint_tower(grey, Tower(foot, ground + 0.03 * height, 0.51 * height))
    front = solid & (y > ground + 0.012 * height + 6 * fbm(x / 14, y * 0, 4, 491))
    grey[front] = rock[front[solid]]
    grey = paint_rigging(grey, horizon, rng)
    grey = blur(grey, 1.1) + 0.16 * blur(np.maximum(grey - 0.6, 0), 14)
    dark = 1 - 0.42 * smoothstep(0.35, 0.85, np.hypot((x / width - 0.5) * 1.1, y / height - 0.5))
    grey = 0.075 + 0.84 * smoothstep(-0.16, 1.06, grey * dark)
    inset = 15 * SUPERSAMPLING
    edge = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y)) - inset
    grey = np.where(edge > 0, grey + 0.075 * blur(rng.normal(0, 1, grey.shape).astype(np.float32), 1.1), 0.90)
    grey = grey + 0.012 * fbm(x / 90, y / 90, 4, 495)
    return shrink(grey)
