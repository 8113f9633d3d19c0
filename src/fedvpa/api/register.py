"""``fedvpa.register``: a method, judge, source … of the running program, under a name that runs can use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.registry import REGISTRIES, Registry


def register(kind: str, name: str, entry: Any) -> None:
    """Make ``name`` known to configurations and verbs, for the rest of this program.

    Other programs that open the run, the command line among them, do not know what this one registered. A package
    with an entry point of the group ``fedvpa.methods``, ``fedvpa.policy_methods``, ``fedvpa.inferences``,
    ``fedvpa.judges``, ``fedvpa.rewards`` or ``fedvpa.sources`` is known to all of them.

    Args:
        kind: ``method``, ``policy_method``, ``inference``, ``judge``, ``reward`` or ``source``.
        name: What configurations call it. A name that was registered before is replaced.
        entry: For ``method``, what makes an :class:`~fedvpa.algorithms.base.Algorithm` of a
            :class:`~fedvpa.algorithms.config.MethodConfig`; for ``policy_method``, a
            :class:`~fedvpa.algorithms.policy_method.PolicyMethod`. Both shapes are experimental, and may change with
            any version. For ``inference``, an :class:`~fedvpa.selector.inference.Inference`. For ``judge``, what makes
            a :class:`~fedvpa.evaluation.judges.base.Judge` of its settings and of the file, if any, that may keep its
            answers. For ``reward``, what makes a reward of its settings. For ``source``, a
            :class:`~fedvpa.data.sources.base.Source`. ``docs/plugins.md`` has an example of each.

    Raises:
        ConfigError: If there is no such kind, fedvpa or an installed package has the name, or the entry is not of the
            shape of its kind.
    """
    if kind not in REGISTRIES:
        raise ConfigError(f"There is no kind {kind!r} of things to register.", fix=nearest(kind, REGISTRIES))
    module, _, attribute = REGISTRIES[kind].partition(":")
    registry: Registry[Any] = getattr(import_module(module), attribute)
    registry.register(name, entry)
