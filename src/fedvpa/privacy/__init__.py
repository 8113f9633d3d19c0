"""User-level differential privacy: what a client's update may say, and what is added to the sum of a round."""
