"""What the tables of accuracies and of policies share: their order, their keys, and their form as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from fedvpa.core.errors import ConfigError
from fedvpa.evaluation.intervals import Bootstrap, Estimate
from fedvpa.evaluation.student import Interval

LEVEL = 0.95
"""The level of every interval that is written under a key named ``ci95``."""

GLOBAL, LOCAL, INFORMED, ORACLE, BAYES = "global", "local", "informed", "oracle", "bayes"
OWN_WINS = "own_wins"
YARDSTICKS = (GLOBAL, LOCAL, OWN_WINS, INFORMED, ORACLE)
"""What stands in every table; differences between two of them are no claim and cost no correction."""

PREFERRED = ("fedeb", "fedvpa_gp")
"""The methods that sentences and differences are about: the first of them that was run."""


SHARE = (0.0, 1.0)
"""The bounds of an accuracy, of a win rate and of any other share."""
SHARE_DIFFERENCE = (-1.0, 1.0)


class Condition(NamedTuple):
    """A method and a number of clients: what one line of a summary is about."""

    method: str
    n_clients: int


class Record(Protocol):
    """One line of ``scores.jsonl`` or of ``outcomes.jsonl``."""

    @property
    def method(self) -> str:
        """The algorithm's name."""

    @property
    def n_clients(self) -> int:
        """How many clients the run trained on."""

    @property
    def seed(self) -> int:
        """The run's seed."""


AnyRecord = TypeVar("AnyRecord", bound=Record)

Seconds = Mapping[tuple[str, int, int], float]
"""Wall-clock seconds by (method, n_clients, seed)."""


class JsonResult:
    """A result whose fields are the keys of its JSON form; base of frozen data classes."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values, in their order."""
        return fields_as_json(self)


def fields_as_json(result: Any) -> dict[str, Any]:
    """A data class as a JSON object: estimates as ``mean``, ``ci95`` and ``method_ci95``, tuples as lists."""
    return {field.name: _as_json(getattr(result, field.name)) for field in fields(result)}


def value_of(estimate: Estimate | None) -> float | None:
    """The number of an estimate; None without one."""
    return None if estimate is None else estimate.value


def ends_of(estimate: Estimate | None) -> Interval | None:
    """The interval of an estimate; None without one."""
    return None if estimate is None else estimate.interval


def method_ends_of(estimate: Estimate | None) -> Interval | None:
    """The interval over training seeds too; None without an estimate, or with a single seed."""
    return None if estimate is None else estimate.method


def check_level(bootstrap: Bootstrap) -> None:
    """Raise ConfigError for intervals that cannot be written under keys named ``ci95``."""
    if bootstrap.level != LEVEL:
        raise ConfigError(f"level {bootstrap.level} cannot be written under ci95.", fix=f"Use {LEVEL}.")


def bootstrap_as_json(bootstrap: Bootstrap) -> dict[str, int]:
    """How intervals were computed; the level is in the names of their keys."""
    return {"resamples": bootstrap.resamples, "seed": bootstrap.seed}


def method_order(method: str) -> tuple[int, str]:
    """The order of every table and figure: global, local, own wins, the methods by name, informed, oracle, Bayes."""
    fixed = {GLOBAL: 0, LOCAL: 1, OWN_WINS: 2, INFORMED: 4, ORACLE: 5, BAYES: 6}
    return fixed.get(method, 3), method


def preferred(conditions: Iterable[Condition]) -> str:
    """The method of a comparison that differences are about: the first of ``PREFERRED`` that is there."""
    there = {method for method, _ in conditions}
    return next((method for method in PREFERRED if method in there), PREFERRED[0])


def by_condition(records: Iterable[AnyRecord]) -> dict[Condition, list[AnyRecord]]:
    """Records by method and number of clients, in the order of every table; within one, in their own order."""
    found: dict[Condition, list[AnyRecord]] = defaultdict(list)
    for record in records:
        found[Condition(record.method, record.n_clients)].append(record)
    order = sorted(found, key=lambda condition: (condition.n_clients, method_order(condition.method)))
    return {condition: found[condition] for condition in order}


def by_seed(records: Iterable[AnyRecord]) -> dict[int, list[AnyRecord]]:
    """Records by seed, seeds sorted."""
    found: dict[int, list[AnyRecord]] = defaultdict(list)
    for record in records:
        found[record.seed].append(record)
    return dict(sorted(found.items()))


def _as_json(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {"mean": value.value, "ci95": _as_json(value.interval), "method_ci95": _as_json(value.method)}
    if is_dataclass(value):
        return fields_as_json(value)
    if isinstance(value, Mapping):
        return {name: _as_json(entry) for name, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, tuple) else value
