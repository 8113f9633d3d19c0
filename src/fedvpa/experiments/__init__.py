"""Many runs compared: cells, the processes that run them, duels of their policies."""
