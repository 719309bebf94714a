"""Models: what can answer a request, and what an answer costs."""
