"""Gymnasium environments. `envs.registry` says which there are, `envs.make` makes them."""
