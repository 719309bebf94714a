"""The smallest server there is, to compare starting with."""

from mcp.server import MCPServer

server = MCPServer("small")
server.add_tool(lambda: "done", name="do")
server.run()
