"""What DPO reads of clients' own pairs: tokens, with the log-probabilities of the frozen base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from fedvpa.algorithms.policy_method import ClientTexts
from fedvpa.core.progress import say
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair
from fedvpa.models.encoding import SAME_TOKENS, place_of
from fedvpa.policy.examples import Examples, reference_of
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import equal_rows, say_cuts


def all_examples(policy: Policy, pairs: Mapping[str, Sequence[Pair]], *, strict: bool) -> ClientTexts[Examples]:
    """The examples of all clients, and what was left out of their pairs; said on the terminal too.

    Raises:
        DataError: If ``strict`` and a pair is left out.
    """
    everything = [pair for own in pairs.values() for pair in own]
    say_weights(everything)
    tokens, cut = policy.tokenizer.pairs(everything)
    report = DataReport(len(everything), strict)
    for row in equal_rows(tokens):
        report = report.add(SAME_TOKENS, place_of(everything[row], row))
    for line in report.lines("training pairs"):
        say(line)
    say_cuts(cut, f"{len(everything)} training pairs")
    return ClientTexts({name: client_examples(policy, own) for name, own in pairs.items()}, report)


def say_weights(pairs: Iterable[Pair]) -> None:
    """Say it where pairs have importance weights: a language model that clients train reads each pair once."""
    weighted = sum(pair.weight != 1 for pair in pairs)
    if weighted:
        say(
            f"the weights of {weighted} training pairs are not used: clients that train a language model read each once"
        )


def client_examples(policy: Policy, pairs: Sequence[Pair]) -> Examples:
    """A client's pairs, tokenised, with the log-probabilities of the frozen base.

    Pairs whose responses have the same tokens are left out: they have nothing to learn from.
    """
    tokens, _ = policy.tokenizer.pairs(pairs)
    equal = set(equal_rows(tokens))
    tokens = [row for place, row in enumerate(tokens) if place not in equal]
    prompts = [prompt for prompt, _, _ in tokens]
    chosen, rejected = [good for _, good, _ in tokens], [bad for _, _, bad in tokens]
    told = policy.reference_log_probs(prompts * 2, chosen + rejected)
    both = list(zip(told[: len(tokens)], told[len(tokens) :], strict=True))
    return Examples(prompts, chosen, rejected, *reference_of(both), None, torch.zeros(len(tokens), dtype=torch.long))
