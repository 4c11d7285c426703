"""Training: losses, data and the loop."""
