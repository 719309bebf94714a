"""Other MCP servers, whose tools workers may call.

`connection` speaks MCP and is imported when a server is first needed, because the SDK takes
long to import and most runs need none.
"""
