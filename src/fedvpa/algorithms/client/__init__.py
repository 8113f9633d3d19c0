"""What runs on a client: its draws, its local steps, and what it holds."""
