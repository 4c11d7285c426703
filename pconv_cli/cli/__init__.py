"""The terminal: commands, what they show, and how they end."""
