"""Networks and layers: tensors in, tensors out."""

from pconv_cli.nn.padding import convert_padding

__all__ = ["convert_padding"]
