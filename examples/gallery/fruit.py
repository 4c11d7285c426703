"""Still life: a small ray tracer for fruit on a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gallery.noise import (
    SUPERSAMPLING,
    Array,
    Colour,
    Point,
    blur,
    fbm,
    film_curve,
    lattice,
    mix,
    noise,
    pixels,
    ramp,
    rgb,
    shrink,
    smoothstep,
    strokes,
    unit,
)


@dataclass
class Fruit:
    """A fruit: a ball whose radius varies with the angle from its (tilted) stalk."""

    kind: str
    centre: Colour
    size: float
    axis: Colour = (0.0, 1.0, 0.0)
    seed: int = 0

    def bound(self) -> float:
        """Radius of a ball that surely holds the whole fruit."""
        return self.size * {"pear": 1.66, "lemon": 1.42, "apple": 1.12}.get(self.kind, 1.01)

    def local(self, points: Array) -> tuple[Array, Array, Array]:
        """Height along the stalk, distance from it, and angle around it, in units of size."""
        axis = unit(self.axis)
        side = unit(np.cross(axis, [0.31, 0.2, 0.93]))
        q = (points - np.asarray(self.centre, np.float32)) / self.size
        a, b = q @ side, q @ np.cross(axis, side).astype(np.float32)
        return q @ axis, np.sqrt(a * a + b * b), np.arctan2(b, a)

    def distance(self, points: Array) -> Array:
        """Approximate signed distance to the skin."""
        h, r, around = self.local(points)
        if self.kind == "apple":
            wide = 0.62 + 0.02 * np.cos(5 * around) * smoothstep(-0.2, -0.9, h)
            d = np.hypot(r - wide * (1 - 0.10 * np.clip(-h, 0, 1)), h * 0.98) - 0.56 + 0.06 * h
            d = np.minimum(d, np.hypot(r, h * 1.25) - 0.52)
        elif self.kind == "pear":
            low, high = np.hypot(r, h) - 0.95, np.hypot(r, h - 1.05) - 0.47
            k = np.clip(0.5 + 0.5 * (high - low) / 0.75, 0, 1)
            d = high + (low - high) * k - 0.75 * k * (1 - k)
            d = d + 0.02 * np.cos(3 * around + 1) * smoothstep(0.9, -0.4, h)
        elif self.kind == "lemon":
            body = np.sqrt(r * r + (h * 0.80) ** 2) - 0.95
            tip = np.hypot(r, np.abs(h) - 1.16) - 0.10
            k = np.clip(0.5 + 0.5 * (tip - body) / 0.34, 0, 1)
            d = tip + (body - tip) * k - 0.34 * k * (1 - k)
        else:
            d = np.hypot(r, h * (1.05 if self.kind == "orange" else 1.0)) - 0.98
        return d * self.size

    def skin(self, points: Array, normal: Array) -> tuple[Array, Array, float]:
        """Colour, dented normal and gloss of the skin."""
        h, r, around = self.local(points)
        scaled = (points - np.asarray(self.centre, np.float32)) / self.size
        spot = fbm(scaled[:, 0] * 9 + self.seed, scaled[:, 1] * 9 + scaled[:, 2] * 7, 4, 900 + self.seed)
        if self.kind in ("orange", "lemon"):
            grain = 26.0 if self.kind == "orange" else 19.0
            u, v = around * grain * 0.55 * np.maximum(r, 0.3), h * grain
            _, du, dv = noise(u, v, 917)
            side = unit(np.cross(normal, unit(self.axis)))
            normal = unit(normal + 0.055 * (du[:, None] * side + dv[:, None] * np.cross(side, normal)))
            base = (
                (rgb(238, 122, 22), rgb(250, 150, 40))
                if self.kind == "orange"
                else (rgb(240, 190, 38), rgb(250, 216, 74))
            )
            return mix(base[0] ** 2.2, base[1] ** 2.2, np.clip(0.5 + 0.9 * spot, 0, 1)), normal, 0.55
        if self.kind == "apple":
            streak = fbm(around * 13, h * 1.1 + r, 5, 930 + self.seed, 0.65)
            blush = smoothstep(-0.75, 0.55, normal @ unit([-0.5, 0.12, -0.5]) + 0.95 * streak + 0.25 * spot)
            fleck = smoothstep(0.62, 0.80, fbm(around * 16, h * 15, 2, 940 + self.seed))
            colour = mix(rgb(214, 178, 66) ** 2.2, rgb(158, 20, 26) ** 2.2, blush)
            colour = mix(colour, rgb(236, 200, 130) ** 2.2, 0.5 * fleck)
            hollow = smoothstep(0.34, 0.06, r) * (h > 0)
            return mix(colour, rgb(120, 118, 40) ** 2.2, 0.8 * hollow), normal, 0.9
        if self.kind == "pear":
            rust = smoothstep(0.1, 0.6, spot + 0.5 * smoothstep(0.8, 1.4, h) + 0.6 * smoothstep(-0.6, -1.0, h))
            blush = smoothstep(0.0, 0.9, normal @ unit([0.75, 0.1, -0.55]) + 0.3 * spot)
            fleck = smoothstep(0.40, 0.62, fbm(around * 24, h * 22, 2, 950))
            colour = mix(rgb(188, 190, 62) ** 2.2, rgb(206, 112, 50) ** 2.2, 0.75 * blush)
            return mix(colour, rgb(136, 104, 50) ** 2.2, np.clip(0.55 * rust + 0.4 * fleck, 0, 1)), normal, 0.5
        bloom = smoothstep(-0.7, 0.9, 0.8 * spot + 0.5 * normal[:, 1])
        return mix(rgb(62, 10, 44) ** 2.2, rgb(112, 96, 128) ** 2.2, 0.5 * bloom), normal, 0.8


def still_life(rng: np.random.Generator) -> list[Fruit]:
    """Arrange the fruit on a table whose top is the plane y = 0."""
    fruit = [
        Fruit("pear", (-0.62, 0.88, 0.42), 0.93, (0.06, 1.0, 0.04), 1),
        Fruit("apple", (0.72, 0.62, 0.62), 0.76, (0.18, 1.0, -0.22), 2),
        Fruit("orange", (-1.98, 0.62, 0.35), 0.66, (0.5, 0.8, -0.5), 3),
        Fruit("apple", (2.12, 0.58, -0.02), 0.70, (0.42, 0.86, -0.30), 4),
        Fruit("lemon", (-1.30, 0.43, -0.88), 0.46, (0.93, 0.02, -0.34), 5),
        Fruit("lemon", (2.95, 0.44, 0.86), 0.47, (0.62, 0.04, 0.72), 6),
    ]
    placed: list[Array] = []
    for _ in range(4000):
        spot = np.array([rng.normal(0.62, 0.42), 0.0, rng.normal(-0.72, 0.23)])
        size = rng.uniform(0.165, 0.205)
        spot[1] = size
        for other in placed:
            beside, touch = math.dist(spot[[0, 2]], other[[0, 2]]), 0.96 * (size + other[3])
            if beside < touch:
                spot[1] = max(spot[1], other[1] + math.sqrt(touch**2 - beside**2))
        free = all(np.linalg.norm(spot - other[:3]) > 0.93 * (size + other[3]) for other in placed)
        clear = all(np.linalg.norm(spot - np.array(f.centre)) > f.size * 0.98 + size for f in fruit[:6])
        reach = np.hypot((spot[0] - 0.62) / 0.95, (spot[2] + 0.72) / 0.45)
        if free and clear and reach < 1 and spot[1] < 0.74 - 0.4 * reach:
            placed.append(np.array([*spot, size]))
        if len(placed) == 26:
            break
    for index, grape in enumerate(placed):
        fruit.append(
            Fruit("grape", (float(grape[0]), float(grape[1]), float(grape[2])), float(grape[3]), seed=20 + index)
        )
    return fruit


def cast(fruit: list[Fruit], origin: Array, ray: Array, span: float = 30.0) -> tuple[Array, Array]:
    """March rays to the nearest fruit: (distance, fruit index or -1)."""
    nearest = np.full(len(ray), span, np.float32)
    which = np.full(len(ray), -1, np.int32)
    for index, item in enumerate(fruit):
        to = np.asarray(item.centre, np.float32) - origin
        along = np.einsum("ij,ij->i", to, ray)
        gap = item.bound() ** 2 - (np.einsum("ij,ij->i", to, to) - along**2)
        alive = np.nonzero((gap > 0) & (along > 0) & (along - np.sqrt(np.maximum(gap, 0)) < nearest))[0]
        t = np.maximum(along[alive] - np.sqrt(gap[alive]), 0.0)
        for _ in range(64):
            if not len(alive):
                break
            d = item.distance(origin[alive] + ray[alive] * t[:, None])
            t = t + 0.8 * d
            done = d < 0.0012
            hit = alive[done & (t < nearest[alive])]
            nearest[hit], which[hit] = t[done & (t < nearest[alive])], index
            keep = ~done & (t < along[alive] + item.bound())
            alive, t = alive[keep], t[keep]
    return nearest, which


def visible_light(fruit: list[Fruit], points: Array, lamp: Array, spread: float) -> Array:
    """How much of a round lamp each point sees past the fruit, taking fruit as one or two balls."""
    to = lamp - points
    ray = unit(to)
    light = np.ones(len(points), np.float32)
    for item in fruit:
        balls = [(np.asarray(item.centre, np.float32), item.size * (0.93 if item.kind != "grape" else 0.98))]
        if item.kind == "pear":
            balls.append((balls[0][0] + unit(item.axis) * item.size * 1.0, item.size * 0.5))
        for centre, radius in balls:
            away = centre - points
            along = np.einsum("ij,ij->i", away, ray)
            miss = np.sqrt(np.maximum(np.einsum("ij,ij->i", away, away) - along**2, 0))
            edge = (miss - radius) / np.maximum(along, 1e-3) / spread
            light = np.where(along > radius * 0.25, np.minimum(light, smoothstep(-1.0, 1.0, edge)), light)
    return light


def openness(fruit: list[Fruit], points: Array, normal: Array, skip: Array) -> Array:
    """Ambient light that reaches each point between the fruit and the table."""
    free = np.ones(len(points), np.float32)
    for index, item in enumerate(fruit):
        away = np.asarray(item.centre, np.float32) - points
        far = np.linalg.norm(away, axis=1) / (item.size * 0.96)
        facing = np.einsum("ij,ij->i", away, normal) / np.maximum(far * item.size * 0.96, 1e-4)
        free *= np.where(skip == index, 1, 1 - np.clip(facing, 0, 1) * np.clip(1 / np.maximum(far, 1) ** 2, 0, 1))
    floor = 0.5 + 0.5 * normal[:, 1]
    low = np.exp(-np.maximum(points[:, 1], 0) / 0.35) * (skip >= 0)
    return free * (1 - 0.6 * low * (1 - floor))


LAMP = np.array([-6.2, 4.6, -2.6], np.float32)


def light_fruit(fruit: list[Fruit], points: Array, ray: Array, which: Array) -> Array:
    """Colour of fruit skin under a window on the left and dim light from the room."""
    colour = np.zeros_like(points)
    for index, item in enumerate(fruit):
        mine = which == index
        if not mine.any():
            continue
        p, e = points[mine], 0.004 * item.size
        slope = [item.distance(p + o) - item.distance(p - o) for o in np.eye(3, dtype=np.float32) * e]
        base, normal, gloss = item.skin(p, unit(np.stack(slope, -1)))
        lamp = unit(LAMP - p)
        facing = np.einsum("ij,ij->i", normal, lamp)
        seen = visible_light([f for f in fruit if f is not item], p + normal * 0.01, LAMP, 0.20)
        wrapped = np.clip((facing + 0.18) / 1.18, 0, 1) ** 1.25 * seen
        air = openness(fruit, p, normal, which[mine])
        half = unit(lamp - ray[mine])
        shine = np.clip(np.einsum("ij,ij->i", normal, half), 0, 1)
        bright = gloss * seen * (facing > 0) * (1.1 * shine**190 + 0.12 * shine**22)
        edge = (1 - np.clip(-np.einsum("ij,ij->i", normal, ray[mine]), 0, 1)) ** 4 * gloss
        bounce = np.clip(-normal[:, 1], 0, 1) * np.exp(-p[:, 1] / 0.5)
        glow = wrapped[:, None] * rgb(255, 236, 206) * 1.9 + air[:, None] * rgb(92, 98, 118) * 0.42
        glow = glow + (bounce * 0.35 * air)[:, None] * rgb(190, 120, 70)
        colour[mine] = (
            base * glow + bright[:, None] * rgb(255, 246, 230) + (edge * air * 0.16)[:, None] * rgb(170, 180, 200)
        )
    return colour


def table_top(x: Array, z: Array) -> tuple[Array, Array]:
    """Colour of old oak boards and how strongly they are polished."""
    board = np.floor(z / 0.92 + 0.35)
    shift = board * 7.31
    ring = fbm(x * 0.55 + shift, z * 3.2 + shift, 4, 971) * 3.2 + z * 5
    vein = 0.5 + 0.5 * np.sin(ring * 5.0 + 2.2 * fbm(x * 0.8 + shift, z * 5, 3, 972))
    pore = smoothstep(0.15, 0.6, fbm(x * 2.2 + shift, z * 30, 3, 973))
    tone = np.clip(
        0.50 + 0.16 * vein - 0.22 * pore + 0.12 * lattice(board, board * 0, 974) + 0.2 * fbm(x * 0.7, z, 3, 975), 0, 1
    )
    colour = ramp(tone, [(0.0, (30, 19, 14)), (0.4, (70, 44, 30)), (0.75, (112, 76, 50)), (1.0, (142, 102, 70))]) ** 2.0
    joint = np.abs((z / 0.92 + 0.35) % 1.0 - 0.5)
    gap = smoothstep(0.487, 0.497, joint + 0.003 * fbm(x * 3, z * 0, 3, 976))
    return colour * (1 - 0.85 * gap)[:, None], (0.55 + 0.3 * vein) * (1 - gap)


def back_wall(points: Array) -> Array:
    """Dim, mottled plaster with a pool of light from the window."""
    x, y = points[:, 0], points[:, 1]
    mottle = fbm(x * 0.5, y * 0.5, 6, 981) + 0.4 * fbm(x * 3, y * 3, 4, 983)
    pool = np.exp(-(((x - 1.6 + 0.35 * y) / 3.6) ** 2) - ((y - 1.9) / 2.3) ** 2)
    return (0.020 + 0.14 * pool * (1 + 0.35 * mottle) + 0.006 * mottle)[:, None] * rgb(206, 196, 160) ** 1.2


def look_at_table(fruit: list[Fruit], origin: Array, ray: Array) -> Array:
    """Colour seen along rays: fruit, the polished table with reflections, or the wall."""
    distance, which = cast(fruit, origin, ray)
    wall_z = 5.2
    table = np.where(ray[:, 1] < -1e-4, -origin[:, 1] / np.minimum(ray[:, 1], -1e-4), 1e9)
    colour = back_wall(origin + ray * ((wall_z - origin[:, 2]) / np.maximum(ray[:, 2], 1e-3))[:, None])
    hit = (which >= 0) & (distance < table)
    points = origin[hit] + ray[hit] * distance[hit][:, None]
    colour[hit] = light_fruit(fruit, points, ray[hit], which[hit])
    flat = ~hit & (table < 1e8) & (origin[:, 2] + ray[:, 2] * table < 3.1)
    p, r = origin[flat] + ray[flat] * table[flat][:, None], ray[flat]
    if len(p):
        wood, polish = table_top(p[:, 0], p[:, 2])
        up = np.broadcast_to(np.array([0, 1, 0], np.float32), p.shape)
        lamp = LAMP - p
        fall = 46 / np.einsum("ij,ij->i", lamp, lamp)
        seen = visible_light(fruit, p, LAMP, 0.15) * unit(lamp)[:, 1] * fall
        air = openness(fruit, p, up, np.full(len(p), -1)) ** 1.3
        colour[flat] = wood * (seen[:, None] * rgb(255, 236, 206) * 1.9 + air[:, None] * rgb(92, 98, 118) * 0.45)
        mirror = r * np.array([1, -1, 1], np.float32)
        near, other = cast(fruit, p, mirror, 6.0)
        seen_too = back_wall(p + mirror * ((wall_z - p[:, 2]) / np.maximum(mirror[:, 2], 1e-3))[:, None])
        up_hit = other >= 0
        q = p[up_hit] + mirror[up_hit] * near[up_hit][:, None]
        seen_too[up_hit] = light_fruit(fruit, q, mirror[up_hit], other[up_hit])
        fresnel = np.exp(-near / 2.0) * (0.02 + 0.42 * (1 - np.clip(mirror[:, 1], 0, 1)) ** 4) * polish
        colour[flat] += fresnel[:, None] * seen_too
    return colour


def stalks(width: int, height: int, fruit: list[Fruit], project: Callable[[Array], Point]) -> Array:
    """Coverage of the little woody stalks of the pear and the upright apple."""
    lines = []
    for item, low, high, lean in (
        (fruit[0], 1.44, 1.86, 0.12),
        (fruit[1], 0.34, 0.92, -0.14),
        (fruit[3], 0.34, 0.86, 0.16),
    ):
        axis, centre = unit(item.axis), np.asarray(item.centre)
        side = np.array([lean, 0, 0])
        path = [
            project(centre + item.size * (axis * (low + (high - low) * t) + side * t * t))
            for t in np.linspace(0, 1, 12).tolist()
        ]
        lines += [(path, 10.0), (path[9:], 14.0)]
    return strokes(width, height, lines, 2)


def paint_fruit(seed: int) -> Array:
    """Ray trace the still life."""
    width, height = 768 * SUPERSAMPLING, 512 * SUPERSAMPLING
    rng = np.random.default_rng([seed, 4])
    fruit = still_life(rng)
    eye, target, zoom = np.array([0.35, 2.9, -8.4], np.float32), np.array([0.42, 0.78, 0.3], np.float32), 3.25
    ahead = unit(target - eye)
    right = unit(np.cross([0, 1, 0], ahead))
    above = np.cross(ahead, right)
    x, y = pixels(width, height)
    u, v = (2 * x - width) / height, (height - 2 * y) / height
    rays = unit(u[..., None] * right + v[..., None] * above + zoom * ahead).reshape(-1, 3)
    picture = np.zeros((height * width, 3), np.float32)
    for start in range(0, len(rays), 1 << 18):
        part = rays[start : start + (1 << 18)]
        picture[start : start + len(part)] = look_at_table(fruit, np.broadcast_to(eye, part.shape), part)
    picture = picture.reshape(height, width, 3)

    def project(point: Array) -> Point:
        d = point - eye
        s = zoom / float(d @ ahead)
        return width / 2 + float(d @ right) * s * height / 2, height / 2 - float(d @ above) * s * height / 2

    stalk = stalks(width, height, fruit, project)
    bark = 0.6 + 0.5 * fbm(x / 5, y / 14, 3, 991)[..., None]
    shadow = np.roll(stalk, -3, axis=1)[..., None]
    picture = mix(picture, bark * mix(rgb(128, 92, 54) ** 2.2, rgb(46, 30, 20) ** 2.2, shadow[..., 0] * 0.8), stalk)
    picture += 0.06 * blur(np.minimum(np.maximum(picture - 0.6, 0), 2), 14)
    vignette = 1 - 0.40 * smoothstep(0.5, 1.15, np.hypot(u * 0.62, v))
    out = film_curve(picture * vignette[..., None] * 1.0)
    return shrink(out + rng.normal(0, 0.005, (height, width, 1)))
