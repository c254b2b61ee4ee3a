"""How a sweep's runs are started and followed, here or on SLURM."""
