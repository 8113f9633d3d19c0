"""The tables of a comparison beside its summary: variants of a method, users by pairs given, users × prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedvpa.evaluation.report.cells import MISSING, TableText, worded
from fedvpa.evaluation.report.detail_tables import p_columns
from fedvpa.evaluation.report.drawing import Row
from fedvpa.evaluation.summaries import GLOBAL, YARDSTICKS

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class NamedTable:
    """A table with its heading and what is to be known to read it.

    Attributes:
        title: The heading.
        table: The cells.
        notes: Sentences below.
        words: The last column of words, from 0; numbers follow.
        brief: The table for a terminal, where the whole one is long; None for the same.
        printed: Whether a terminal shows it; the report shows all.
    """

    title: str
    table: TableText
    notes: tuple[str, ...]
    words: int = 1
    brief: TableText | None = None
    printed: bool = True


def protocol_tables(compared: Mapping[str, Any]) -> list[NamedTable]:
    """Those that ``comparison.json`` has, as it says them."""
    makers: tuple[tuple[str, Callable[[Sequence[Row]], NamedTable]], ...] = (
        ("groups", groups_table),
        ("ablations", ablations_table),
        ("shots", shots_table),
        ("four_way", four_way_table),
        ("privacy_rows", privacy_table),
    )
    if compared.get("pooled_groups"):  # the same question, at less noise
        compared = {**compared, "groups": compared["pooled_groups"]}
    found = [make(compared[key]) for key, make in makers if compared.get(key)]
    if compared.get("pooled_groups"):
        pooled = "Pooled: each client on the test pairs of all clients of its group."
        found[0] = replace(found[0], notes=(pooled, *found[0].notes))
    return found


def groups_table(rows: Sequence[Row]) -> NamedTable:
    """Each method by true group, and what the group gains over ``global``; printed where groups differ in size."""
    header, cells = p_columns(rows, "these models")
    sizes = {(row["n_clients"], row["group"]): row["clients"] for row in rows}
    uneven = any(len({size for (n, _), size in sizes.items() if n == one}) > 1 for one, _ in sizes)
    named = [{**row, "label": f"{row['group']}, {sizes[row['n_clients'], row['group']]} users"} for row in rows]
    return NamedTable(
        "Groups, each method beside global",
        TableText(
            ("N", "group", "method", "users", "accuracy", f"less {GLOBAL}'s", *header),
            tuple(
                (
                    str(row["n_clients"]),
                    row["group"],
                    row["method"],
                    str(row["clients"]),
                    _estimate(row),
                    _estimate(row["difference"]),
                    *cells(row),
                )
                for row in rows
            ),
        ),
        (
            f"Beside each number: less {GLOBAL}'s, on the same pairs. Users are those who trained, counted once per "
            f"seed. p is adjusted over the rows of methods (Holm), yardsticks are no claims; * below {LEVEL}.",
        ),
        words=2,
        brief=_against_global(named, "label", sorted({row["label"] for row in named}), str),
        printed=uneven,
    )


def ablations_table(rows: Sequence[Row]) -> NamedTable:
    """Each variant less the method it is of."""
    header, cells = p_columns(rows, "these models")
    method = rows[0]["second"]
    return NamedTable(
        f"Variants of {method}",
        TableText(
            ("N", "variant", f"accuracy less {method}'s", *header),
            tuple((str(row["n_clients"]), row["first"], _estimate(row), *cells(row)) for row in rows),
        ),
        (
            f"Each row is {method} with other settings, paired by seed, client and pair. p is adjusted over this table "
            f"by Holm's method; * below {LEVEL}.",
        ),
    )


def shots_table(rows: Sequence[Row]) -> NamedTable:
    """Each method at each number of pairs, and what it gains over ``global``."""
    header, cells = p_columns(rows, "these models")
    return NamedTable(
        "Users whom training never saw, by the pairs they give",
        TableText(
            ("N", "pairs given", "method", "unseen users", "accuracy", f"less {GLOBAL}'s", *header),
            tuple(
                (
                    str(row["n_clients"]),
                    str(row["context_pairs"]),
                    row["method"],
                    str(row["clients"]),
                    _estimate(row),
                    _estimate(row["difference"]),
                    *cells(row),
                )
                for row in rows
            ),
        ),
        (
            below_global(rows),
            f"Beside each number: less {GLOBAL}'s. On the other pairs of users that have so many. p is adjusted over "
            f"the rows of methods by Holm's method, yardsticks are no claims; * below {LEVEL}.",
        ),
        words=2,
        brief=_against_global(
            rows,
            "context_pairs",
            sorted({row["context_pairs"] for row in rows}),
            lambda count: f"{count} pair{'s' if count > 1 else ''}",
        ),
    )


def _against_global(rows: Sequence[Row], key: str, columns: Sequence[Any], heading: Callable[[Any], str]) -> TableText:
    """A line for each method, a column for each value of ``key``: accuracy, the gain over ``global``, its star."""
    found = {(row["n_clients"], row["method"], row[key]): row for row in rows}
    lines = list(dict.fromkeys((row["n_clients"], row["method"]) for row in rows))

    def cell(row: Row | None) -> str:
        if row is None or row["difference"] is None:
            return MISSING if row is None else worded(row["mean"])
        p_value = row["p_holm"] if row["method_p_holm"] is None else row["method_p_holm"]
        star = " *" if p_value is not None and p_value < LEVEL else ""
        return f"{row['mean']:.3f} ({row['difference']['mean']:+.3f}{star})"

    return TableText(
        ("N", "method", *map(heading, columns)),
        tuple(
            (str(size), method, *(cell(found.get((size, method, column))) for column in columns))
            for size, method in lines
        ),
    )


def below_global(rows: Sequence[Row]) -> str:
    """Where methods fall below ``global`` after Holm's correction, in a sentence."""
    claims = [row for row in rows if row["method"] not in YARDSTICKS and row["difference"] is not None]
    if not claims:
        return f"No method was compared with {GLOBAL}."
    over_seeds = any(row["method_p_holm"] is not None for row in claims)
    key, whom = ("method_p_holm", "over training seeds too") if over_seeds else ("p_holm", "of these trained models")
    worse = [
        f"{row['method']} with {row['context_pairs']} (N = {row['n_clients']})"
        for row in claims
        if row["difference"]["mean"] < 0 and row[key] is not None and row[key] < LEVEL
    ]
    if worse:
        return f"Below {GLOBAL} after Holm's correction ({whom}): {', '.join(worse)}."
    return f"No method is below {GLOBAL} at any number of pairs after Holm's correction ({whom})."


