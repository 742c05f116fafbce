"""Training of the step-level router: data, losses, phases."""
