"""What scores a response to a prompt: the world's exact utilities, a reward model, a language model that chooses."""
