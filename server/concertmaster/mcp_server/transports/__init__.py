"""How clients reach the MCP server: stdio, HTTP, or a server in the background."""
