"""``fedvpa privacy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import ConfigOption, JsonOption, OverrideArgument, finish

if TYPE_CHECKING:
    from fedvpa.api.privacy_plan import PrivacyPlan
    from fedvpa.privacy.measured import Measured

privacy = typer.Typer(no_args_is_help=True, help="Plan user-level differential privacy.")
"""Its verbs join it in :mod:`fedvpa.cli.main`, which makes them interruptible."""


@privacy.callback()
def _group() -> None:
    """A group of one verb is still a group."""


def plan(
    clients: Annotated[int, typer.Option(help="How many users there are.")],
    overrides: OverrideArgument = None,
    cohort: Annotated[int | None, typer.Option(help="Users that a round is expected to have.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="ε of the released model, for the noise it needs.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="σ, for its ε.")] = None,
    delta: Annotated[float | None, typer.Option(help="δ, N^-1.1 unless given.")] = None,
    dimension: Annotated[int, typer.Option(help="Length of a feature: the language model's hidden size.")] = 128,
    weights: Annotated[int | None, typer.Option(help="Weights of an adapter that clients train, for its row.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an ε costs before anything is trained: noise, bytes, and accuracy where it was measured."""
    from fedvpa.api.privacy_plan import privacy_plan
    from fedvpa.runs.config import read_config

    # As overrides, so that what a configuration fills in where sums are noised is filled in here too.
    flags = {"epsilon": epsilon, "noise_multiplier": noise_multiplier, "delta": delta}
    given = [f"privacy.{name}={value}" for name, value in flags.items() if value is not None]
    settings = read_config(config, [*(overrides or []), *given])
    result = privacy_plan(clients, cohort=cohort, rounds=rounds, dimension=dimension, weights=weights, config=settings)
    finish(result.to_dict(), as_json, lambda: text_of(result))


def text_of(result: PrivacyPlan) -> str:
    """The plan in lines."""
    from fedvpa.api.privacy_plan import RELATION, UNIT

    budget = result.budget
    sampling = f"by coins of {budget.rate:.4g}" if result.sampling == "poisson" else "not sampled: all count as there"
    shares = result.noise == "clients"
    server = "the server, which sees that too" if shares else "whoever sees that too"
    against = (
        "nodes add the noise before the server reads a sum, so both hold against it"
        if shares
        else "neither holds for the machine that adds the noise"
    )
    lines = [
        f"{budget.clients:,} users, {budget.cohort:,} expected in each of {budget.rounds:,} rounds, {sampling}",
        f"unit: {UNIT}; neighbouring federations: {RELATION}; delta {budget.delta:.3g}",
        f"noise multiplier {budget.noise_multiplier:.4g}",
        *([] if (once := budget.scaling_noise) is None else [f"{once:.4g} of the features' moments, counted below"]),
        f"epsilon_released {budget.epsilon_released:.3g}: for whoever sees the model and not who takes part",
        f"epsilon_server {budget.epsilon_server:.3g}: for {server}, of the user who takes part most "
        f"({budget.participations} rounds expected); {budget.epsilon_server_average:.3g} of a user in "
        f"{budget.participations_average}",
        f"{against}: see docs/privacy.md",
        "",
        f"{'method':<12}{'weights':>9}{'up':>12}{'down':>12}{'noise / clip':>14}{'its length':>12}",
    ]
    for name, plan in result.methods.items():
        up, down = f"{plan.uplink_bytes / 1e3:,.1f} kB", f"{plan.downlink_bytes / 1e3:,.1f} kB"
        lines.append(f"{name:<12}{plan.parameters:>9,}{up:>12}{down:>12}{plan.noise:>14.4f}{plan.noise_length:>12.2f}")
    lines += [
        "up, down: bytes of one client in one round. noise / clip: standard deviation of the noise on each weight of",
        "the mean change, over the longest change of one client; its length: of the noise on all weights together.",
        *([f"not with noise: {', '.join(result.refused)} (--json says why)"] if result.refused else []),
        "",
        *_measured(result),
    ]
    return "\n".join(lines)


def _measured(result: PrivacyPlan) -> list[str]:
    rows = {name: row for name, row in result.measured.items() if row is not None}
    if not rows:
        return ["accuracy on the bundled world: not measured", "time of a round: not measured"]
    return [
        "on the bundled world, where it was measured with at least as much noise:",
        *(_line(name, row) for name, row in rows.items()),
    ]


def _line(name: str, row: Measured) -> str:
    return (
        f"{name}: gap closed {row.gap_closed:.2f} ({row.gap_closed_without:.2f} without privacy), "
        f"{row.seconds:.2f} s a round ({row.seconds_without:.2f}); {row.clients:,} users, cohort {row.cohort:,}, "
        f"{row.rounds} rounds, noise multiplier {row.noise_multiplier:.3g}, {row.seeds} seeds"
    )
