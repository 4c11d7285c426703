"""Night sky: a small picture, full of points."""

from __future__ import annotations

import math

import numpy as np

from gallery.landscape import conifer
from gallery.noise import (
    SUPERSAMPLING,
    Array,
    Point,
    blur,
    fbm,
    film_curve,
    mix,
    pixels,
    polygons,
    ramp,
    rgb,
    shrink,
    smoothstep,
)


def milky_way(x: Array, y: Array) -> tuple[Array, Array]:
    """Light of the galaxy's band and the dust in front of it; x and y in picture heights."""
    across = (x - 0.62) * 0.80 + (y - 0.40) * 0.60
    along = -(x - 0.62) * 0.60 + (y - 0.40) * 0.80
    bend = 0.05 * fbm(along * 3, along * 0 + 2, 3, 601) + 0.05 * fbm(x * 5, y * 5, 4, 603)
    off = across + bend
    core = np.exp(-((off / 0.105) ** 2)) * (0.62 + 0.55 * np.exp(-(((along - 0.16) / 0.30) ** 2)))
    halo = np.exp(-((off / 0.27) ** 2))
    cloud = 0.5 + 0.5 * fbm(x * 7, y * 7, 6, 607, 0.55)
    rift = np.exp(-(((off + 0.012) / 0.045) ** 2)) * smoothstep(-0.28, 0.3, fbm(along * 5, off * 9, 5, 611))
    wisps = smoothstep(0.05, 0.5, fbm(x * 6 + 4, y * 6, 6, 613)) * halo
    return core * (0.15 + 1.5 * cloud**1.5) + 0.20 * halo, np.clip(0.92 * rift + 0.55 * wisps, 0, 1)


def star_field(width: int, height: int, band: Array, rng: np.random.Generator) -> Array:
    """Sprinkle stars, many faint and few bright, denser along the band."""
    light = np.zeros((height, width, 3), np.float32)
    tints = np.array([(0.72, 0.82, 1.0), (1.0, 1.0, 1.0), (1.0, 0.93, 0.80), (1.0, 0.80, 0.60)], np.float32)
    count = 9000
    row, col = rng.integers(0, height, count), rng.integers(0, width, count)
    keep = rng.uniform(0, 1, count) < 0.22 + 0.8 * band[row, col]
    power = 0.085 * (1 - rng.uniform(0, 1, count)) ** -0.80
    tint = tints[rng.integers(0, 4, count)]
    np.add.at(light, (row[keep], col[keep]), (np.minimum(power, 22)[:, None] * tint)[keep])
    return blur(light, 0.85) * 1.5 + blur(np.maximum(light - 5, 0), 3.0) * 2.6


def observatory(width: int, height: int) -> tuple[Array, Array]:
    """Coverage of the hill with its dome and firs, and of the lit windows and slit."""
    rng = np.random.default_rng(66)
    x = np.linspace(0, width, 300)
    hill = height * (
        0.90
        - 0.13 * np.exp(-(((x / width - 0.27) / 0.24) ** 2))
        + 0.03 * np.sin(x / width * 7 + 2.6)
        + 0.016 * fbm(x / 40, x * 0, 5, 631)
    )
    shapes: list[list[Point]] = [[*zip(x.tolist(), hill.tolist(), strict=True), (width, height), (0, height)]]
    cx, base, r = 0.27 * width, 0.775 * height, 0.105 * height
    drum = base - 0.95 * r
    shapes.append(
        [(cx - 0.93 * r, base + 12), (cx - 0.93 * r, drum), (cx + 0.93 * r, drum), (cx + 0.93 * r, base + 12)]
    )
    shapes.append(
        [(cx - 1.06 * r, drum + 3), (cx - 1.06 * r, drum - 3), (cx + 1.06 * r, drum - 3), (cx + 1.06 * r, drum + 3)]
    )
    shapes.append([(cx - r * math.cos(t), drum - r * math.sin(t)) for t in np.linspace(0, math.pi, 60).tolist()])
    low = [
        (cx - 3.1 * r, base + 64),
        (cx - 3.1 * r, base - 0.42 * r),
        (cx - 1.9 * r, base - 0.82 * r),
        (cx - 0.8 * r, base - 0.42 * r),
        (cx - 0.8 * r, base + 64),
    ]
    shapes.append(low)
    for _ in range(46):
        px = rng.uniform(0.0, 1.0) * width
        if abs(px - cx) < 1.5 * r or -3.4 * r < px - cx < 0:
            continue
        ground = float(np.interp(px, x, hill))
        shapes += conifer(rng, px, ground + 4, height * rng.uniform(0.05, 0.155))
    slit = [
        (cx + r * u, drum - r * v)
        for u, v in ((0.20, 0.22), (0.30, 0.62), (0.44, 0.885), (0.56, 0.82), (0.46, 0.55), (0.37, 0.22))
    ]
    panes = [slit]
    for wx in (-2.7, -2.15, -1.6):
        left, right, high, low_edge = cx + wx * r, cx + (wx + 0.24) * r, base - 0.3 * r, base - 0.02 * r
        panes += [[(left, high), (right, high), (right, low_edge), (left, low_edge)]]
    return polygons(width, height, shapes), polygons(width, height, panes)


def paint_night(seed: int) -> Array:
    """Milky Way over an observatory."""
    width, height = 360 * SUPERSAMPLING, 256 * SUPERSAMPLING
    rng = np.random.default_rng([seed, 6])
    px, py = pixels(width, height)
    x, y = px / height, py / height
    band, dust = milky_way(x, y)
    sky = (
        ramp(
            y,
            [
                (0.0, (12, 18, 44)),
                (0.35, (20, 34, 70)),
                (0.6, (34, 64, 96)),
                (0.78, (88, 112, 118)),
                (0.9, (206, 148, 96)),
            ],
        )
        ** 2.0
    )
    glow = mix(rgb(150, 160, 214) ** 2, rgb(255, 206, 170) ** 2, np.clip(band * 0.8, 0, 1))
    sky = sky + band[..., None] * glow * 0.52
    nebula = smoothstep(0.25, 0.7, fbm(x * 8 + 2, y * 8, 5, 641)) * np.clip(band, 0, 1)
    sky = sky + nebula[..., None] * rgb(240, 70, 120) ** 2 * 0.30
    sky = mix(sky, sky * np.array([0.34, 0.26, 0.24]), dust)
    air = smoothstep(0.45, 0.85, y) * (0.5 + 0.5 * fbm(x * 1.6, y * 7, 4, 651))
    sky = sky + air[..., None] * rgb(70, 150, 120) ** 2 * 0.18
    stars = star_field(width, height, np.clip(band, 0, 1) * (1 - 0.8 * dust), rng)
    sky = sky + stars * (1 - 0.85 * smoothstep(0.55, 0.9, y))[..., None]
    solid, lamps = observatory(width, height)
    rim = np.clip(blur(solid, 2.2) - 0.1, 0, 1) * 0.05
    picture = mix(sky, rgb(9, 11, 20) ** 2 + rim[..., None] * rgb(60, 70, 100) * 0.2, solid)
    lit = rgb(255, 186, 92) ** 2 * 2.1
    picture = mix(picture, lit, lamps) + blur(lamps, 7)[..., None] * lit * 0.30
    return shrink(film_curve(picture * 1.25) + rng.normal(0, 0.004, (height, width, 1)))
