"""Preference pairs: where they come from, which client holds them, which of them train and which test."""
