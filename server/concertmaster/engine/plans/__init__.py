"""What a plan is: its shape, its rules, how it is mended, and read while it is written."""
