"""Ways to have a call answered: by a server over HTTP, or by an engine in this process."""
