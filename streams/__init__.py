"""agent-streams."""
