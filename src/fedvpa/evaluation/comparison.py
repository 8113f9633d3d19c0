"""From scores to ``comparison.json``.

Keys that others rely on: ``rows`` holds one object per (method, n_clients, seed), ``summary`` one per
(method, n_clients) with ``mean``, ``ci95`` and ``gap_closed``, and the same with the prefix ``holdout_``. The plain
keys are about the clients that took part in training; ``unseen_`` marks the others. What is not known is null.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.scores import ClientScore, control_of
from fedvpa.evaluation.statistics import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Difference,
    Estimate,
    Sample,
    difference,
    estimate,
    gap_closed,
    holm,
    worst_decile,
)

SCHEMA_VERSION = 1
LEVEL = 0.95
GLOBAL, LOCAL, ORACLE, BAYES = "global", "local", "oracle", "bayes"
YARDSTICKS = (GLOBAL, LOCAL, ORACLE)
"""What stands in every table; differences between two of them are no claim and cost no correction."""

Cell = tuple[str, int]
Value = Callable[[ClientScore], float | None]


def comparison(
    scores: Iterable[ClientScore],
    seconds: Mapping[tuple[str, int, int], float],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> dict[str, Any]:
    """Everything that is said about methods compared on the same clients, ready for JSON.

    Args:
        scores: Of all methods, numbers of clients, seeds and clients; controls under ``method:control``.
        seconds: Wall-clock training time by (method, n_clients, seed); a missing one becomes null.
        bootstrap: How intervals are computed; the level must be 0.95, as the keys ``ci95`` say.

    Returns:
        ``schema_version``, ``bootstrap``, ``rows``, ``summary``, ``controls`` and ``differences``.

    Raises:
        DataError: Without any score, for a client scored twice, for a control without its method, or where methods
            were scored on different clients.
        ConfigError: For another level than 0.95.
    """
    if bootstrap.level != LEVEL:
        raise ConfigError(f"level {bootstrap.level} cannot be written under ci95.", fix=f"Use {LEVEL}.")
    cells = _cells(scores)
    methods = {cell: found for cell, found in cells.items() if control_of(cell[0])[1] is None}
    if not methods:
        raise DataError("there is no score of any method to compare.", fix="Score at least one method.")
    seen = {cell: _seen(found) for cell, found in methods.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "bootstrap": {"resamples": bootstrap.resamples, "seed": bootstrap.seed},
        "rows": [row for cell, found in methods.items() for row in _rows(cell, found, seconds)],
        "summary": [_summary(cell, methods, bootstrap) for cell in methods],
        "controls": [_control(cell, cells, bootstrap) for cell in cells if control_of(cell[0])[1] is not None],
        "differences": _differences(seen, bootstrap),
    }


def few_shot_curve(
    scores: Mapping[int, Iterable[ClientScore]], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> list[dict[str, Any]]:
    """How accuracy on clients that training never saw grows with the pairs they give as context.

    Args:
        scores: Number of context pairs → scores; those of seen clients are ignored.
        bootstrap: How intervals are computed.

    Returns:
        One object per (method, n_clients, context pairs): ``method``, ``n_clients``, ``context_pairs``, ``mean``,
        ``ci95`` and ``clients``.
    """
    points: list[dict[str, Any]] = []
    for context_pairs in sorted(scores):
        for (method, n_clients), found in _cells(score for score in scores[context_pairs] if not score.seen).items():
            sample = _required(found)
            points.append(
                {"method": method, "n_clients": n_clients, "context_pairs": context_pairs}
                | _named(estimate(sample, bootstrap))
                | {"clients": sample.clients}
            )
    return points


def method_order(method: str) -> tuple[int, str]:
    """The order of every table and figure: global, local, the methods by name, oracle, Bayes."""
    fixed = {GLOBAL: 0, LOCAL: 1, ORACLE: 3, BAYES: 4}
    return fixed.get(method, 2), method


def accuracy_of(score: ClientScore) -> float | None:
    """A client's accuracy on its own test pairs."""
    return score.accuracy


def holdout_of(score: ClientScore) -> float | None:
    """A client's accuracy on the hold-out."""
    return score.holdout_accuracy


def _cells(scores: Iterable[ClientScore]) -> dict[Cell, list[ClientScore]]:
    cells: dict[Cell, list[ClientScore]] = defaultdict(list)
    for score in scores:
        cells[score.method, score.n_clients].append(score)
    return {cell: cells[cell] for cell in sorted(cells, key=lambda cell: (cell[1], method_order(cell[0])))}


def _seen(scores: Iterable[ClientScore], value: Value = accuracy_of) -> Sample | None:
    return Sample.of((score for score in scores if score.seen), value)


def _unseen(scores: Iterable[ClientScore]) -> Sample | None:
    return Sample.of((score for score in scores if not score.seen), accuracy_of)


def _required(scores: Iterable[ClientScore]) -> Sample:
    sample = Sample.of(scores, accuracy_of)
    if sample is None:
        raise DataError("there is no score to estimate from.")
    return sample


