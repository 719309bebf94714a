"""A server that outlives its clients: found, started and spoken to by what clients start."""
