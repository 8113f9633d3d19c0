"""Did a policy keep its language? Its answers under each preference beside the base policy's, on the same prompts.

Both answer each prompt once, with the same draws, at the run's temperature. For each preference it prints the mean
log-probability of a token of the answers under the base policy, distinct-2 relative to the base's own (Li et al., arXiv
1510.03055; each answer cut as the other's to the same prompt), the share of answers that end before the limit, and
their mean length. The first ``--show`` answers follow, as they came. Prints Markdown.

    python benchmarks/policy_language.py RUN --prompts FILE --preferences plain careful
    python benchmarks/policy_language.py RUN --prompts benchmarks/everyday_prompts.txt --preferences plain --show 20
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedvpa.alignment.guard import distinct_beside, per_token
from fedvpa.data.prompt_files import read_prompts
from fedvpa.data.text import plain_text
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids

COLUMNS = ("answers", "log-probability a token under the base", "distinct-2", "end before the limit", "tokens")


def main() -> None:
    """Answer, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="A run directory with a policy.")
    parser.add_argument("--prompts", type=Path, required=True, help="One prompt a line, or .jsonl.")
    parser.add_argument("--preferences", nargs="*", default=[], help="What fedvpa generate --preference takes.")
    parser.add_argument("--count", type=int, default=200, help="How many of the prompts.")
    parser.add_argument("--show", type=int, default=0, help="How many answers to print.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    policy = Policy.from_pretrained(options.run)
    texts = read_prompts(options.prompts)[: options.count]
    prompts = policy.tokenizer.prompts(texts)
    limit = policy.sampling.max_new_tokens
    with policy.reference() as reference:
        base = reference.sample(prompts, None, policy.sampling, options.seed, "language")
    said = policy.reference_log_probs(prompts, base)
    found = {}
    for name in options.preferences or [None]:
        z = policy.latent(name)
        each = None if z is None else z.expand(len(prompts), -1)
        found[name or "policy"] = policy.sample(prompts, each, policy.sampling, options.seed, "language")
    print(f"{len(prompts)} prompts, at most {limit} tokens at temperature {policy.sampling.temperature:g}\n")
    rows = [COLUMNS, ["---"] * len(COLUMNS), _row("base", base, said, base, limit)]
    for name, answers in found.items():
        rows.append(_row(name, answers, policy.reference_log_probs(prompts, answers), base, limit))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    for place in range(min(options.show, len(texts))):
        print(f"\n**{plain_text(texts[place])}**\n")
        for name, answers in (("base", base), *found.items()):
            shown = " ⏎ ".join(policy.tokenizer.text(answers[place]).strip().splitlines())
            print(f"- *{name}*: {shown}{'' if _ended([answers[place]], limit) else ' …'}")


def _row(
    name: str, own: Sequence[Ids], said: Sequence[NDArray[np.float32]], base: Sequence[Ids], limit: int
) -> list[str]:
    distinct, base_distinct = distinct_beside(own, base)
    shares = (per_token(said), distinct / base_distinct, _ended(own, limit))
    return [name, *(f"{share:.3f}" for share in shares), f"{np.mean([*map(len, own)]):.1f}"]


def _ended(answers: Sequence[Ids], limit: int) -> float:
    """The share of answers that end before the limit."""
    return float(np.mean([len(ids) < limit for ids in answers]))


if __name__ == "__main__":
    main()
