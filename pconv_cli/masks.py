"""Operations on masks of damage.

Knows: planes of True (damaged) and False. Does not know: files, polarity in files, pictures.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def dilate(hole: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Grow damage by a number of pixels in every direction, diagonals included (a square of side `2 radius + 1`).

    Args:
        hole: `(h, w)`, True = damaged.
        radius: Pixels, 0 or more.

    Returns:
        `(h, w)`; the picture's border does not grow inwards.
    """
    if radius <= 0:
        return hole
    plane = torch.from_numpy(np.ascontiguousarray(hole)).to(torch.uint8)[None].float()
    side = 2 * radius + 1
    # A square is a row of columns: two thin passes instead of one of side squared.
    plane = F.max_pool2d(plane, (1, side), stride=1, padding=(0, radius))
    plane = F.max_pool2d(plane, (side, 1), stride=1, padding=(radius, 0))
    return np.asarray(plane[0].numpy() > 0)
