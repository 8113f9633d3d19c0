"""Simulated users of real text: what they like is a known function of what a response looks like.

A response has properties that can be counted (:mod:`fedvpa.styles.properties`). They are standardised on samples of a
base model (:mod:`fedvpa.styles.standard`), a user weighs them (:mod:`fedvpa.styles.users`), and the weights say exactly
what a response is worth to that user (:mod:`fedvpa.styles.utility`). No language model takes part in a judgement.
"""
