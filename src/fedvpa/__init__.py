"""fedvpa: federated variational preference alignment for users who disagree."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedvpa.core.version import __version__

if TYPE_CHECKING:
    from fedvpa.api.align import align as align
    from fedvpa.api.audit import audit as audit
    from fedvpa.api.compare import compare as compare
    from fedvpa.api.demo import demo as demo
    from fedvpa.api.doctor import doctor as doctor
    from fedvpa.api.evaluate import evaluate as evaluate
    from fedvpa.api.evaluate_language import evaluate_language as evaluate_language
    from fedvpa.api.evaluate_policy import evaluate_policy as evaluate_policy
    from fedvpa.api.export import export_candidates as export_candidates
    from fedvpa.api.export import export_flower as export_flower
    from fedvpa.api.export import export_keys as export_keys
    from fedvpa.api.export import export_node_key as export_node_key
    from fedvpa.api.export import export_release as export_release
    from fedvpa.api.export_models import export_adapters as export_adapters
    from fedvpa.api.export_models import export_baked as export_baked
    from fedvpa.api.export_models import export_hub as export_hub
    from fedvpa.api.export_models import export_merged as export_merged
    from fedvpa.api.forget import forget as forget
    from fedvpa.api.generate import generate as generate
    from fedvpa.api.judge import judge as judge
    from fedvpa.api.keys import keys as keys
    from fedvpa.api.personalize import personalize as personalize
    from fedvpa.api.privacy_plan import privacy_plan as privacy_plan
    from fedvpa.api.profiles import profiles as profiles
    from fedvpa.api.register import register as register
    from fedvpa.api.report import report as report
    from fedvpa.api.serve import serve as serve
    from fedvpa.api.simulate import simulate as simulate
    from fedvpa.api.teach import teach as teach
    from fedvpa.api.train import resume as resume
    from fedvpa.api.train import train as train
    from fedvpa.policy.policy import Policy as Policy
    from fedvpa.runs.config import RunConfig as RunConfig
    from fedvpa.runs.config import read_config as read_config
    from fedvpa.selector.selector import Selector as Selector
    from fedvpa.serving.profiles import Profile as Profile

_HOMES = {
    "Policy": "fedvpa.policy.policy",
    "Profile": "fedvpa.serving.profiles",
    "RunConfig": "fedvpa.runs.config",
    "Selector": "fedvpa.selector.selector",
    "align": "fedvpa.api.align",
    "audit": "fedvpa.api.audit",
    "compare": "fedvpa.api.compare",
    "demo": "fedvpa.api.demo",
    "doctor": "fedvpa.api.doctor",
    "evaluate": "fedvpa.api.evaluate",
    "evaluate_language": "fedvpa.api.evaluate_language",
    "evaluate_policy": "fedvpa.api.evaluate_policy",
    "export_adapters": "fedvpa.api.export_models",
    "export_baked": "fedvpa.api.export_models",
    "export_candidates": "fedvpa.api.export",
    "export_flower": "fedvpa.api.export",
    "export_hub": "fedvpa.api.export_models",
    "export_keys": "fedvpa.api.export",
    "export_merged": "fedvpa.api.export_models",
    "export_node_key": "fedvpa.api.export",
    "export_release": "fedvpa.api.export",
    "forget": "fedvpa.api.forget",
    "generate": "fedvpa.api.generate",
    "judge": "fedvpa.api.judge",
    "keys": "fedvpa.api.keys",
    "personalize": "fedvpa.api.personalize",
    "privacy_plan": "fedvpa.api.privacy_plan",
    "profiles": "fedvpa.api.profiles",
    "read_config": "fedvpa.runs.config",
    "register": "fedvpa.api.register",
    "report": "fedvpa.api.report",
    "resume": "fedvpa.api.train",
    "serve": "fedvpa.api.serve",
    "simulate": "fedvpa.api.simulate",
    "teach": "fedvpa.api.teach",
    "train": "fedvpa.api.train",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that ``import fedvpa`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedvpa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The verbs too, although they are not imported yet."""
    return sorted(__all__)
