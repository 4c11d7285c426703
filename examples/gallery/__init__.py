"""The pictures that make_examples.py renders, and the damage it does to them."""
