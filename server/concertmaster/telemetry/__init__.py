"""What is told about runs to those who watch over servers."""
