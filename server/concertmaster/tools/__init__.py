"""What workers may call, and how inputs are read."""
