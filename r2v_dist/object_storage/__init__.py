"""A run whose directory is an address: its objects, and the mirror of them on each node."""
