"""The tiny base model, policies on it, and a run with users, for the tests of this room."""

from policy_fixtures import base_folder, policies
from profile_fixtures import telling_run

__all__ = ["base_folder", "policies", "telling_run"]
