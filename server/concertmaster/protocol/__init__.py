"""What MCP clients see of Concertmaster: tools, resources, and how they are served."""
