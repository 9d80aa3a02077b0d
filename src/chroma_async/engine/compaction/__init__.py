"""What the compactor is made of: the log's entries, open stores, graphs, text indexes and purges, each by itself."""
