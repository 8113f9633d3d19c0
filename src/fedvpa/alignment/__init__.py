"""Stage 2: from a frozen selector to a policy that follows z.

prompts.py ──► candidates.py ──► preferences.py ──► loop.py, stopped by stopping.py
public prompts   K responses       z-labelled pairs     DPO steps of policy/dpo_trainer.py
"""
