"""Judges: which of two responses is better under a preference.

A judge compares the scores of a reward (the bundled world's exact utilities, or a reward model of transformers), or
asks a language model behind any OpenAI-compatible endpoint. :func:`~fedvpa.evaluation.judges.make.make_judge` makes
one by its name.
"""
