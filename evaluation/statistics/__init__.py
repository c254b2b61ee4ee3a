"""Statistics that know nothing of sweeps: arrays in, figures out."""
