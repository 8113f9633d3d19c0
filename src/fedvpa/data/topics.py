"""What prompts are about: clusters of prompts, found without a language model.

The bundled world says itself what its prompts are about. Prompts of other data are clustered by their words: tf-idf of
hashed words, its main directions (latent semantic analysis: Deerwester et al., 1990), and k-means on the sphere. It
needs no model and no vocabulary of any language, and it gives the same clusters whatever the order of the prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.data.schema import Text
from fedvpa.data.splits import Ints, prompt_name
from fedvpa.data.text import plain_text

_SEED = 0
"""Topics are a property of the data, so no seed of a run moves them."""

_DIRECTIONS = 100
"""Directions that are kept; the number that scikit-learn recommends for latent semantic analysis."""

_WORDS = 2**18
"""Buckets of hashed words: scikit-learn's default."""


def topics_of(prompts: Sequence[Text], count: int) -> Ints:
    """The topic of each prompt.

    Args:
        prompts: Prompts; equal ones (white space aside) are of one topic.
        count: How many topics.

    Returns:
        A number from 0 for each prompt. On the bundled world its forty topics, neighbours of which are taken together:
        of an even number of topics each is benign or risky as a whole.

    Raises:
        DataError: If there are fewer different prompts than topics, or no words that tell them apart.
    """
    names = [prompt_name(prompt) for prompt in prompts]
    first = dict(zip(names, prompts, strict=True))
    known = sorted(first)
    if len(known) < count:
        raise DataError(
            f"{len(known)} different prompts are fewer than the {count} topics that they shall be dealt by.",
            fix=f"Lower partition.topics to {len(known)} or less, or give more prompts."
            if len(known) > 1
            else "Use another partition.kind.",
        )
    found = _of_the_world(known, count)
    if found is None:
        found = _clusters([plain_text(first[name]) for name in known], count)
    if len(np.unique(found)) < 2:
        raise DataError(
            f"{len(known)} prompts have no words that tell them apart, so they have no topics.",
            fix="Use another partition.kind.",
        )
    place = {name: number for number, name in enumerate(known)}
    return found[np.fromiter((place[name] for name in names), np.int64, len(names))]


def _of_the_world(names: Sequence[str], count: int) -> Ints | None:
    """The world's topics, taken together; None if one of the prompts is not the world's."""
    from fedvpa.world.lexicon import TOPICS  # deferred, as below: a configuration is read without it
    from fedvpa.world.prompts import prompts as world_prompts

    topic = {prompt_name(prompt.text): prompt.intent.topic for prompt in world_prompts()}
    if count > len(TOPICS) or not all(name in topic for name in names):
        return None
    number = {one.name: place * count // len(TOPICS) for place, one in enumerate(TOPICS)}
    return np.array([number[topic[name]] for name in names], dtype=np.int64)


def _clusters(texts: Sequence[str], count: int) -> Ints:
    """Texts clustered by their words. In float64, so that rounding on another machine moves no text."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.preprocessing import normalize

    words = HashingVectorizer(n_features=_WORDS, norm=None, alternate_sign=False, token_pattern=r"\w+").transform(texts)
    if not (words.max(axis=0) != words.min(axis=0)).nnz:  # all texts have the same words, or none
        return np.zeros(len(texts), dtype=np.int64)
    weights = TfidfTransformer(sublinear_tf=True).fit_transform(words[:, np.unique(words.indices)])
    directions = TruncatedSVD(min(_DIRECTIONS, *weights.shape), random_state=_SEED).fit_transform(weights)
    means = KMeans(count, n_init=4, random_state=_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than topics: some stay empty
        found: Ints = means.fit_predict(normalize(directions)).astype(np.int64)
    return found
