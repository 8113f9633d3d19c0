from policy_fixtures import base_folder

__all__ = ["base_folder"]
