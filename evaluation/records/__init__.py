"""What a sweep folder holds: its list, runs, study and analysis."""
