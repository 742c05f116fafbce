"""The only place where components meet: the list of stages, and what runs them."""
