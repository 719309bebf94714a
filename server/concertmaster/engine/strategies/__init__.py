"""How one subtask is carried out: by one worker, by vote, with revisions, or part by part."""
