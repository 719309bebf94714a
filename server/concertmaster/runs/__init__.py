"""Runs: their state as a fold over their journals, and the service that drives them."""
