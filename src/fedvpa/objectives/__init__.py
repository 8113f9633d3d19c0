"""Small pure losses: tensors in, per-example tensor out."""
