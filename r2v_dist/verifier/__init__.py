"""V(x, a) in [0, 1], and which candidate acts."""
