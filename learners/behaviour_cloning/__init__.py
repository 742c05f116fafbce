"""Behaviour cloning of the SLM on the teacher's successful episodes."""
