"""Topics of prompts, and clients whose prompts are mixtures of them."""

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.partition import PartitionConfig, partition
from fedvpa.data.schema import Message, Pair, PairTable
from fedvpa.data.topics import topics_of
from fedvpa.world.prompts import find_prompt, prompts

pytestmark = pytest.mark.unit

THEMES = ("bread oven flour", "tent trail map", "loan rate bank", "chord song drum", "shoe sole lace")


def themed(count, seed=0):
    rng = np.random.default_rng(seed)
    themes = rng.integers(len(THEMES), size=count)
    return [f"{' '.join(rng.permutation(THEMES[theme].split()))} number {i}" for i, theme in enumerate(themes)], themes


def table(count=997, **kinds):
    texts, themes = themed(count, **kinds)
    return PairTable(tuple(Pair(text, f"c{i}", f"r{i}", pair_id=f"#{i}") for i, text in enumerate(texts))), themes


def mixes(pairs, codes, alpha, clients=7):
    dealt = partition(pairs, PartitionConfig(kind="topics", clients=clients, topics=5, alpha=alpha, min_train=1), 1)
    rows = [np.concatenate([client.train, client.test]) for client in dealt.clients]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(pairs)))
    return np.stack([np.bincount(codes[own], minlength=5) / len(own) for own in rows])


def test_prompts_of_the_same_words_are_of_one_topic():
    texts, themes = themed(211)
    found = topics_of(texts, 5)
    assert len({(topic, theme) for topic, theme in zip(found, themes, strict=True)}) == 5
    assert np.array_equal(topics_of([f"  {text}\n" for text in texts], 5), found)
    talks = [(Message("user", text), Message("assistant", "So?")) for text in texts]
    assert len(set(zip(topics_of(talks, 5).tolist(), themes.tolist(), strict=True))) == 5


def test_a_prompts_topic_does_not_depend_on_the_order_of_the_prompts():
    texts, _ = themed(211)
    order = np.random.default_rng(1).permutation(len(texts))
    assert np.array_equal(topics_of([texts[row] for row in order], 7), topics_of(texts, 7)[order])


def test_the_world_says_what_its_prompts_are_about():
    texts = [prompt.text for prompt in prompts("train")]
    risky = np.array([find_prompt(text).intent.risky for text in texts])
    assert np.array_equal(topics_of(texts, 2) == 1, risky)
    names = [find_prompt(text).intent.topic for text in texts]
    assert len(set(zip(topics_of(texts, 40).tolist(), names, strict=True))) == 40
    eight = topics_of(texts, 8)
    assert len(set(zip(eight.tolist(), risky.tolist(), strict=True))) == 8
    assert np.bincount(eight).min() > len(texts) / 10


def test_alpha_says_how_far_clients_prompts_differ():
    pairs, codes = table()
    overall = np.bincount(codes) / len(codes)
    assert np.abs(mixes(pairs, codes, 1e6) - overall).max() < 0.02
    main = [(mixes(pairs, codes, alpha) > 0.05).sum(1).mean() for alpha in (0.02, 0.5, 1e6)]
    assert main[0] <= 2 < main[1] < 4
    assert main[2] == 5


def test_train_and_test_of_a_client_are_of_the_same_topics():
    pairs, codes = table(1999)
    dealt = partition(pairs, PartitionConfig(kind="topics", clients=5, topics=5, min_train=1, test_fraction=0.4), 1)
    for client in dealt.clients:
        train, test = (np.bincount(codes[rows], minlength=5) / len(rows) for rows in (client.train, client.test))
        assert np.abs(train - test).max() < 0.1


def test_a_deal_follows_from_pairs_and_seed_alone():
    pairs, _ = table(401)
    config = PartitionConfig(kind="topics", clients=5, unseen=2, topics=5, alpha=1.0, min_train=1)

    def contents(some, seed):
        return {
            client.client_id: sorted(some.pairs[row].pair_id for row in np.concatenate([client.train, client.test]))
            for client in partition(some, config, seed).clients
        }

    shuffled = pairs.select(np.random.default_rng(0).permutation(len(pairs)).tolist())
    first = contents(pairs, 3)
    assert list(first) == [*(f"client-{n}" for n in range(5)), "unseen-0", "unseen-1"]
    assert contents(pairs, 3) == first == contents(shuffled, 3)
    assert contents(pairs, 4) != first


def test_a_client_of_topics_has_users_of_all_groups_and_so_none_of_its_own():
    pairs = load(DataConfig(users=10, pairs_per_user=31))
    dealt = partition(pairs, PartitionConfig(kind="topics", clients=4, alpha=1.0), 0)
    assert {client.group for client in dealt.clients} == {None}
    assert sum(len(client.train) + len(client.test) for client in dealt.clients) == len(pairs)


def test_wrong_input_is_one_message():
    pairs = PairTable(tuple(Pair(f"p{i % 3}", f"c{i}", f"r{i}", pair_id=str(i)) for i in range(60)))
    with pytest.raises(DataError, match=r"3 different prompts are fewer than the 8 topics .* partition\.topics to 3"):
        partition(pairs, PartitionConfig(kind="topics"), 0)
    with pytest.raises(DataError, match="have no words that tell them apart"):
        topics_of(["?!", "??", "!!"], 2)
    with pytest.raises(ConfigError, match="'topics' was set, and a partition of kind 'dirichlet'"):
        PartitionConfig.parse({"kind": "dirichlet", "topics": 3})
    with pytest.raises(ConfigError, match="'shares' was set, and a partition of kind 'topics'"):
        PartitionConfig.parse({"kind": "topics", "shares": {"helpful": 1.0}})
