"""One file, one paper (or one yardstick). An algorithm is pure: state in, (state, diagnostics) out."""
