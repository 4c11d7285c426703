"""Mountain lake at dusk."""

from __future__ import annotations

import numpy as np

from gallery.landscape import View, clouds, conifer
from gallery.noise import (
    SUPERSAMPLING,
    Array,
    Point,
    blur,
    eroded,
    fbm,
    film_curve,
    mix,
    noise,
    pixels,
    polygons,
    ramp,
    rgb,
    sample,
    shrink,
    smoothstep,
    unit,
)


def alps(x: Array, z: Array, octaves: int = 9) -> Array:
    """Height of the ground around the lake."""
    peaks = 2.0 * np.exp(-(((x + 1.7) / 2.3) ** 2) - ((z - 10.5) / 3.2) ** 2)
    peaks += 1.5 * np.exp(-(((x - 3.6) / 2.0) ** 2) - ((z - 9.5) / 2.6) ** 2)
    peaks += 0.8 * np.exp(-(((x + 5.6) / 1.7) ** 2) - ((z - 8.0) / 2.5) ** 2)
    peaks += 1.15 * np.exp(-(((x - 1.2) / 3.0) ** 2) - ((z - 17) / 3.5) ** 2)
    rough = eroded(x * 0.62 + 3.7, z * 0.62 + 1.4, octaves, 11)
    shore = smoothstep(4.2, 6.4, z + 0.55 * fbm(x * 1.3, z * 0.9, 4, 77))
    land = shore * (0.10 + peaks * (0.42 + 0.95 * rough) + 0.16 * rough)
    if octaves > 7:
        forest = smoothstep(0.62, 0.30, land) * smoothstep(0.005, 0.04, land)
        land = land + forest * 0.05 * np.abs(noise(x * 26, z * 11, 5)[0])
    return land - 0.03 * (1 - shore)


def mountain_colour(x: Array, z: Array, sun: Array, haze: Array) -> Array:
    """Light the mountains: forest, rock and snow, warm sun against blue shade, and the air in between."""
    e = 0.004 * z
    h = alps(x, z)
    normal = unit(np.stack([alps(x - e, z) - alps(x + e, z), 2 * e, alps(x, z - e) - alps(x, z + e)], axis=-1))
    grain = fbm(x * 14, z * 14, 4, 31)
    flat = normal[..., 1]
    snow = smoothstep(0.55, 0.95, h + 0.16 * grain + 0.12 * normal[..., 0]) * smoothstep(
        0.42, 0.62, flat + 0.05 * grain
    )
    wood = smoothstep(0.52, 0.32, h + 0.1 * grain) * smoothstep(0.35, 0.6, flat)
    rock = mix(rgb(96, 84, 84), rgb(134, 116, 106), 0.5 + 0.5 * grain)
    albedo = rock[...] ** 2.0
    tree = (0.5 + 0.5 * noise(x * 40, z * 14, 9)[0])[..., None]
    albedo = mix(albedo, rgb(30, 46, 46) ** 2.0 * (0.3 + 1.2 * tree), wood)
    albedo = mix(albedo, rgb(232, 236, 246) ** 2.0, snow)
    lit = np.clip(normal @ sun, 0, 1)
    lit *= shadowed(x, z, h, sun)
    light = (
        lit[:, None] * rgb(255, 168, 104) ** 2.0 * 2.5
        + (0.35 + 0.65 * flat[:, None]) * rgb(112, 128, 190) ** 2.0 * 0.95
    )
    air = 1 - np.exp(-np.maximum(z - 3.0, 0) * 0.052 * np.exp(-np.maximum(h, 0) * 0.75))
    return mix(albedo * light, haze, air)


def shadowed(x: Array, z: Array, h: Array, sun: Array) -> Array:
    """How much of the sun reaches each point over the surrounding ridges."""
    clear = np.ones_like(h)
    for step in (0.06, 0.14, 0.26, 0.45, 0.75, 1.2, 1.8):
        rise = h + sun[1] * step - alps(x + sun[0] * step, z + sun[2] * step, 5)
        clear = np.minimum(clear, smoothstep(-0.05, 0.06, rise / (0.3 + step)))
    return clear


def dusk_sky(width: int, height: int, horizon: float, sun: Point) -> Array:
    """Evening sky with high clouds lit from below, in linear light."""
    px, py = pixels(width, height)
    x, rise = px / width, (horizon - py) / height
    sky = (
        ramp(
            rise,
            [
                (0.0, (255, 206, 150)),
                (0.08, (252, 184, 136)),
                (0.2, (220, 152, 146)),
                (0.36, (138, 122, 162)),
                (0.52, (78, 92, 148)),
                (0.68, (46, 64, 116)),
            ],
        )
        ** 2.1
    )
    away = np.hypot((x - sun[0]) * width / height, (rise - sun[1]) * 1.35)
    sky += np.exp(-((away / 0.20) ** 2))[..., None] * rgb(255, 176, 90) ** 2 * 0.55
    sky += np.exp(-away / 0.34)[..., None] * rgb(255, 140, 84) ** 2 * 0.5
    opacity, lit = clouds(x, rise, 4, sun, 0.02)
    opacity *= 0.9 * smoothstep(0.0, 0.12, rise)
    warm = np.exp(-away / 0.55)
    bright = mix(rgb(232, 150, 150) ** 2, rgb(255, 188, 118) ** 2 * 1.35, warm)
    dark = mix(rgb(92, 92, 140) ** 2, rgb(196, 112, 108) ** 2, warm)
    return mix(sky, mix(dark, bright, lit), opacity)


