"""fedvpa: federated variational preference alignment for users who disagree."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Policy": "fedvpa.policy.policy",
    "RunConfig": "fedvpa.runs.config",
    "Selector": "fedvpa.selector.selector",
    "align": "fedvpa.api.align",
    "compare": "fedvpa.api.compare",
    "demo": "fedvpa.api.demo",
    "doctor": "fedvpa.api.doctor",
    "evaluate": "fedvpa.api.evaluate",
    "export_flower": "fedvpa.api.export",
    "export_keys": "fedvpa.api.export",
    "generate": "fedvpa.api.generate",
    "personalize": "fedvpa.api.personalize",
    "read_config": "fedvpa.runs.config",
    "register": "fedvpa.api.register",
    "report": "fedvpa.api.report",
    "resume": "fedvpa.api.train",
    "train": "fedvpa.api.train",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that ``import fedvpa`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedvpa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
