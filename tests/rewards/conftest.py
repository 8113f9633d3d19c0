from policy_fixtures import base_folder
from tiny_models import model_folder

__all__ = ["base_folder", "model_folder"]
