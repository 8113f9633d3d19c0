"""The settings of the bundled world and of published sets: what a run on them starts from where nothing is set.

The defaults of every section are those for own data and a real language model. The bundled world has a language model
of a million parameters and exact utilities, and wants other values: ``data.source=world`` brings its model and judge,
and that model as the base policy brings stage 2's values. They are filled in *under* what the user gives, so an
explicit setting wins, and a run's ``config.yaml`` holds the result in full: nothing is decided later. A configuration
that holds all values, such as a run's, therefore reads as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from fedvpa.data.sources.registry import SOURCES
from fedvpa.models.folder import BUNDLED

WORLD: Mapping[str, Any] = MappingProxyType(
    {"features": {"model": BUNDLED}, "policy": {"judging": {"judge": "world"}}},
)
"""Where the data are the bundled world's: its language model, and the judge that knows its users' utilities."""

BUNDLED_MODEL: Mapping[str, Any] = MappingProxyType(
    {
        "policy": {
            "lora_rank": 32,
            "lora_alpha": 64,
            "beta": 1.0,
            "sft_weight": 40.0,
            "language_weight": 100.0,
            "steps": 450,
            "lr": 3e-3,
            "conditioner_lr": 2e-2,
            "evaluate_every": 150,
            "refresh_every": 225,
            "refresh_prompts": 225,
            "candidates": {
                "prompts": 450,
                "validation_prompts": 80,
                "samples": 16,
                "max_new_tokens": 112,
                "batch": 300,
            },
            "preferences": {"pairs_per_latent": 2},
            "guard": {"min_distinct": 0.5},
            "feddpo": {"rounds": 20},
        },
        "biscuit": {"lora": {"lr": 1e-2}},
        "firm": {"rounds": 10, "cohort": 5, "steps": 2, "prompts": 4, "lr": 5e-3, "kl_weight": 0.2}
        | {"max_new_tokens": 112},
    }
)
"""Where the base policy is the bundled language model.

Chosen by us on validation prompts, by ``benchmarks/policy_choices.py``. A policy of a million parameters takes a
learning rate 30 times that of a real one, and then unlearns its language, which the two weights beside DPO hold; they
are relative to β. Its samples cost little, so there are 16 for each prompt; its longest response has 103 tokens. One
refresh comes half-way. Its language is a grammar whose phrases repeat, so distinct-2 may fall to one half. Those of
``firm`` are chosen in the same way by ``benchmarks/firm.py``: a training takes about as long as one of FedDPO's, and
both rewards rise.
"""


PRIVATE: Mapping[str, Any] = MappingProxyType(
    {
        "eb": {"components": 4, "width": 0.0, "curvature": "shared"},
        "policy": {"preferences": {"posteriors": 0.0}},
    }
)
"""Where sums are noised. Which number of components and which width are likeliest cannot be told from noised evidence,
and curvature in every direction would take most of what noise leaves. Chosen by us on the bundled world
(``benchmarks/privacy_world.py``). Stage 2 takes no user's own z, which noise does not cover."""


UNTURNED: Mapping[str, Any] = MappingProxyType({"method": "fedem", "selector": {"rotation": "none"}})
"""Where sums are noised and no public pairs say how features are turned: ``fedem`` learns as well without, and
``fedeb`` nothing, since its shared curvature fits no other features."""


def with_presets(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration, with those of the world, of a source or of noised sums where none are given.

    Args:
        given: Section → its values, as a mapping or as a section that is already built; the latter stays as it is.

    Returns:
        A new mapping; ``given`` is not changed.
    """
    source = _value(given, "data", "source", "world")
    filled = _filled(given, WORLD if source == "world" else _of_source(source, given))
    base = _value(filled, "policy", "model", None) or _value(filled, "features", "model", None)
    filled = _filled(filled, BUNDLED_MODEL) if base == BUNDLED else filled
    noised = any(_value(given, "privacy", key, None) is not None for key in ("epsilon", "noise_multiplier"))
    if not noised:
        return filled
    public = _value(given, "privacy", "public_pairs", None) is not None
    return _filled(filled, PRIVATE if public else {**PRIVATE, **UNTURNED})


def _of_source(source: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a source brings; without its partition, where the user chooses another kind."""
    fills = SOURCES.get(source).fills if source in SOURCES else {}
    wanted = _value(fills, "partition", "kind", None)
    other = _value(given, "partition", "kind", wanted) != wanted
    return {name: values for name, values in fills.items() if not (other and name == "partition")}


def _value(values: Mapping[str, Any], section: str, key: str, default: Any) -> Any:
    found = values.get(section)
    if isinstance(found, BaseModel):
        return getattr(found, key)
    return found.get(key, default) if isinstance(found, Mapping) else default


def _filled(given: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """``given``, with the keys of ``preset`` that it lacks, sections merged key by key."""
    filled = dict(given)
    for key, value in preset.items():
        if isinstance(value, Mapping):
            own = filled.get(key, {})
            filled[key] = _filled(own, value) if isinstance(own, Mapping) else own
        else:
            filled.setdefault(key, value)
    return filled
