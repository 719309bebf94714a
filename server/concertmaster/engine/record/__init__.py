"""What is asked of a run and what happens in it, as values that a journal keeps."""
