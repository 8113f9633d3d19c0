"""Language models: found, loaded once, rendered for; the same for features, policy and judges."""
