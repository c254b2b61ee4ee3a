"""A sweep: its YAML, its runs, its frozen list."""
