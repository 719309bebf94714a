"""The orchestration itself: plan, delegate, synthesize. Knows neither MCP nor a provider."""
