"""Concertmaster: an orchestrator-workers server for MCP."""

__version__ = "0.1.0"
