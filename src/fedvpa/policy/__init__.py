"""One policy for all users: z-conditioning, candidates, DPO, generation."""
