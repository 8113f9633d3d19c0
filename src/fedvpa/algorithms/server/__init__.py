"""What runs on the server: what an update must look like, how updates become one, and what is learned from them."""
