"""Other MCP servers, whose tools workers may call."""
