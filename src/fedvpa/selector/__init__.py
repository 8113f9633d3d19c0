"""The preference model: encoder q(z|pairs), reward head r(h; z), mixture prior, prototypes, posterior refinement."""
