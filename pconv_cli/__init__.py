"""`pconv`: batch restoration of damaged pictures with partial convolutions."""

__version__ = "0.1.0"
