"""Frozen language model → features of each response, cached on disk, and their standardisation."""

from fedvpa.features.backbone import Backbone, load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract, load_features
from fedvpa.features.standardise import Moments, Standardiser
from fedvpa.features.store import FeatureReport, FeatureStore

__all__ = [
    "Backbone",
    "FeatureConfig",
    "FeatureReport",
    "FeatureStore",
    "Moments",
    "Standardiser",
    "extract",
    "load_backbone",
    "load_features",
]
