"""What a run may spend, has spent, and what a call may take."""
