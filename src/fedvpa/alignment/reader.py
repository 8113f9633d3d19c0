"""The language model that reads responses for the selector: the base of the policy itself, where that is the same."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_MAPPING

from fedvpa.alignment.stage1 import Stage1
from fedvpa.features.backbone import Backbone, backbone_of
from fedvpa.features.config import FeatureConfig
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.load import LoadedModel
from fedvpa.models.locate import ModelSource, locate
from fedvpa.policy.policy import Policy


def reader_of(stage: Stage1, policy: Policy) -> Backbone:
    """The frozen language model of the stage's features.

    A model that is also the policy's base is in memory once: its body reads without adapter and without z, as the
    reference policy does.
    """
    base = policy.model.get_base_model()
    if not _is_the_same(stage.features, policy, base):
        return stage.backbone
    body = LoadedModel(base.base_model, policy.tokenizer.base, base.config)
    return backbone_of(body, stage.features, policy.reference)


def _weights(source: ModelSource) -> tuple[object, ...]:
    """What decides the weights in memory, and how they are run."""
    return source.folder.resolve(), source.revision, source.loading.quantization, source.loading.attn_implementation


def _is_the_same(features: FeatureConfig, policy: Policy, base: Any) -> bool:
    """Whether features are those of the policy's base: weights, device, precision, and the class of the body."""
    source = locate(features.named_model(), features.loading)
    if _weights(source) != _weights(policy.source):
        return False
    device = resolve_device(features.device)
    place = torch.empty(0, device=device).device
    if place != policy.device or base.dtype != resolve_dtype(features.dtype, device):
        return False
    return type(base.config) in MODEL_MAPPING and MODEL_MAPPING[type(base.config)] is type(base.base_model)
