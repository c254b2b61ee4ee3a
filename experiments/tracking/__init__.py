"""Weights & Biases beside the runs, and dashboards over them."""
