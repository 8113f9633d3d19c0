"""Frozen language model → one feature vector for each response, cached on disk."""
