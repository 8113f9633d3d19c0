"""A policy that serves many users at once: requests under different z in one batch."""
