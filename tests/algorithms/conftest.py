"""The tiny base model, for the tests of methods whose clients train a policy."""

from policy_fixtures import base_folder

__all__ = ["base_folder"]
