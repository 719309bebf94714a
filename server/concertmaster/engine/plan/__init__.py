"""What a plan is: its shape, its validation, its repair, and how it is read while it streams."""
