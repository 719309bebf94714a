"""A run from its task to its answer: plan, delegate, decide, check, synthesize."""
