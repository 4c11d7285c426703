"""Map sheet: relief, rivers that run downhill, roads that avoid steep ground."""

from __future__ import annotations

import heapq
import math

import numpy as np

from gallery.noise import (
    SUPERSAMPLING,
    Array,
    Colour,
    Point,
    blur,
    eroded,
    fbm,
    mix,
    pixels,
    polygons,
    ramp,
    rgb,
    sample,
    shrink,
    smoothstep,
    strokes,
    unit,
)

STEPS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
TINTS: list[tuple[float, Colour]] = [
    (-0.60, (138, 182, 206)),
    (-0.25, (166, 204, 220)),
    (-0.02, (196, 224, 230)),
    (-0.0001, (204, 229, 232)),
    (0.0, (188, 208, 160)),
    (0.10, (205, 218, 168)),
    (0.24, (232, 228, 182)),
    (0.40, (238, 217, 166)),
    (0.58, (226, 190, 140)),
    (0.78, (206, 162, 122)),
    (1.0, (236, 224, 214)),
]


def island(width: int, height: int) -> Array:
    """Height field of a mountainous coast; the sea is below zero."""
    x, y = pixels(width, height)
    u, v = x / height * 2.6, y / height * 2.6
    bend_u, bend_v = 0.45 * fbm(u * 0.8, v * 0.8, 4, 801), 0.45 * fbm(u * 0.8 + 9, v * 0.8, 4, 803)
    coast = (u * 0.62 - v * 0.55 + 0.30) + bend_u * 1.5
    land = smoothstep(-0.55, 1.5, coast) * 0.62 - 0.16
    rough = eroded(u * 0.95 + bend_u + 4.2, v * 0.95 + bend_v + 6.9, 8, 811)
    return (land + (rough - 0.42) * 0.62 * smoothstep(-0.9, 0.9, coast)).astype(np.float32)


def drain(ground: Array) -> tuple[Array, Array, Array]:
    """Flood the land from the sea and the sheet's edge: (downstream cell, flow, filled height)."""
    rows, cols = ground.shape
    filled = np.full(ground.shape, np.inf)
    down = np.full(rows * cols, -1, np.int64)
    heap: list[tuple[float, int]] = []
    for r in range(rows):
        for c in range(cols):
            if r in (0, rows - 1) or c in (0, cols - 1) or ground[r, c] <= 0:
                filled[r, c] = ground[r, c]
                heap.append((float(ground[r, c]), r * cols + c))
    heapq.heapify(heap)
    order: list[int] = []
    while heap:
        level, cell = heapq.heappop(heap)
        order.append(cell)
        r, c = divmod(cell, cols)
        for dr, dc in STEPS:
            nr, nc = r + dr, c + dc
            if 0 <= nr < rows and 0 <= nc < cols and filled[nr, nc] == np.inf:
                filled[nr, nc] = max(level + 1e-6, float(ground[nr, nc]))
                down[nr * cols + nc] = cell
                heapq.heappush(heap, (float(filled[nr, nc]), nr * cols + nc))
    flow = np.where(ground > 0, 1.0, 0.0).ravel()
    for cell in reversed(order):
        if down[cell] >= 0:
            flow[down[cell]] += flow[cell]
    return down, flow, filled


def smooth_path(points: Array, passes: int) -> Array:
    """Round off a path that steps from cell to cell, keeping its ends."""
    out = points.astype(np.float64)
    for _ in range(passes):
        if len(out) > 2:
            out[1:-1] = 0.25 * out[:-2] + 0.5 * out[1:-1] + 0.25 * out[2:]
    return out


