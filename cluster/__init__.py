"""Where and how a run happens: the Ray session."""
