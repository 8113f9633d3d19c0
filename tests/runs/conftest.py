"""A small configuration and a finished run, for the tests of this room."""

from run_fixtures import finished, tiny

__all__ = ["finished", "tiny"]
