"""The worker tools that are built in."""
