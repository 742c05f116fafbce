"""What each stage does, one file a subject."""
