"""Secure aggregation as pure functions: the sum is exact, one vector is noise, as are too few shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import stats

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")

from fedvpa.core.errors import DataError
from fedvpa.privacy.quantised import SLACK, Layout, Words, quantised, restored
from fedvpa.privacy.secure_sum import (
    PublicKeys,
    Secrets,
    Share,
    check_round,
    dealt,
    masked,
    opened,
    public_key,
    unmasked,
)
from fedvpa.privacy.shamir import PRIME, number, secret_of, shares_of
from fedvpa.privacy.thresholds import threshold_of

FALSE_ALARM = 1e-3
"""How often a test of uniformity fails on numbers that are uniform; its seeds are fixed, so always or never."""

LAYOUT = Layout(
    {"delta.w": 3.0, "delta.b": 3.0, "weight": 30.0, "spread": 1e12},
    {"delta.w": (5, 7), "delta.b": (), "weight": (), "spread": (2,)},
    clients=10,
)


def random_bytes(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def tree(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: ((2 * torch.rand(shape, generator=generator) - 1) * scale * LAYOUT.largest[name])
        for name, shape in LAYOUT.shapes.items()
    }


@dataclass
class Round:
    """Nodes that have dealt shares, and what each holds."""

    secrets: dict[int, Secrets]
    keys: dict[int, PublicKeys]
    shares: dict[int, dict[int, Share]]

    @classmethod
    def of(cls, nodes: int, threshold: int) -> Round:
        secrets = {17 + 3 * number: Secrets.new(random_bytes(number)) for number in range(nodes)}
        keys = {node: one.public for node, one in secrets.items()}
        deals = {node: dealt(node, one, keys, threshold) for node, one in secrets.items()}
        shares = {
            node: {
                node: deals[node][1],
                **opened(node, one, keys, {other: deals[other][0][node] for other in keys if other != node}),
            }
            for node, one in secrets.items()
        }
        return cls(secrets, keys, shares)

    def masked(self, node: int, words: Words) -> Words:
        return masked(words, node, self.secrets[node], self.keys)

    def sum_of(self, vectors: dict[int, Words], holders: list[int]) -> Words:
        """What the server makes of the vectors and of what these nodes hand out."""
        seeds = {node: [self.shares[holder][node].seed for holder in holders] for node in vectors}
        keys = {node: [self.shares[holder][node].mask_key for holder in holders] for node in self.keys}
        return unmasked(vectors, self.keys, seeds, {node: keys[node] for node in self.keys.keys() - vectors.keys()})


@pytest.mark.reference
@pytest.mark.parametrize("silent", [0, 3])
def test_the_unmasked_sum_is_the_plain_one_to_the_quantisation_step(silent: int):
    made = Round.of(10, threshold_of(10, 2 / 3))
    nodes = sorted(made.keys)
    updates = {node: tree(node) for node in nodes}
    sent = nodes[silent:]
    vectors = {node: made.masked(node, quantised(LAYOUT, updates[node], 1)) for node in sent}
    got = restored(LAYOUT, made.sum_of(vectors, sent[-7:]))
    for name in LAYOUT.shapes:
        want = sum(updates[node][name].double() for node in sent)
        rounding = len(sent) * LAYOUT.step(name) / 2 + 2.0**-24 * float(want.abs().max())  # the second of float32
        assert float((got[name].double() - want).abs().max()) <= rounding
    assert LAYOUT.step("delta.w") < 2e-8
    assert LAYOUT.step("spread") < 2e-6


@pytest.mark.unit
def test_the_sum_of_the_largest_values_of_all_clients_does_not_wrap_around():
    most = {name: torch.full(shape, LAYOUT.largest[name]) for name, shape in LAYOUT.shapes.items()}
    for sign in (1, -1):
        slack = sign * (1 + 0.999 * SLACK)
        words = [quantised(LAYOUT, {name: slack * leaf for name, leaf in most.items()}, 1)] * 10
        got = restored(LAYOUT, sum(words[1:], start=words[0]))
        for name, leaf in most.items():
            torch.testing.assert_close(got[name], 10 * slack * leaf, rtol=1e-6, atol=0)


@pytest.mark.reference
@pytest.mark.parametrize("scale", [0.0, 1.0], ids=["zeros", "values"])
def test_a_masked_vector_is_uniform_whatever_it_hides(scale: float):
    """χ² of its bytes, at FALSE_ALARM for each of the eight and four places, and for pairs of neighbours."""
    size = 20_000
    layout = Layout({"delta.w": 1.0, "seen": 1.0}, {"delta.w": (size,), "seen": (size,)}, 3)
    values = {name: torch.full((size,), scale * 0.3) for name in layout.shapes}
    made = Round.of(3, 3)
    node = min(made.keys)
    plain = quantised(layout, values, 1)
    hidden = made.masked(node, plain)
    for before, after in ((plain.narrow, hidden.narrow), (plain.wide, hidden.wide)):
        places = after.view(np.uint8).reshape(size, -1)
        for place in range(places.shape[1]):
            assert stats.chisquare(np.bincount(places[:, place], minlength=256)).pvalue > FALSE_ALARM
        pairs = (places[:-1, 0] >> 4).astype(int) * 16 + (places[1:, 0] >> 4)
        assert stats.chisquare(np.bincount(pairs, minlength=256)).pvalue > FALSE_ALARM
        before = before.view(np.uint8).reshape(size, -1)
        assert stats.chisquare(np.bincount(before[:, 0], minlength=256)).pvalue < 1e-12, "the test has power"


@pytest.mark.reference
def test_masks_of_one_kind_alone_hide_as_well_and_two_vectors_of_a_node_are_unrelated():
    """Of a silent node the pair masks become known: its own mask must do, and of others the own mask: pairs must do."""
    made, size = Round.of(4, 3), 20_000
    zeros = Words(np.zeros(size, np.uint32), np.zeros(0, np.uint64))
    node, other, *_ = sorted(made.keys)
    alone = masked(zeros, node, made.secrets[node], {node: made.keys[node]})
    pair = masked(zeros, node, made.secrets[node], {key: made.keys[key] for key in (node, other)}) - alone
    back = masked(zeros, other, made.secrets[other], {key: made.keys[key] for key in (node, other)})
    back = back - masked(zeros, other, made.secrets[other], {other: made.keys[other]})
    assert not (pair + back).narrow.any(), "what one adds the other subtracts"
    for words in (alone, pair, alone - pair):
        top = (words.narrow >> 24).astype(int)
        assert stats.chisquare(np.bincount(top, minlength=256)).pvalue > FALSE_ALARM


@pytest.mark.unit
def test_below_the_threshold_shares_give_nothing():
    made = Round.of(10, 7)
    nodes = sorted(made.keys)
    zeros = Words(np.zeros(50, np.uint32), np.zeros(9, np.uint64))
    vectors = {node: made.masked(node, zeros) for node in nodes[3:]}
    assert not made.sum_of(vectors, nodes[3:]).wide.any()
    with pytest.raises(DataError, match="shares of a seed do not give it"):
        made.sum_of(vectors, nodes[4:])
    with pytest.raises(DataError, match="do not belong together"):
        made.sum_of(vectors, nodes[:1] * 7)


@pytest.mark.reference
@pytest.mark.parametrize("known", [6, 7, 10])
def test_shares_give_the_secret_from_the_threshold_on_and_any_value_below(known: int):
    secret = number(random_bytes(3)).to_bytes(32)
    shares = shares_of(secret, 7, 10, random_bytes(4))
    assert (secret_of(shares[10 - known :]) == secret) == (known >= 7)
    # One share less fits every other secret too: a further share that makes it so can be found.
    other = number(random_bytes(5))
    points = [0, *(int.from_bytes(share[:2]) for share in shares[:6])]
    values = [other, *(int.from_bytes(share[2:]) for share in shares[:6])]
    at = 11
    value = 0
    for point, y in zip(points, values, strict=True):
        term = y
        for others in points:
            if others != point:
                term = term * (at - others) * pow(point - others, -1, PRIME) % PRIME
        value += term
    forged = at.to_bytes(2) + (value % PRIME).to_bytes(32)
    assert secret_of([*shares[:6], forged]) == other.to_bytes(32)


@pytest.mark.reference
def test_the_field_is_that_of_the_keys():
    assert pow(3, PRIME - 1, PRIME) == 1
    last, first = (public_key(value.to_bytes(32)) for value in (PRIME - 1, 1))
    assert last[1:] == first[1:], "−G and G differ in the sign of y alone"
    with pytest.raises(DataError):
        public_key(PRIME.to_bytes(32))


@pytest.mark.unit
def test_a_wrong_share_of_a_key_is_noticed():
    made = Round.of(4, 3)
    silent, *sent = sorted(made.keys)
    zeros = Words(np.zeros(3, np.uint32), np.zeros(0, np.uint64))
    vectors = {node: made.masked(node, zeros) for node in sent}
    for holder in sent:
        mine = made.shares[holder]
        mine[silent] = replace(mine[silent], mask_key=mine[sent[0]].mask_key)
    with pytest.raises(DataError, match="shares of a key do not give it"):
        made.sum_of(vectors, sent)


@pytest.mark.unit
def test_a_share_is_read_by_the_node_that_it_is_for_alone():
    made = Round.of(3, 3)
    one, two, three = sorted(made.keys)
    sealed, _ = dealt(one, made.secrets[one], made.keys, 3)
    assert set(opened(two, made.secrets[two], made.keys, {one: sealed[two]})) == {one}
    for reader, sender, content in [
        (two, one, sealed[three]),
        (three, two, sealed[three]),
        (two, one, sealed[two][:-4] + b"AAA="),
    ]:
        with pytest.raises(DataError, match="changed on its way"):
            opened(reader, made.secrets[reader], made.keys, {sender: content})
    # Under its own number a node cannot send on what another one dealt.
    keys = {**made.keys, three: made.keys[one]}
    with pytest.raises(DataError, match="not what it was sent as"):
        opened(two, made.secrets[two], keys, {three: sealed[two]})


@pytest.mark.unit
@pytest.mark.parametrize(("nodes", "threshold"), [(2, 2), (10, 5), (10, 11), (3, 2)])
def test_a_node_refuses_a_round_that_would_give_its_vector_away(nodes: int, threshold: int):
    keys = {node: Secrets.new(random_bytes(node)).public for node in range(nodes)}
    with pytest.raises(DataError, match=r"needs 3 nodes|is not safe"):
        check_round(keys.keys(), keys, threshold)


@pytest.mark.unit
def test_a_node_refuses_others_that_are_one():
    keys = {node: Secrets.new(random_bytes(min(node, 2))).public for node in range(5)}
    with pytest.raises(DataError, match="keys of their own"):
        check_round(keys.keys(), keys, 4)
    check_round(range(3), {node: keys[node] for node in range(3)}, 3)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("nodes", "share", "want"), [(10, 2 / 3, 7), (9, 2 / 3, 7), (3, 2 / 3, 3), (4, 0.5, 3), (100, 0.5, 51)]
)
def test_more_than_the_share_must_stay(nodes: int, share: float, want: int):
    assert threshold_of(nodes, share) == want


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("delta.b", float("nan"), "delta.b is not finite"),
        ("weight", 31.0, "weight has 31, and 30 is the most"),
        ("delta.b", None, "differ in delta.b"),
        ("delta.w", 0.0, r"delta.w has shape \(\), and the server asks for \(5, 7\)"),
    ],
)
def test_what_would_spoil_the_sum_is_not_sent(name: str, value: float | None, said: str):
    sums = tree(1)
    sums.pop(name)
    if value is not None:
        sums[name] = torch.tensor(value)
    with pytest.raises(DataError, match=said):
        quantised(LAYOUT, sums, 1)


@pytest.mark.unit
def test_secrets_say_nothing_of_themselves_and_are_never_the_same():
    one, two = Secrets.new(), Secrets.new()
    assert repr(one) == "Secrets(…)"
    assert len({one.mask_key, two.mask_key, one.cipher_key, two.cipher_key, one.seed, two.seed}) == 6
