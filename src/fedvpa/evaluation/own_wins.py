"""``own_wins``: what a user's own ratings say of the same responses, without reading any text.

A yardstick for data whose users rate the same responses in several pairs. Each response text has the share of the
user's own training pairs that it won (a Borda count), under a prior of one win and one loss: (wins + 1) / (pairs + 2),
so that a response which the user never rated stands at ½. The one with the larger share wins a test pair; a tie is a
coin and counts one half. The prior is that of Laplace's rule of succession, chosen by us.

A method that reads text should beat it, or knows no more of a user than a table of the user's ratings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedvpa.data.partition import ClientRows
from fedvpa.data.schema import Pair
from fedvpa.data.splits import prompt_name
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.summaries import OWN_WINS

LEAST_SHARE = 0.5
"""So many of the test pairs must have a response that the same user rated in training. Chosen by us: below, the row
is mostly coins."""


def own_wins_scores(
    pairs: Sequence[Pair], clients: Sequence[ClientRows], items: Sequence[str], *, n_clients: int, seed: int
) -> list[ClientScore]:
    """Scores of all clients that have a test pair.

    Args:
        pairs: The table.
        clients: Seen and unseen ones.
        items: What each pair is about; see :func:`fedvpa.evaluation.scores.item_name`.
        n_clients: How many of the clients are seen.
        seed: The run's seed.
    """
    scores = []
    for client in clients:
        if not len(client.test):
            continue
        share = win_shares([pairs[row] for row in client.train])
        right = [_right(share, pairs[row]) for row in client.test]
        names = [items[row] for row in client.test]
        told = (OWN_WINS, n_clients, seed, client.client_id, client.group, client.seen)
        scores.append(ClientScore.of_pairs(*told, right=right, names=names))
    return scores


def win_shares(pairs: Sequence[Pair]) -> dict[str, float]:
    """Response text → (wins + 1) / (pairs + 2) over some pairs of one user."""
    wins, rated = Counter[str](), Counter[str]()
    for pair in pairs:
        chosen, rejected = prompt_name(pair.chosen), prompt_name(pair.rejected)
        wins[chosen] += 1
        rated.update((chosen, rejected))
    return {text: (wins[text] + 1) / (count + 2) for text, count in rated.items()}


def share_rated(pairs: Sequence[Pair], clients: Sequence[ClientRows]) -> float:
    """The share of test pairs with a response that the same client rated in training; 0 without test pairs."""
    known = total = 0
    for client in clients:
        rated = {prompt_name(text) for row in client.train for text in (pairs[row].chosen, pairs[row].rejected)}
        total += len(client.test)
        known += sum(
            prompt_name(pairs[row].chosen) in rated or prompt_name(pairs[row].rejected) in rated for row in client.test
        )
    return known / total if total else 0.0


def _right(share: dict[str, float], pair: Pair) -> float:
    chosen, rejected = (share.get(prompt_name(text), 0.5) for text in (pair.chosen, pair.rejected))
    return 0.5 if chosen == rejected else float(chosen > rejected)
