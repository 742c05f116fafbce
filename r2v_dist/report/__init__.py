"""Shows the results of a run, and computes none."""