def _rows(
    cell: Cell, scores: Sequence[ClientScore], seconds: Mapping[tuple[str, int, int], float]
) -> list[dict[str, Any]]:
    seeds: dict[int, list[ClientScore]] = defaultdict(list)
    for score in scores:
        seeds[score.seed].append(score)
    return [
        {
            "method": cell[0],
            "n_clients": cell[1],
            "seed": seed,
            "accuracy": _mean(_seen(found)),
            "groups": {name: _mean(sample) for name, sample in _by_group(found, accuracy_of).items()},
            "holdout_accuracy": _mean(_seen(found, holdout_of)),
            "holdout_groups": {name: _mean(sample) for name, sample in _by_group(found, holdout_of).items()},
            "unseen_accuracy": _mean(_unseen(found)),
            "seconds": seconds.get((*cell, seed)),
        }
        for seed, found in sorted(seeds.items())
    ]


def _mean(sample: Sample | None) -> float | None:
    return None if sample is None else sample.mean


def _by_group(scores: Iterable[ClientScore], value: Value) -> dict[str, Sample]:
    groups: dict[str, list[ClientScore]] = defaultdict(list)
    for score in scores:
        if score.group is not None:
            groups[score.group].append(score)
    samples = {name: _seen(groups[name], value) for name in sorted(groups)}
    return {name: sample for name, sample in samples.items() if sample is not None}


def _summary(cell: Cell, cells: Mapping[Cell, Sequence[ClientScore]], bootstrap: Bootstrap) -> dict[str, Any]:
    method, n_clients = cell
    scores = cells[cell]

    def gap(take: Callable[[Iterable[ClientScore]], Sample | None]) -> Estimate | None:
        low, high = (take(cells.get((name, n_clients), ())) for name in (GLOBAL, ORACLE))
        return gap_closed(take(scores), low, high, bootstrap)

    def holdout(found: Iterable[ClientScore]) -> Sample | None:
        return _seen(found, holdout_of)

    seen = _seen(scores)
    return {
        "method": method,
        "n_clients": n_clients,
        "seeds": sorted({score.seed for score in scores}),
        "clients": 0 if seen is None else seen.clients,
        **_named(_maybe(seen, bootstrap)),
        **_gap(gap(_seen)),
        "worst_decile": _plain(None if seen is None else estimate(seen, bootstrap, worst_decile)),
        "groups": {
            name: _plain(estimate(sample, bootstrap)) for name, sample in _by_group(scores, accuracy_of).items()
        },
        **_prefixed("holdout_", _named(_maybe(holdout(scores), bootstrap)) | _gap(gap(holdout))),
        "holdout_groups": {
            name: _plain(estimate(sample, bootstrap)) for name, sample in _by_group(scores, holdout_of).items()
        },
        **_prefixed("unseen_", _named(_maybe(_unseen(scores), bootstrap)) | _gap(gap(_unseen))),
    }


def _control(cell: Cell, cells: Mapping[Cell, Sequence[ClientScore]], bootstrap: Bootstrap) -> dict[str, Any]:
    """A control beside its method on the same clients, seen ones where there are any."""
    method, control = control_of(cell[0])
    if (method, cell[1]) not in cells:
        raise DataError(
            f"{cell[0]!r} is a control of {method!r}, which has no scores at N = {cell[1]}.",
            fix="Score the method itself as well.",
        )
    sample = _seen(cells[cell]) or _required(cells[cell])
    own = _seen(cells[method, cell[1]]) or _required(cells[method, cell[1]])
    against = difference(sample, own, bootstrap)
    return {
        "method": method,
        "control": control,
        "n_clients": cell[1],
        **_named(estimate(sample, bootstrap)),
        "difference": None if against is None else _plain(against.estimate),
    }


def _differences(samples: Mapping[Cell, Sample | None], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Every pair of methods at the same number of clients, except two yardsticks; p adjusted over the whole table."""
    found: list[tuple[int, str, str, Difference]] = []
    for (first, n_clients), (second, other) in combinations(samples, 2):
        if n_clients != other or BAYES in (first, second) or {first, second} <= set(YARDSTICKS):
            continue
        ahead, behind = (second, first) if first in YARDSTICKS else (first, second)
        gain = difference(samples[ahead, n_clients], samples[behind, n_clients], bootstrap)
        if gain is not None:
            found.append((n_clients, ahead, behind, gain))
    adjusted = holm([gain.p_value for *_, gain in found])
    return [
        {
            "n_clients": n_clients,
            "first": first,
            "second": second,
            **_named(gain.estimate),
            "p_value": gain.p_value,
            "p_holm": p_holm,
            "clients": gain.clients,
            "seeds": list(gain.seeds),
        }
        for (n_clients, first, second, gain), p_holm in zip(found, adjusted, strict=True)
    ]


def _maybe(sample: Sample | None, bootstrap: Bootstrap) -> Estimate | None:
    return None if sample is None else estimate(sample, bootstrap)


def _named(value: Estimate | None) -> dict[str, Any]:
    return {"mean": None, "ci95": None} if value is None else {"mean": value.value, "ci95": _ends(value)}


def _gap(value: Estimate | None) -> dict[str, Any]:
    if value is None:
        return {"gap_closed": None, "gap_closed_ci95": None}
    return {"gap_closed": value.value, "gap_closed_ci95": _ends(value)}


def _plain(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else _named(value)


def _ends(value: Estimate) -> list[float] | None:
    return None if value.interval is None else list(value.interval)


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}
