"""What other schedulers start a run from, generated from its configuration."""
