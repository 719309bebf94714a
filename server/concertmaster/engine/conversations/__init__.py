"""One conversation with a model, and what its replies are worth."""
