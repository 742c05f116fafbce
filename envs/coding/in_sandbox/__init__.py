"""What runs beside a candidate's program inside the sandbox. It imports nothing of the project."""
