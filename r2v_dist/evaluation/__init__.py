"""Numbers from live episodes only."""
