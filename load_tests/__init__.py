"""Load tests: the same work over the Chroma HTTP API v2 against this server and, side by side, a real Chroma."""
