"""Scores of made-up clients."""

from fedvpa.evaluation.scores import ClientScore


def score(method, client, correct, *, n=2, seed=0, group="a", seen=True, holdout=None):
    return ClientScore(method, n, seed, client, group, seen, correct, 10, holdout, None if holdout is None else 5)


def by_hand():
    """Two clients of two groups, one seed; global 0.5, method 0.7, oracle 0.75; an unseen client beside them."""
    plan = {"global": (5, 5, 4, 2), "m": (8, 6, 6, 3), "oracle": (8, 7, 7, 4)}
    scores = []
    for method, (first, second, unseen, holdout) in plan.items():
        scores.append(score(method, "x", first, holdout=holdout))
        scores.append(score(method, "y", second, group="b", holdout=holdout))
        scores.append(score(method, "z", unseen, group="b", seen=False))
    return scores
