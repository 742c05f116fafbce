"""Other processes: how they are started, and how one is known again."""
