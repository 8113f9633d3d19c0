"""One policy for all users: a language model that follows z.

rows.py ──► model.py, with conditioning.py inside ──► policy.py
tokens      log-probabilities, samples                loaded, asked in words, saved; trained by dpo_trainer.py
"""