def rivers(ground: Array, least: float) -> tuple[list[tuple[Array, Array]], Array]:
    """Trace every stream whose flow is large enough: ((x, y) path, flow along it), and where lakes stand."""
    rows, cols = ground.shape
    down, flow, filled = drain(ground)
    big = (flow > least) & (ground.ravel() > 0)
    fed = np.zeros(rows * cols, bool)
    fed[down[big & (down >= 0)]] = True
    sources = sorted(np.nonzero(big & ~fed)[0].tolist(), key=lambda cell: (-float(flow[cell]), cell))
    seen: set[int] = set()
    found = []
    for source in sources:
        path = [source]
        while path[-1] not in seen and down[path[-1]] >= 0 and ground.ravel()[path[-1]] > 0:
            seen.add(path[-1])
            path.append(int(down[path[-1]]))
        if len(path) > 7:
            cells = np.array(path)
            strength = flow[cells]
            strength[-1] = strength[-2]
            found.append((smooth_path(np.stack([cells % cols + 0.5, cells // cols + 0.5], 1), 5), strength))
    return found, (filled - ground > 0.012) & (ground > 0)


def road(ground: Array, water: Array, start: tuple[int, int], goal: tuple[int, int]) -> Array:
    """Cheapest way between two cells for someone who dislikes climbing and bridges."""
    rows, cols = ground.shape
    best = {start: 0.0}
    came: dict[tuple[int, int], tuple[int, int]] = {}
    heap = [(0.0, start)]
    while heap:
        cost, cell = heapq.heappop(heap)
        if cell == goal:
            break
        if cost > best[cell]:
            continue
        r, c = cell
        for dr, dc in STEPS:
            nr, nc = r + dr, c + dc
            if not (2 <= nr < rows - 2 and 2 <= nc < cols - 2):
                continue
            climb = abs(float(ground[nr, nc]) - float(ground[r, c])) / math.hypot(dr, dc)
            step = math.hypot(dr, dc) * (1 + 90 * climb + 9000 * climb * climb + float(water[nr, nc]))
            if cost + step < best.get((nr, nc), math.inf):
                best[nr, nc] = cost + step
                came[nr, nc] = cell
                heapq.heappush(heap, (cost + step, (nr, nc)))
    path = [goal]
    while path[-1] != start:
        path.append(came[path[-1]])
    return smooth_path(np.array([(c + 0.5, r + 0.5) for r, c in path]), 9)


def contours(ground: Array, interval: float, width: float) -> Array:
    """Antialiased contour lines, about width pixels wide however steep the ground is."""
    gy, gx = np.gradient(ground)
    steep = np.hypot(gx, gy) / interval + 1e-6
    level = ground / interval
    away = np.abs(level - np.rint(level)) / steep
    return np.clip(width / 2 + 0.5 - away, 0, 1) * smoothstep(0.6, 0.28, steep * width * 0.8)


def sheet_frame(picture: Array, margin: float) -> Array:
    """Put the white margin, the chequered neat line and a thin grid around and over the map."""
    height, width = picture.shape[:2]
    x, y = pixels(width, height)
    edge = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y))
    cell = (width - 2 * margin) / 8
    for coordinate in (x, y):
        away = np.abs((coordinate - margin + cell / 2) % cell - cell / 2)
        picture = mix(picture, rgb(86, 112, 132), 0.42 * np.clip(1.4 - away, 0, 1))
    paper = rgb(246, 240, 224)
    picture = np.where((edge < margin)[..., None], paper, picture)
    along = np.where(np.minimum(x, width - x) < np.minimum(y, height - y), y, x)
    dark = ((along - margin) // (cell / 4)) % 2 < 1
    band = (edge > margin - 15) & (edge < margin - 5)
    picture = np.where((band & dark)[..., None], rgb(52, 46, 44), picture)
    for at, thick in ((margin - 15, 1.6), (margin - 5, 1.6), (margin, 2.2), (margin - 24, 3.4)):
        inside = (np.abs(edge - at) < thick / 2)[..., None]
        picture = np.where(inside, rgb(52, 46, 44), picture)
    return picture


def rosette(width: int, height: int, cx: float, cy: float, size: float) -> tuple[Array, Array]:
    """Coverage of the dark and the light half of a compass rose."""
    dark, light = [], []
    for k in range(16):
        angle = k * math.pi / 8
        reach = size * (1.0 if k % 4 == 0 else 0.68 if k % 2 == 0 else 0.42)
        waist = size * (0.15 if k % 4 == 0 else 0.13 if k % 2 == 0 else 0.12)
        tip = (cx + reach * math.sin(angle), cy - reach * math.cos(angle))
        for turn, half in ((-1, dark), (1, light)):
            side = angle + turn * math.pi / 8
            half.append([(cx, cy), tip, (cx + waist * math.sin(side), cy - waist * math.cos(side))])
    return polygons(width, height, dark), polygons(width, height, [*dark, *light])


def paint_map(seed: int) -> Array:
    """Draw a sheet of a topographic map."""
    final_w, final_h = 1100, 800
    width, height = final_w * SUPERSAMPLING, final_h * SUPERSAMPLING
    rng = np.random.default_rng([seed, 3])
    cell = 8
    ground = blur(island(width, height), 2.0)
    coarse = ground[cell // 2 :: cell, cell // 2 :: cell]
    streams, lakes = rivers(coarse, 110)
    carved = np.zeros_like(ground)
    for path, flow in streams:
        carved = np.maximum(
            carved, strokes(width, height, [((path * cell).tolist(), 5 + 0.10 * float(flow.max()) ** 0.5)], 1)
        )
    ground = np.where(ground > 0.012, np.maximum(ground - 0.030 * blur(carved, 14) * 2.2, 0.004), ground)
    gy, gx = np.gradient(blur(ground, 3) * 620)
    shade = unit(np.stack([-gx, -gy, np.ones_like(gx)], -1)) @ unit([-0.55, -0.6, 0.62])
    picture = ramp(ground, TINTS)
    relief = np.where(ground > 0, 0.70 + 0.46 * shade, 1.0)[..., None]
    picture = np.clip(picture * relief * rgb(255, 253, 248) + 0.10 * np.maximum(relief - 1, 0), 0, 1)
    x, y = pixels(width, height)
    wood = smoothstep(0.02, 0.10, fbm(x / 260, y / 260, 5, 841)) * (ground > 0.02) * smoothstep(0.46, 0.36, ground)
    picture = mix(picture, rgb(150, 186, 126) * relief, 0.62 * wood)
    ink = rgb(148, 96, 58)
    land = ground > 0
    picture = mix(picture, ink, 0.55 * contours(ground, 0.02, 1.5) * land)
    picture = mix(picture, ink * 0.9, 0.85 * contours(ground, 0.10, 3.0) * land)
    picture = mix(picture, rgb(92, 146, 186), 0.45 * contours(ground, 0.06, 1.6) * ~land)
    picture = mix(picture, rgb(40, 96, 150), contours(np.clip(ground, -0.05, 0.05), 0.5, 3.4))
    picture = draw_water(picture, streams, lakes, cell)
    picture = draw_roads(picture, coarse, lakes, cell, rng)
    picture = sheet_frame(picture, 50.0)
    dark, whole = rosette(width, height, 0.135 * width, 0.79 * height, 150)
    picture = mix(picture, rgb(250, 246, 234), whole)
    picture = mix(picture, rgb(60, 48, 46), np.maximum(dark, np.clip(2 * whole * (1 - blur(whole, 1.2)), 0, 1)))
    picture = picture * rgb(255, 250, 238) * (1 + 0.010 * fbm(x / 300, y / 300, 3, 851)[..., None])
    return shrink(picture)


def draw_water(picture: Array, streams: list[tuple[Array, Array]], lakes: Array, cell: int) -> Array:
    """Lay lakes and streams over the relief."""
    height, width = picture.shape[:2]
    x, y = pixels(width, height)
    lines: list[tuple[list[Point], float]] = []
    for path, flow in streams:
        for k in range(0, len(path) - 1, 3):
            lines += [((path[k : k + 5] * cell).tolist(), 1.6 + 0.085 * float(flow[k]) ** 0.5)]
    picture = mix(picture, rgb(48, 112, 168), 0.95 * strokes(width, height, lines, 2))
    standing = sample(blur(lakes.astype(np.float32), 0.9), x / cell - 0.5, y / cell - 0.5)
    picture = mix(picture, rgb(40, 96, 150), smoothstep(0.36, 0.42, standing))
    return mix(picture, rgb(176, 214, 230), smoothstep(0.44, 0.50, standing))


def draw_roads(picture: Array, ground: Array, lakes: Array, cell: int, rng: np.random.Generator) -> Array:
    """Choose towns on flat ground, join them by roads, and draw houses around each."""
    height, width = picture.shape[:2]
    gy, gx = np.gradient(ground)
    good = (ground > 0.015) & (ground < 0.3) & ~lakes & (np.hypot(gx, gy) < 0.006)
    good[:14], good[-14:], good[:, :14], good[:, -14:] = False, False, False, False
    places = np.argwhere(good)
    towns: list[tuple[int, int]] = []
    for row, col in places[rng.permutation(len(places))].tolist():
        if all(math.hypot(row - r, col - c) > 34 for r, c in towns):
            towns.append((row, col))
        if len(towns) == 9:
            break
    barrier = np.where(ground <= 0.004, 60.0, 0.0) + 25.0 * lakes + rng.uniform(0, 1.6, ground.shape)
    joined, paths = [towns[0]], []
    for town in sorted(towns[1:], key=lambda t: math.dist(t, towns[0])):
        near = sorted(joined, key=lambda t: math.dist(t, town))
        paths += [road(ground, barrier, town, other) for other in near[: 1 + (len(joined) % 3 == 2)]]
        joined.append(town)
    for thick, colour in ((7.6, rgb(70, 52, 48)), (4.6, rgb(226, 92, 62))):
        picture = mix(picture, colour, strokes(width, height, [((p * cell).tolist(), thick) for p in paths], 2))
    houses: list[list[Point]] = []
    land = (ground > 0.004) & ~lakes
    for index, (row, col) in enumerate(towns):
        for _ in range(60 if index % 3 == 0 else 24):
            spread = 52 if index % 3 == 0 else 32
            hx, hy = (col + 0.5) * cell + rng.normal(0, spread * 0.5), (row + 0.5) * cell + rng.normal(0, spread * 0.5)
            a, b, turn = rng.uniform(2.2, 5.2), rng.uniform(2.0, 3.2), rng.uniform(0, math.pi)
            if not land[int(np.clip(hy / cell, 0, land.shape[0] - 1)), int(np.clip(hx / cell, 0, land.shape[1] - 1))]:
                continue
            c, s = math.cos(turn), math.sin(turn)
            houses.append(
                [
                    (hx + a * p * c - b * q * s, hy + a * p * s + b * q * c)
                    for p, q in ((-1, -1), (1, -1), (1, 1), (-1, 1))
                ]
            )
    return mix(picture, rgb(44, 36, 40), polygons(width, height, houses, 2))
