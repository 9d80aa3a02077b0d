"""What the database promises, shown on real data: readable at once, by all processes, exactly once, also after a kill."""
