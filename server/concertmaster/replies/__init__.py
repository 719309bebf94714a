"""What a caller is shown of a run, whether over MCP, on the command line or on a page."""
