"""Seeded mutations of what hospitals export, and what becomes of them."""
