"""Statistics that know no file and no configuration."""
