"""What befell each of the pictures."""

from __future__ import annotations

import numpy as np

from gallery.damage import (
    Sheet,
    blob,
    coffee_ring,
    cuts,
    dust,
    fold,
    hairs,
    impact,
    marker,
    mould,
    scratches,
    torn,
    water_stain,
)
from gallery.noise import fbm, rgb, smoothstep


def damage_lake(sheet: Sheet) -> None:
    """Scratched and spotted colour print with a torn corner."""
    scratches(sheet, 3, (250, 246, 236))
    cuts(
        sheet,
        [((0.10, 0.33), (0.47, 0.12)), ((0.42, 0.72), (0.88, 0.52)), ((0.30, 0.20), (0.38, 0.60))],
        (248, 244, 232),
        2.2,
    )
    hairs(sheet, 3, (22, 18, 20), 130)
    dust(sheet, 70, (250, 248, 240), 4.0)
    mould(sheet, (0.70, 0.20), 26, 1402, ((226, 214, 176), (148, 128, 92)))
    torn(sheet, (sheet.x - sheet.size[0]) * 0.62 - sheet.y * 0.78 + 78, 1411, (92, 66, 48))


def damage_lighthouse(sheet: Sheet) -> None:
    """Old print: vertical film scratches, dust and hairs, a crease, a missing corner."""
    scratches(sheet, 4, (246, 246, 246), 0.012, 1.0)
    scratches(sheet, 1, (22, 22, 22), 0.012, 1.0)
    dust(sheet, 90, (248, 248, 248), 3.4)
    dust(sheet, 22, (20, 20, 20), 2.8)
    hairs(sheet, 3, (24, 24, 24), 120)
    fold(sheet, (0.0, 0.29), (1.0, 0.425), 2.4, 1501)
    torn(sheet, -0.70 * sheet.x + 0.72 * (sheet.y - sheet.size[1]) + 92, 1511, (58, 58, 58))


def damage_map(sheet: Sheet) -> None:
    """Carried in a pocket: two folds worn through where they cross, a coffee ring, a tear, damp."""
    fold(sheet, (0.503, 0.0), (0.497, 1.0), 2.2, 1601, (244, 238, 222))
    fold(sheet, (0.0, 0.497), (1.0, 0.505), 2.2, 1611, (244, 238, 222))
    torn(sheet, blob(sheet, (0.5, 0.5), 17, 0.9, 1621) * 0.8, 1622, (84, 60, 44), 4.0)
    coffee_ring(sheet, (0.735, 0.27), 82, 1631)
    water_stain(sheet, (0.19, 0.30), 58, 1641, (196, 152, 98))
    t = np.clip((sheet.size[1] - sheet.y) / 150, 0, 1)
    slit = (
        9 * (1 - t) ** 0.8
        - np.abs(sheet.x - 0.29 * sheet.size[0] - 26 * t * t - 4 * fbm(sheet.y / 30, sheet.y * 0, 3, 1651))
        - 9 * (t >= 1)
    )
    torn(sheet, slit, 1652, (84, 60, 44), 4.5)


def damage_fruit(sheet: Sheet) -> None:
    """Painted on canvas that was kept badly: flaked paint, a slash, mould, splashes."""
    flakes = np.zeros_like(sheet.x)
    for spot, radius, seed in (
        ((0.36, 0.42), 22, 1701),
        ((0.655, 0.575), 18, 1705),
        ((0.88, 0.86), 26, 1709),
        ((0.16, 0.50), 13, 1713),
        ((0.60, 0.24), 15, 1717),
    ):
        flakes = np.maximum(flakes, smoothstep(-0.6, 0.6, blob(sheet, spot, radius, 1.1, seed)))
    weave = 0.92 + 0.05 * np.sin(sheet.x * 2.1) * np.sin(sheet.y * 2.1) + 0.05 * fbm(sheet.x / 5, sheet.y / 5, 3, 1721)
    sheet.cover(flakes, rgb(222, 208, 180) * weave[..., None])
    cuts(sheet, [((0.05, 0.12), (0.33, 0.36)), ((0.47, 0.95), (0.80, 0.70))], (232, 222, 200), 2.6)
    cuts(sheet, [((0.72, 0.06), (0.95, 0.30)), ((0.50, 0.30), (0.545, 0.66))], (14, 12, 10), 2.0)
    mould(sheet, (0.12, 0.86), 40, 1731, ((206, 206, 186), (128, 134, 116)))
    dust(sheet, 45, (236, 230, 216), 3.6)


def damage_window(sheet: Sheet) -> None:
    """Vandals: a stone, a felt pen, and splashes of whitewash."""
    impact(sheet, (0.655, 0.365), 150, 11)
    marker(
        sheet,
        [
            [(0.16, 0.44), (0.30, 0.37), (0.40, 0.46), (0.27, 0.52), (0.22, 0.45), (0.40, 0.385), (0.53, 0.47)],
            [(0.24, 0.86), (0.40, 0.80), (0.50, 0.875), (0.66, 0.80), (0.72, 0.86)],
        ],
        (22, 20, 26),
        8.0,
    )
    for spot, radius, seed in (
        ((0.32, 0.17), 15, 1801),
        ((0.37, 0.20), 6, 1803),
        ((0.80, 0.66), 17, 1805),
        ((0.74, 0.70), 5, 1807),
        ((0.20, 0.665), 10, 1809),
    ):
        sheet.cover(smoothstep(-0.6, 0.6, blob(sheet, spot, radius, 0.6, seed)), rgb(238, 238, 232))
    if sheet.picture.shape[2] == 4:
        solid = sheet.original[..., 3] == 255
        sheet.picture = np.where(solid[..., None], sheet.picture, sheet.original.astype(np.float32) / 255)
        sheet.touched *= solid


def damage_night(sheet: Sheet) -> None:
    """Neglected slide: scratches, hairs, dust and a patch of fungus."""
    scratches(sheet, 2, (246, 240, 230), 0.03, 0.8)
    cuts(sheet, [((0.50, 0.10), (0.92, 0.46))], (236, 244, 240), 1.5)
    hairs(sheet, 1, (226, 220, 208), 90, 1.2)
    dust(sheet, 10, (240, 236, 226), 3.0)
    mould(sheet, (0.80, 0.18), 17, 1901, ((190, 204, 160), (98, 116, 80)))
    water_stain(sheet, (0.20, 0.30), 15, 1911, (150, 120, 150))
