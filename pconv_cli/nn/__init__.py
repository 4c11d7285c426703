"""Networks and layers: tensors in, tensors out."""
