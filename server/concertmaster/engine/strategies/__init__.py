"""How a subtask is done: by one worker once, by revision, by vote, or part by part."""
