"""What runs inside a terminal's sandbox; it imports the standard library and nothing of r2v."""
