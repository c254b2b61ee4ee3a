"""Numbers and findings as words."""
