"""Every number of the report, as tables."""
