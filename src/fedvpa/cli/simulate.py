"""``fedvpa simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import JsonOption, finish
from fedvpa.styles.config import DEFAULT_POPULATION

if TYPE_CHECKING:
    from fedvpa.api.simulate import SimulateResult


def simulate(
    model: Annotated[str, typer.Option(help="A folder, a .gguf file or a hub id of a causal language model.")],
    prompts: Annotated[Path, typer.Option(help="A file of prompts: one a line, or .jsonl.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    users: Annotated[
        str, typer.Option(help="two-styles, four-styles, individuals, or a YAML file of weights.")
    ] = DEFAULT_POPULATION,
    clients: Annotated[int, typer.Option(help="Users who train.")] = 10,
    unseen: Annotated[int, typer.Option(help="Further users, for partition.unseen.")] = 0,
    pairs: Annotated[int, typer.Option(help="Pairs of each user.")] = 200,
    samples: Annotated[int, typer.Option(help="Samples of each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Nucleus of the samples.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest sample.")] = 128,
    label_temperature: Annotated[float, typer.Option(help="Of the labels: lower is less noisy.")] = 1.0,
    pair_prompts: Annotated[
        int | None,
        typer.Option(help="Prompts that make pairs, by default six in ten; others align and judge policies."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Names every draw.")] = 0,
    samples_from: Annotated[Path | None, typer.Option(help="Take the samples of this simulation.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Responses sampled at once.")] = 64,
    loading: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of how the model is fetched and loaded, such as revision=main.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, or a torch device.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Sample a model, draw users whose taste is known exactly, and write their labelled pairs as a table."""
    from fedvpa.api.simulate import simulate as run_it

    result = run_it(
        model,
        prompts,
        out,
        users=users,
        clients=clients,
        unseen=unseen,
        pairs=pairs,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        label_temperature=label_temperature,
        pair_prompts=pair_prompts,
        seed=seed,
        samples_from=samples_from,
        batch=batch,
        loading=_settings(loading or []),
        precision=precision,  # type: ignore[arg-type]  # the verb checks it
        device=device,
    )
    finish(result.to_dict(), as_json, lambda: _text(result))


def _settings(entries: list[str]) -> dict[str, str]:
    """``--loading revision=main`` as settings.

    Raises:
        ConfigError: For an entry without ``=``.
    """
    from fedvpa.core.errors import ConfigError

    for entry in entries:
        if "=" not in entry:
            raise ConfigError(f"--loading {entry} sets nothing.", fix="Write --loading KEY=VALUE.")
    return dict(entry.split("=", 1) for entry in entries)


def _text(result: SimulateResult) -> str:
    """The properties with their spread and weights, the users, and what can be done next."""
    groups = list(result.groups)
    lines = [
        f"{'property':<16}{'mean':>8}{'sd':>8}{'in prompt':>11}{'differs':>9}"
        + "".join(f"{name:>10}" for name in groups)
    ]
    for name, spread in result.properties.items():
        weights = (result.groups[group].get(name) for group in groups)
        shown = "".join(" " * 10 if weight is None else f"{weight:>+10.2f}" for weight in weights)
        numbers = f"{spread['mean']:>8.3f}{spread['deviation']:>8.3f}{spread['within_prompt']:>11.3f}"
        lines.append(f"{name:<16}{numbers}{spread['differing']:>9.0%}{shown}".rstrip())
    users = ", ".join(f"{name} {count}" for name, count in result.users.items())
    own = "".join(f", {name} {value:.3f}" for name, value in result.bayes_accuracy_by_group.items())
    lines += [
        "sd: standard deviation over all samples; in prompt: of those of one prompt; differs: pairs of samples of one",
        "prompt that differ in it. Weights are in units of utility.",
        f"samples that end before the limit: {result.ended:.0%}",
        f"users: {users}; {result.pairs} pairs",
        f"Bayes accuracy {result.bayes_accuracy:.3f}{own}; labels as the utilities have it: {result.agreement:.3f}",
        str(result.table),
        "next:",
        *(f"  {command}" for command in result.next),
    ]
    return "\n".join(lines)
