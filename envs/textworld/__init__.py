"""TextWorld games: generating them, playing them."""
