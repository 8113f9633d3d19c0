"""The tiny base model and policies on it, for the tests of this room."""

from policy_fixtures import base_folder, policies

__all__ = ["base_folder", "policies"]
