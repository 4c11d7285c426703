"""Noise, colour, antialiased drawing and other small helpers that every picture is painted with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array: TypeAlias = NDArray[Any]
Colour: TypeAlias = tuple[float, float, float]
Point: TypeAlias = tuple[float, float]

SUPERSAMPLING = 2


def lattice(ix: Array, iy: Array, seed: int) -> Array:
    """Hash integer lattice points to repeatable values in [0, 1)."""
    h = ix.astype(np.int64).astype(np.uint32) * np.uint32(374761393)
    h += iy.astype(np.int64).astype(np.uint32) * np.uint32(668265263)
    h += np.uint32((seed * 2246822519) & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(2246822519)
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def noise(x: Array, y: Array, seed: int) -> tuple[Array, Array, Array]:
    """Smooth value noise in [-1, 1], with its two partial derivatives."""
    ix, iy = np.floor(x), np.floor(y)
    fx, fy = (x - ix).astype(np.float32), (y - iy).astype(np.float32)
    ux, uy = fx * fx * fx * (fx * (fx * 6 - 15) + 10), fy * fy * fy * (fy * (fy * 6 - 15) + 10)
    dx, dy = 30 * fx * fx * (fx * (fx - 2) + 1), 30 * fy * fy * (fy * (fy - 2) + 1)
    a, b = lattice(ix, iy, seed), lattice(ix + 1, iy, seed)
    c, d = lattice(ix, iy + 1, seed), lattice(ix + 1, iy + 1, seed)
    k = a - b - c + d
    value = a + (b - a) * ux + (c - a) * uy + k * ux * uy
    return 2 * value - 1, 2 * dx * (b - a + k * uy), 2 * dy * (c - a + k * ux)


def fbm(x: Array, y: Array, octaves: int, seed: int, gain: float = 0.5) -> Array:
    """Fractal sum of noise, roughly in [-1, 1]; each octave is turned so that no lattice shows."""
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    x, y = np.broadcast_arrays(x, y)
    total, amplitude, norm = np.zeros(x.shape, np.float32), 1.0, 0.0
    for octave in range(octaves):
        total += amplitude * noise(x, y, seed + octave)[0]
        norm += amplitude
        amplitude *= gain
        x, y = 1.6 * x - 1.2 * y + 7.3, 1.2 * x + 1.6 * y + 3.1
    return total / np.float32(norm)


def eroded(x: Array, y: Array, octaves: int, seed: int) -> Array:
    """Mountain-like fractal: fine detail is held back where the slope is already steep."""
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    total, gx, gy = (np.zeros(x.shape, np.float32) for _ in range(3))
    amplitude = 1.0
    for octave in range(octaves):
        value, dx, dy = noise(x, y, seed + octave)
        gx, gy = gx + dx * 0.5, gy + dy * 0.5
        total += amplitude * (0.5 + 0.5 * value) / (1 + gx * gx + gy * gy)
        amplitude *= 0.5
        x, y = 1.6 * x - 1.2 * y, 1.2 * x + 1.6 * y
    return total


def smoothstep(low: float, high: float, value: Any) -> Any:
    """Ease from 0 at low to 1 at high."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def mix(a: Any, b: Any, t: Any) -> Any:
    """Blend colour a into colour b; t has one number per pixel."""
    t = np.asarray(t)[..., None]
    return np.asarray(a) * (1 - t) + np.asarray(b) * t


def ramp(value: Array, stops: Sequence[tuple[float, Colour]]) -> Array:
    """Look values up in a colour ramp given as (position, 0..255 colour) pairs."""
    where = [position for position, _ in stops]
    channels = [np.interp(value, where, [colour[c] / 255 for _, colour in stops]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def rgb(red: float, green: float, blue: float) -> Array:
    """Make a 0..1 colour from 0..255 numbers."""
    return np.array([red, green, blue], np.float32) / 255


def pixels(width: int, height: int) -> tuple[Array, Array]:
    """Return the x and y coordinate of every pixel centre."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x + 0.5, y + 0.5


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of a float array through the FFT, with reflected borders."""
    if image.ndim == 3:
        return np.stack([blur(image[..., c], sigma) for c in range(image.shape[2])], axis=-1)
    pad = min(int(3 * sigma) + 1, image.shape[0] - 1, image.shape[1] - 1)
    wide = np.pad(image, pad, mode="reflect")
    fy, fx = np.fft.fftfreq(wide.shape[0])[:, None], np.fft.rfftfreq(wide.shape[1])[None, :]
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (fx * fx + fy * fy))
    out = np.fft.irfft2(np.fft.rfft2(wide) * kernel, s=wide.shape)
    return out[pad:-pad, pad:-pad].astype(np.float32)


def sample(image: Array, x: Array, y: Array) -> Array:
    """Bilinear look-up with clamped borders."""
    h, w = image.shape[:2]
    x, y = np.clip(x, 0, w - 1.001), np.clip(y, 0, h - 1.001)
    ix, iy = x.astype(np.int32), y.astype(np.int32)
    fx, fy = x - ix, y - iy
    if image.ndim == 3:
        fx, fy = fx[..., None], fy[..., None]
    top = image[iy, ix] * (1 - fx) + image[iy, ix + 1] * fx
    return top * (1 - fy) + (image[iy + 1, ix] * (1 - fx) + image[iy + 1, ix + 1] * fx) * fy


def to_bytes(image: Array) -> Array:
    """Convert 0..1 floats to 8-bit values."""
    return np.clip(np.rint(np.asarray(image) * 255), 0, 255).astype(np.uint8)


def shrink(image: Array) -> Array:
    """Bring a supersampled 0..1 picture down to its final size, as 8-bit values."""
    picture = Image.fromarray(to_bytes(image))
    size = (picture.width // SUPERSAMPLING, picture.height // SUPERSAMPLING)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def drawn(width: int, height: int, paint: Callable[[ImageDraw.ImageDraw, float], None], zoom: int = 3) -> Array:
    """Run a drawing function on an enlarged canvas and return its antialiased 0..1 coverage."""
    canvas = Image.new("L", (width * zoom, height * zoom), 0)
    paint(ImageDraw.Draw(canvas), float(zoom))
    small = canvas.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def polygons(width: int, height: int, shapes: Iterable[Sequence[Point]], zoom: int = 3) -> Array:
    """Antialiased coverage of filled polygons."""

    def paint(draw: ImageDraw.ImageDraw, scale: float) -> None:
        for shape in shapes:
            draw.polygon([(x * scale, y * scale) for x, y in shape], fill=255)

    return drawn(width, height, paint, zoom)


def strokes(width: int, height: int, lines: Iterable[tuple[Sequence[Point], float]], zoom: int = 3) -> Array:
    """Antialiased coverage of (points, width) polylines with round ends."""

    def paint(draw: ImageDraw.ImageDraw, scale: float) -> None:
        for points, thickness in lines:
            path = [(x * scale, y * scale) for x, y in points]
            thick = max(1, round(thickness * scale))
            draw.line(path, fill=255, width=thick, joint="curve")
            if thick > 3:
                for x, y in (path[0], path[-1]):
                    draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=255)

    return drawn(width, height, paint, zoom)


def unit(vector: Any) -> Array:
    """Scale vectors to length one along the last axis."""
    v = np.asarray(vector, np.float32)
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def film_curve(light: Array) -> Array:
    """Map linear light to display values with a soft shoulder."""
    light = np.maximum(light, 0)
    mapped = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    return np.clip(mapped, 0, 1) ** (1 / 2.2)
