"""`make gpu-check`: the first hour on a new GPU in eight minutes, its findings as JSON."""
