"""The layer once more, straight from the formula: plain loops over numpy arrays in float64. And how tests run torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on tensors this small, several wait for each other fifty times as long as they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def locate(index: int, length: int, mode: str) -> int | None:
    """Which pixel of a row a tap sees; None: none at all.

    `reflect` mirrors about the border pixel, as far as there is a pixel to mirror, and repeats the last one after that.
    """
    if 0 <= index < length:
        return index
    if mode in ("partial", "zero"):
        return None
    if mode == "replicate":
        return 0 if index < 0 else length - 1
    return min(-index, length - 1) if index < 0 else max(2 * (length - 1) - index, 0)


def partial_conv(
    features: Array,
    known: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    feature_groups: Sequence[int] | None = None,
    padding_mode: str = "partial",
) -> tuple[Array, Array]:
    """x' = W^T (X * M) sum(1) / sum(M) + b where sum(M) > 0, else 0; m' = sum(M) > 0, for each output channel."""
    n, channels, height, width = features.shape
    out_channels, _, kh, kw = weight.shape
    every_channel = np.repeat(known, [channels] if feature_groups is None else feature_groups, axis=1)
    out_height = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    out_width = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((n, out_channels, out_height, out_width))
    updated = np.zeros_like(out)
    for b in range(n):
        for y in range(out_height):
            for x in range(out_width):
                values, mask = np.zeros((channels, kh, kw)), np.zeros((channels, kh, kw))
                for i in range(kh):
                    row = locate(y * stride[0] - padding[0] + i * dilation[0], height, padding_mode)
                    for j in range(kw):
                        col = locate(x * stride[1] - padding[1] + j * dilation[1], width, padding_mode)
                        if row is None or col is None:
                            mask[:, i, j] = 1.0 if padding_mode == "zero" else 0.0
                            continue
                        for c in range(channels):
                            if every_channel[b, c, row, col] > 0:
                                mask[c, i, j] = 1.0
                                values[c, i, j] = features[b, c, row, col]
                for o in range(out_channels):
                    group = o // (out_channels // groups)
                    part = slice(group * channels // groups, (group + 1) * channels // groups)
                    count = mask[part].sum()
                    if count > 0:
                        linear = (weight[o] * values[part]).sum() * (mask[part].size / count)
                        out[b, o, y, x] = linear + (0.0 if bias is None else bias[o])
                        updated[b, o, y, x] = 1.0
    return out, updated
