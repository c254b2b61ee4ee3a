"""The prepared cohort on disk: items, splits, clips, and reading them back."""
