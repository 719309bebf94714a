"""Definitions of workers and prompts, read from Markdown files."""
