"""From hospital exports to a store: check, read, crop, write."""
