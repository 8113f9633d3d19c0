"""A small configuration and finished runs, for the tests of this room."""

from own_table import own_run
from run_fixtures import finished, tiny

__all__ = ["finished", "own_run", "tiny"]
