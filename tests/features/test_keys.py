"""Keys of texts and of tokens, how they are found again, and what is left to compute."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fedvpa.data.schema import Message, Pair
from fedvpa.features.cache import CacheFolder
from fedvpa.features.keys import find, pair_keys, response_keys, token_keys
from fedvpa.features.records import PAIR, Facts, Reason
from fedvpa.features.store import Gathered
from fedvpa.features.tokens import Row
from fedvpa.features.work import plan
from fedvpa.models.tokens import Frame

pytestmark = pytest.mark.unit


def keys(*texts: bytes) -> np.ndarray:
    return np.array([text.ljust(16, b".") for text in texts], dtype="S16")


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def test_random_keys_are_found_where_a_dictionary_has_them():
    """Also those that share a half, and those that are wanted twice."""
    draw = random.Random(7)
    for _ in range(200):
        pool = [bytes(8 * [draw.choice(b"abcd")] + 8 * [draw.choice(b"abcdefgh")]) for _ in range(20)]
        stored = draw.sample(sorted(set(pool)), k=draw.randrange(len(set(pool))))
        wanted = draw.choices(pool, k=draw.randrange(15))
        places = {key: place for place, key in enumerate(stored)}
        found = find(np.array(stored, dtype="S16"), np.array(wanted, dtype="S16"))
        assert found.tolist() == [places.get(key, -1) for key in wanted]


def test_keys_are_found_by_both_halves():
    stored = keys(b"12345678abc", b"12345678abd", b"other")
    wanted = keys(b"12345678abd", b"12345678abb", b"12345678abe", b"other", b"12345678abd")
    assert find(stored, wanted).tolist() == [1, -1, -1, 2, 1]
    assert find(stored[:0], stored).tolist() == [-1, -1, -1]
    assert find(stored, stored[:0]).tolist() == []


def test_texts_that_join_to_the_same_have_different_keys():
    """A prompt that ends where a response begins, sides that are swapped, and a string beside a message."""
    pairs = [
        Pair("ab", "c", "d"),
        Pair("a", "bc", "d"),
        Pair("ab", "d", "c"),
        Pair("ab", "c", "cd"),
        Pair("ab", "", "d"),
        Pair((Message("user", "ab"),), "c", "d"),
        Pair((Message("system", "ab"),), "c", "d"),
        Pair((Message("user", "a"), Message("user", "b")), "c", "d"),
        Pair("\U0001f600", "c", "d"),
        Pair("\u1f60", "c", "d"),
    ]
    assert len(set(pair_keys(pairs).tolist())) == len(pairs)
    sides = response_keys(pair_keys(pairs[:3])).reshape(-1, 2)
    assert sides[0].tolist() == sides[2, ::-1].tolist()
    assert pair_keys([Pair("ab", "c", "d", user_id="u", weight=2.0)]) == pair_keys(pairs[:1])


def test_tokens_have_keys_by_prompt_and_response():
    rows = [
        Row(ids(1, 2), ids(3), ids(4)),
        Row(ids(1), ids(2, 3), ids(2, 4)),
        Row(ids(1, 7), ids(3), ids(4)),
        Row(ids(1, 2), ids(4), ids(3)),
    ]
    found = token_keys(rows)
    assert len(set(found.tolist())) == 6
    assert found[:2].tolist() == found[:5:-1].tolist()


def planned(rows: list[Row], numbers: list[list[int]], left: set[int], facts: Facts) -> list[tuple[list[int], bool]]:
    wanted = np.array([text in left for text in range(1 + max(map(max, numbers)))])
    work = plan(rows, np.array(numbers), wanted, facts, Frame())
    return list(zip(work.texts.tolist(), work.sharing.tolist(), strict=True))


def test_responses_to_one_prompt_are_computed_two_by_two_and_each_once():
    shares, apart = Facts("causal", 1, "", None), Facts("encoder", 1, "attention is bidirectional", None)
    prompt, other = ids(1, 2), ids(9)
    rows = [
        Row(prompt, ids(3), ids(4)),
        Row(other, ids(3), ids(3)),
        Row(prompt, ids(5), ids(3)),
        Row(prompt, ids(6), ids(5)),
    ]
    numbers = [[0, 1], [2, 2], [3, 0], [4, 3]]
    everything = set(range(5))
    assert planned(rows, numbers, everything, shares) == [([0, 1], True), ([2, -1], True), ([3, 4], True)]
    assert planned(rows, numbers, everything, apart) == [([text, -1], False) for text in (0, 1, 2, 3, 4)]
    assert planned(rows, numbers, {1, 3}, shares) == [([1, 3], True)]
    # What is left behind any of the planned rows is planned as before.
    whole = planned(rows, numbers, everything, shares)
    for done, _ in whole:
        left = everything - set(done)
        assert planned(rows, numbers, left, shares) == [row for row in whole if row[0] != done]


def test_beyond_the_window_a_response_stands_alone():
    rows = [Row(ids(1), ids(2), ids(3, 4, 5)), Row(ids(1), ids(6), ids(7))]
    found = planned(rows, [[0, 1], [2, 3]], {0, 1, 2, 3}, Facts("causal", 1, "", 3))
    assert found == [([0, 2], True), ([1, -1], False), ([3, -1], True)]


def test_gathered_rows_read_as_an_array_of_them_would():
    source = np.arange(12.0).reshape(4, 3)
    rows = Gathered(source, np.array([3, 0, 3, 1]))
    whole = source[[3, 0, 3, 1]]
    assert rows.shape == whole.shape
    assert rows.dtype == whole.dtype
    for index in (2, slice(1, 3), [3, 0], np.array([1, 1]), (slice(None), slice(1, None)), ([0, 2], slice(0, 1))):
        np.testing.assert_array_equal(rows[index], whole[index])
    np.testing.assert_array_equal(np.asarray(rows), whole)
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="is a copy"):
        np.array(rows, copy=False)


def test_what_another_process_has_added_in_the_meantime_stays_in_place(tmp_path):
    """Two writers that began with the same content add one response and one pair twice, and reasons of their own."""
    folder = CacheFolder.of(tmp_path, {"storage": "float32"})
    folder.create(Facts("causal", 2, "", None))
    folder.create(Facts("causal", 2, "other", None))
    a, b, c = keys(b"a"), keys(b"b"), keys(b"c")
    folder.add_texts(np.concatenate([a, b]), np.array([[1, 2], [3, 4]], np.float32))
    folder.add_texts(np.concatenate([b, c]), np.array([[7, 7], [5, 6]], np.float32))
    for name, texts, problem in ((b"p", (0, 1), "x"), (b"p", (1, 0), "y"), (b"q", (2, 1), "y"), (b"r", (0, 0), "")):
        record = np.zeros(1, PAIR)
        record["key"], record["texts"], record["reason"] = name * 32, texts, bool(problem)
        folder.add_pairs(record, [Reason(problem)] if problem else [])
    found = folder.content()
    assert found.facts.obstacle == ""
    assert found.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.texts.tolist() == [*a, *b, *c]
    assert found.pairs["texts"].tolist() == [[0, 1], [2, 1], [0, 0]]
    assert [found.reasons[number - 1].problem if number else "" for number in found.pairs["reason"]] == ["x", "y", ""]
    assert folder.missing(np.array([b"r" * 32, b"s" * 32, b"p" * 32])).tolist() == [1]
    assert found.records(np.array([b"r" * 32, b"s" * 32])) is None
