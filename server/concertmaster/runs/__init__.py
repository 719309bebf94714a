"""Runs: their journal, their state as a fold over it, and the service that drives them."""
