"""The router on a simulated world, from training to its page."""
