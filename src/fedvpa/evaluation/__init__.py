"""Accuracy, latent diagnostics, statistics, figures and the report."""
