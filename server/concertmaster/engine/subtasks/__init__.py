"""One subtask at work, by any of the strategies."""
