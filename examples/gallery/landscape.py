"""What the lake and the lighthouse share: clouds, a camera over a height field, fir trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gallery.noise import Array, Point, fbm, smoothstep


def clouds(x: Array, rise: Array, seed: int, sun: Point, cover: float) -> tuple[Array, Array]:
    """Cloud layer seen in perspective: returns its opacity and how brightly the sun lights it.

    rise is the height above the horizon as a fraction of the picture's height, x the same across.
    """
    distance = 0.35 / (np.maximum(rise, 0) + 0.06)
    u, v = (x - 0.5) * distance * 1.5, distance * 2.1
    warp = fbm(u * 0.9 + 5, v * 0.9, 3, seed + 50)
    density = fbm(u + 0.55 * warp, v + 0.4 * warp, 7, seed, 0.52)
    toward = np.hypot(sun[0] - x, sun[1] - rise) + 1e-3
    step = 0.16
    du, dv = (sun[0] - x) / toward * step, -(sun[1] - rise) / toward * step
    beyond = fbm(u + du + 0.55 * warp, v + dv + 0.4 * warp, 4, seed, 0.52)
    opacity = smoothstep(cover, cover + 0.42, density)
    lit = np.clip(0.5 + 2.2 * (density - beyond) + 0.35 * (0.3 - opacity), 0, 1)
    return opacity, lit


@dataclass
class View:
    """A level camera above a height field, and what every pixel of it sees."""

    width: int
    height: int
    horizon: float
    focal: float
    camera: float
    near: float
    far: float
    slices: int = 700

    def look(self, ground: Callable[[Array, Array], Array]) -> tuple[Array, Array, Array]:
        """Find where each pixel's ray meets the ground: (hit, world x, world z)."""
        z = self.near * (self.far / self.near) ** np.linspace(0, 1, self.slices, dtype=np.float32)
        slope = (np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2) / self.focal
        world_x, world_z = np.broadcast_arrays(slope[None, :] * z[:, None], z[:, None])
        rows = self.horizon - self.focal * (ground(world_x, world_z) - self.camera) / world_z
        skyline = np.minimum.accumulate(rows, axis=0)
        want = np.arange(self.height, dtype=np.float32) + 0.5
        depth = np.full((self.height, self.width), np.inf, np.float32)
        for column in range(self.width):
            line = skyline[:, column]
            k = np.searchsorted(-line, -want, side="left")
            hit = k < self.slices
            k1 = np.clip(k, 1, self.slices - 1)
            span = np.maximum(line[k1 - 1] - rows[k1, column], 1e-6)
            t = np.clip((line[k1 - 1] - want) / span, 0, 1)
            depth[hit, column] = (z[k1 - 1] + (z[k1] - z[k1 - 1]) * t)[hit]
        found = np.isfinite(depth)
        distance = np.where(found, depth, self.far)
        return found, slope[None, :] * distance, distance


def conifer(rng: np.random.Generator, x: float, base: float, height: float) -> list[list[Point]]:
    """Outline a fir tree as a trunk and many drooping, uneven boughs."""
    shapes: list[list[Point]] = [[(x - height * 0.012, base), (x, base - height), (x + height * 0.012, base)]]
    tiers = max(12, int(height / 9))
    for tier in range(tiers):
        t = (tier + rng.uniform(0, 0.6)) / tiers
        y = base - height * (1 - 0.9 * t)
        for side in (-1, 1):
            reach = height * 0.165 * (t**0.8) * rng.uniform(0.55, 1.1) + height * 0.006
            droop = reach * rng.uniform(0.15, 0.55)
            thick = height * 0.006 + reach * 0.10
            tip = (x + side * reach, y + droop)
            shapes.append([(x, y - thick), tip, (x + side * reach * 0.6, y + droop + thick * 0.55), (x, y + thick)])
            for _ in range(3):
                s = rng.uniform(0.35, 0.95)
                twig = (x + side * reach * s, y + droop * s)
                drop = thick * rng.uniform(0.8, 1.7)
                shapes.append(
                    [
                        (twig[0] - thick * 0.4, twig[1] - thick * 0.3),
                        (twig[0] + side * thick * 0.3, twig[1] + drop),
                        (twig[0] + thick * 0.4, twig[1] - thick * 0.3),
                    ]
                )
    return shapes
