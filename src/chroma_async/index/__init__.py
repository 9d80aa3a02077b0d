"""Vector indexes: exact distances, the packed scan, and HNSW graphs."""
