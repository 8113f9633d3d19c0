"""What scores a response to a prompt: the world's exact utilities, a reward model, a language model that chooses.

A :class:`~fedvpa.rewards.base.Reward` has a name and scores responses under a preference; rewards are found by name in
:data:`~fedvpa.rewards.registry.REWARDS`.
"""
