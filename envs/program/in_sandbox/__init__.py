"""What runs inside the sandbox of an agent program."""
