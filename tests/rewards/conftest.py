from policy.conftest import base_folder

__all__ = ["base_folder"]
