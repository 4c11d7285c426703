"""How bright a colour is, and how colours are laid over others.

Knows arrays of pixels. Does not know files, modes, networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def luminance(rgb: NDArray[Any]) -> NDArray[Any]:
    """Rec. 601 luminance.

    Args:
        rgb: `(..., 3)`, uint8 or float.

    Returns:
        `(...)` in the type of the colours; of bytes in Pillow's own integers: equal channels give their value.
    """
    if rgb.dtype == np.uint8:
        wide = rgb.astype(np.uint32)
        total = wide[..., 0] * 19595 + wide[..., 1] * 38470 + wide[..., 2] * 7471 + 0x8000
        return np.asarray((total >> 16).astype(np.uint8))
    return np.asarray(rgb @ np.array([0.299, 0.587, 0.114], rgb.dtype))


def as_bytes(colours: NDArray[Any]) -> NDArray[np.uint8]:
    """Colours as uint8: bytes stay what they are, floats in [0, 1] are rounded."""
    return colours if colours.dtype == np.uint8 else (colours * 255).round().astype(np.uint8)


def lay(under: NDArray[Any], over: NDArray[Any], where: NDArray[np.bool_]) -> None:
    """Lay colours over others, in place.

    Args:
        under: `(h, w, c)`, changed.
        over: `(h, w, c)`, or one channel for all of them.
        where: `(h, w)`, True where `over` is to be taken.
    """
    for channel in range(under.shape[2]):  # eight times as fast as all at once
        np.copyto(under[..., channel], over[..., min(channel, over.shape[2] - 1)], where=where)
