"""The bundled preference world: a grammar, users with known utilities, an exact judge and a tiny language model."""