def four_way_table(rows: Sequence[Row]) -> NamedTable:
    """A line for each method, a column for each of the four cells."""
    cells = list(dict.fromkeys((row["users"], row["prompts"]) for row in rows))
    found = {(row["n_clients"], row["method"], row["users"], row["prompts"]): row for row in rows}
    lines = list(dict.fromkeys((row["n_clients"], row["method"]) for row in rows))
    table = TableText(
        ("N", "method", *(f"{users} users, {prompts} prompts" for users, prompts in cells)),
        tuple(
            (str(size), method, *(_estimate(found[size, method, *cell]) for cell in cells)) for size, method in lines
        ),
    )
    notes = [
        "Seen prompts: others train on the prompt of the tested pair, its user does not. Unseen prompts: nobody does."
    ]
    for size in dict.fromkeys(size for size, _ in lines):
        method = next(name for number, name in lines if number == size)
        counts = [_counted(found[size, method, *cell]) for cell in cells]
        notes.append(f"N = {size}, counted once per seed: {'; '.join(counts)}.")
    return NamedTable("Seen and unseen users on seen and unseen prompts", table, tuple(notes))


def privacy_table(rows: Sequence[Row]) -> NamedTable:
    """A line for each method or variant with noise: what one run of it costs."""
    alike = list(dict.fromkeys((row["unit"], row["relation"]) for row in rows))
    notes = [f"Unit: one {unit}; neighbouring federations: {relation}." for unit, relation in alike]
    notes.append(
        "ε released: for whoever sees what one run releases and not who took part; ε server: for whoever also sees who "
        "took part. Neither holds for a server that adds the noise. ε of several runs on the same users add up, and "
        "accuracies of a comparison are computed without noise."
    )
    if any(row["seeded"] for row in rows):
        notes.append("Simulation: the noise follows from the seed, so nothing is private here.")
    return NamedTable(
        "Privacy, of one run",
        TableText(
            ("N", "method", "unit", "releases", "noise multiplier", "ε released", "ε server", "δ"),
            tuple(
                (
                    str(row["n_clients"]),
                    row["method"],
                    row["unit"],
                    str(row["releases"]),
                    f"{row['noise_multiplier']:.4g}",
                    f"{row['epsilon_released']:.3g}",
                    f"{row['epsilon_server']:.3g}",
                    f"{row['delta']:.2g}",
                )
                for row in rows
            ),
        ),
        tuple(notes),
        words=2,
    )


def _counted(row: Row) -> str:
    cell = f"{row['users']} users, {row['prompts']} prompts"
    if row["empty"]:
        return f"{cell}: empty ({row['empty']})"
    return f"{cell}: {row['clients']} users, {row['pairs']} pairs"


def _estimate(value: Mapping[str, Any] | None) -> str:
    return MISSING if value is None else worded(value["mean"], value["ci95"], value.get("method_ci95"))
