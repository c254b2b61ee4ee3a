"""What lies in a run's folder: status, lock, failures, needs."""
