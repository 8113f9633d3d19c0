"""Judges: which of two responses is better under a preference.

Three kinds: the bundled world's exact judge, a reward model of transformers, and any OpenAI-compatible endpoint.
"""
