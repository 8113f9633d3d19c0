"""How good selectors and policies are.

Records: ``scores`` and ``outcomes``, read and written by ``records``. Numbers: ``units`` and ``resampling`` (what is
resampled, and how), ``intervals`` (every formula). Results: ``accuracy`` (scoring clients), ``latents``,
``accuracy_tables``, ``win_rates``, ``switching`` and ``samples``, with ``summaries`` for what the tables share.
"""
