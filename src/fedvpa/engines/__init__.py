"""Who runs the clients: the readable loop, and the vectorised engine that runs a cohort as one batched program."""
