"""A run: its configuration, its directory, its environment, and what it holds."""
