"""A real federation on Flower: the app folder, server and node, keys, checks of the network."""
