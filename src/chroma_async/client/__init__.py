"""The clients, async and sync, over HTTP and embedded."""
