"""A policy in the forms that other programs run."""
