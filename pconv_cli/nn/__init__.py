"""Networks and layers: tensors in, tensors out."""

from pconv_cli.nn.padding import convert_padding
from pconv_cli.nn.partial_conv import PartialConv2d, partial_conv2d

__all__ = ["PartialConv2d", "convert_padding", "partial_conv2d"]
