"""Building blocks for fusion models, for one's own too: encoders, fusion modules, heads; shapes in their docstrings."""
