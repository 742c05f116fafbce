"""What dies, hangs or is overloaded while a run goes on, and what the run makes of it."""
