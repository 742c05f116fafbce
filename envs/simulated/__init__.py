"""A simulated world whose probabilities are known, so that the best router is known too."""
