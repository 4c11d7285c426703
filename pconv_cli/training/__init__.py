"""Training: photographs, damage, losses and the loop."""
