"""Programs that use the package as the guide says: read by mypy, run by nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import assert_type

from pconv_cli import Restorer, restore_image


def arrays_pictures_and_tensors_are_taken_and_an_array_given(
    image: NDArray[np.uint8], damaged: NDArray[np.bool_]
) -> None:
    picture, tensor = Image.open("scan.png"), torch.zeros(8, 8)
    assert_type(restore_image(image, damaged, weights=Path("w"), device=torch.device("cpu"), nodata=0), NDArray[Any])
    restore_image(picture, picture.convert("L"), padding="reflect", batch_size="auto")
    restore_image(np.asarray(picture), tensor)
    with Restorer() as restorer:
        assert_type(restorer.restore(tensor, picture), NDArray[Any])
        assert_type(restorer.restore_detailed(picture, damaged).seam_ratio, float | None)
    restore_image([[0]], damaged)  # type: ignore[arg-type]
    restore_image("scan.png", damaged)  # type: ignore[arg-type]


def a_stream_gives_errors_only_where_they_may_be_asked_for(
    restorer: Restorer, images: list[Image.Image], masks: list[NDArray[np.bool_]], flag: bool
) -> None:
    for made in restorer.restore_many(zip(images, masks, strict=True), progress=flag):
        assert_type(made, NDArray[Any])
    for other in restorer.restore_many([(images[0], masks[0])], return_exceptions=flag):
        assert_type(other, NDArray[Any] | Exception)
    for other in restorer.restore_many(((torch.zeros(8, 8), masks[0]) for _ in images), return_exceptions=True):
        assert_type(other, NDArray[Any] | Exception)
