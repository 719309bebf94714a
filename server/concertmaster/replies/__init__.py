"""What a caller is shown of a run, over MCP and on the command line."""
