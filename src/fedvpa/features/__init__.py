"""Frozen language model → features of each response, cached on disk, and their standardisation."""