def still_water(above: Array, shore: int, sun_x: float) -> Array:
    """Fill everything below the shoreline row with a rippled reflection of what stands above it."""
    height, width = above.shape[:2]
    x, y = pixels(width, height - shore)
    depth = 1 / (y / height + 0.012)
    near = smoothstep(0.0, 1.0, y / (height - shore))
    u = (x - width / 2) / height * depth
    swell = fbm(u * 2.2, depth * 9.0, 4, 21)
    chop = fbm(u * 9.0, depth * 26.0, 3, 25)
    lift = (swell * 26 + chop * 12) * (0.12 + near) * height / 1024
    mirrored = shore - 1 - y * 0.93 + lift
    glass = sample(above, x + chop * 6 * near, np.minimum(mirrored, shore - 1))
    soft = sample(blur(above, 9), x, np.minimum(mirrored, shore - 1))
    breeze = smoothstep(0.05, 0.5, fbm(u * 0.5, depth * 2.6, 4, 41)) * smoothstep(0.02, 0.2, near)
    glass = mix(glass, soft * 0.9 + 0.02, 0.6 * breeze)
    tint = mix(rgb(255, 250, 250), rgb(120, 146, 182), 0.25 + 0.75 * near)
    out = glass * tint * (0.92 - 0.25 * near[..., None])
    path = np.exp(-(((x / width - sun_x) * 3.2) ** 2)) * smoothstep(0.22, 0.6, chop + 0.4 * swell) * (1 - 0.6 * near)
    return np.concatenate([above[:shore], out + path[..., None] * rgb(255, 190, 130) ** 2 * 0.35])


def shore_trees(width: int, height: int, rng: np.random.Generator) -> Array:
    """Coverage of the dark firs, bank and reeds that frame the view."""
    shapes: list[list[Point]] = []
    for side, count, reach in ((0.0, 9, 0.22), (1.0, 5, 0.12)):
        for _ in range(count):
            offset = rng.beta(0.9, 2.0) * reach
            x = (side + (offset if side == 0 else -offset)) * width
            tall = height * (0.66 - 1.6 * offset) * rng.uniform(0.6, 1.08)
            shapes += conifer(rng, x, height * (0.955 - 0.12 * offset), max(tall, height * 0.12))
    x = np.linspace(0, width, 400)
    left = 0.16 * smoothstep(0.46, 0.0, x / width) + 0.11 * smoothstep(0.70, 1.0, x / width)
    bank = height * (1.005 - left + 0.018 * fbm(x / 60, x * 0 + 0.3, 5, 61))
    shapes.append([*zip(x.tolist(), bank.tolist(), strict=True), (width, height + 4), (0, height + 4)])
    for _ in range(420):
        at = int(rng.integers(0, 400))
        if left[at] > 0.012:
            lean, tall = rng.normal(0, 5), rng.uniform(6, 26)
            root = (float(x[at]), float(bank[at]) + 3)
            shapes.append([(root[0] - 1.3, root[1]), (root[0] + lean, root[1] - tall), (root[0] + 1.3, root[1])])
    return polygons(width, height, shapes, 2)


def paint_lake(seed: int) -> Array:
    """Mountain lake at dusk."""
    width, height = 768 * SUPERSAMPLING, 512 * SUPERSAMPLING
    rng = np.random.default_rng([seed, 1])
    horizon, sun = 0.64 * height, (0.74, 0.06)
    picture = dusk_sky(width, height, horizon, sun)
    haze = blur(picture[int(horizon) - 60 : int(horizon) - 40].mean(axis=0)[None].repeat(2, 0), 1)[0]
    view = View(width, height, horizon, 1.25 * height, 0.05, 3.0, 26.0)
    found, x, z = view.look(alps)
    shore = int(horizon + view.focal * view.camera / 5.0)
    found[shore:] = False
    columns = np.nonzero(found)[1]
    picture[found] = mountain_colour(
        x[found], z[found], unit([0.86, 0.40, -0.28]), haze[columns] * 0.8 + rgb(120, 130, 190) ** 2 * 0.2
    )
    mist_y = (pixels(width, height)[1] - shore) / height
    mist = (
        0.5 * np.exp(-((mist_y / 0.035) ** 2)) * (0.55 + 0.6 * fbm(pixels(width, height)[0] / 190, mist_y * 30, 4, 8))
    )
    picture = mix(picture, rgb(255, 200, 176) ** 2 * 0.9, np.clip(mist, 0, 1))
    picture = still_water(picture, shore, sun[0])
    front = shore_trees(width, height, rng)
    picture = mix(picture, rgb(14, 17, 26) ** 2, front)
    picture += 0.10 * blur(np.maximum(picture - 0.5, 0), 24)
    return shrink(film_curve(picture * 0.95) + rng.normal(0, 0.006, (height, width, 1)))
