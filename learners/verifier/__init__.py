"""Training of the process verifier, and its network."""
