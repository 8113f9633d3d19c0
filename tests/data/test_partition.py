from dataclasses import replace

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.partition import PartitionConfig, partition
from fedvpa.data.schema import Message, Pair, PairTable
from fedvpa.data.shares import apportion, shares_of_all
from fedvpa.data.splits import TEST, SplitRule
from fedvpa.world.users import find_population, make_users

pytestmark = pytest.mark.unit

GROUPS = ("amber", "blue", "coral")


def table(pairs=211, users=23, groups=GROUPS, prompts=89, seed=0):
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, users, pairs)
    return PairTable(
        tuple(
            Pair(
                f"p{rng.integers(prompts)}", f"c{i}", f"r{i}", f"u{owner}", groups[owner % len(groups)], pair_id=f"#{i}"
            )
            for i, owner in enumerate(owners)
        )
    )


def contents(pairs, dealt):
    """Client → ids of its train, validation and test pairs: a partition without row numbers."""
    return {
        client.client_id: tuple(
            sorted(pairs.pairs[row].pair_id for row in rows) for rows in (client.train, client.validation, client.test)
        )
        for client in dealt.clients
    }


def random_config(trial):
    rng = np.random.default_rng(trial)
    kind = ("group", "dirichlet", "natural")[trial % 3]
    sized = kind != "natural"
    return PartitionConfig.parse(
        {
            "kind": kind,
            "clients": int(rng.integers(3, 8)),
            "unseen": int(rng.integers(0, 5)),
            "sizes": "log-normal" if sized and rng.random() < 0.5 else "equal",
            "shares": {"amber": 3, "coral": 2} if kind == "group" and rng.random() < 0.5 else {},
            "alpha": 2.0 if kind == "dirichlet" else 0.3,
            "validation_fraction": float(rng.choice([0.0, 0.1])),
            "pairs_per_client": [None, 13][int(rng.integers(2))],
            "min_train": 1,
            "drop_small": kind == "natural",
        }
    )


@pytest.mark.parametrize("trial", range(97))
def test_every_row_goes_to_at_most_one_client_and_part(trial):
    pairs, config = table(pairs=997, seed=trial), random_config(trial)
    dealt = partition(pairs, config, seed=trial)
    rows = np.concatenate([part for c in dealt.clients for part in (c.train, c.validation, c.test)])
    assert len(set(rows.tolist())) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < len(pairs)
    assert (len(dealt.seen), len(dealt.unseen)) == (config.clients, config.unseen)
    assert dealt.clients == dealt.seen + dealt.unseen
    for client in dealt.clients:
        assert dealt.by_id[client.client_id] is client
        assert len(client.train) >= config.min_train
        assert len(client.test) >= config.min_test
        assert len(client.train) <= (config.pairs_per_client or len(pairs))
        prompts = [{pairs.pairs[row].prompt for row in part} for part in (client.train, client.validation, client.test)]
        assert sum(map(len, prompts)) == len(set.union(*prompts))
        assert all(np.all(np.diff(part) > 0) for part in (client.train, client.validation, client.test))


@pytest.mark.parametrize("kind", ["group", "dirichlet", "natural"])
def test_a_partition_follows_from_pairs_and_seed_and_not_from_the_order_of_the_table(kind):
    pairs = table(pairs=613)
    config = PartitionConfig(kind=kind, clients=7, unseen=2, min_train=1)
    first = contents(pairs, partition(pairs, config, seed=3))
    shuffled = pairs.select(np.random.default_rng(0).permutation(len(pairs)).tolist())
    assert contents(pairs, partition(pairs, config, seed=3)) == first
    assert contents(shuffled, partition(shuffled, config, seed=3)) == first
    assert contents(pairs, partition(pairs, config, seed=4)) != first


@pytest.mark.parametrize("kind", ["group", "dirichlet"])
def test_the_seed_decides_who_holds_a_pair(kind):
    pairs = table(pairs=613, groups=("amber", "blue"))
    config = PartitionConfig(kind=kind, clients=2, alpha=0.3 if kind == "group" else 1e6, unseen=2, min_train=1)
    holders = []
    for seed in (0, 1):
        dealt = contents(pairs, partition(pairs, config, seed))
        holders.append({pair: client for client, parts in dealt.items() for part in parts for pair in part})
    # Each of the two clients that may hold a pair keeps it by chance: half of the pairs (a quarter, of four) stay.
    stayed = np.mean([holders[1][pair] == client for pair, client in holders[0].items()])
    assert stayed == pytest.approx(0.5 if kind == "group" else 0.25, abs=0.1)


@pytest.mark.parametrize(
    "config",
    [
        PartitionConfig(kind="natural", unseen=11),
        PartitionConfig(kind="natural", clients=11),
        PartitionConfig(kind="dirichlet", clients=3, min_train=1),
        PartitionConfig(clients=5, sizes="log-normal", sigma=0.3),
    ],
    ids=["unseen users", "seen users", "mixtures", "sizes"],
)
def test_the_seed_decides_the_draw_of(config):
    pairs = table(pairs=613)
    shapes = []
    for seed in (0, 1):
        clients = partition(pairs, config, seed).clients
        shapes.append([(client.client_id, client.seen, len(client.train) + len(client.test)) for client in clients])
    assert shapes[0] != shapes[1]


def test_a_client_of_a_group_partition_holds_one_group_and_all_pairs_are_dealt_evenly():
    pairs = table(pairs=613)
    dealt = partition(pairs, PartitionConfig(clients=9), seed=0)
    assert [client.client_id for client in dealt.clients[:4]] == ["amber-0", "amber-1", "amber-2", "blue-0"]
    sizes = {group: [] for group in GROUPS}
    for client in dealt.clients:
        rows = np.concatenate([client.train, client.test])
        assert {pairs.pairs[row].group for row in rows} == {client.group}
        sizes[client.group].append((len(client.train), len(client.test)))
    for group, counts in sizes.items():
        assert np.sum(counts) == sum(pair.group == group for pair in pairs.pairs)
        assert np.ptp(counts, axis=0).max() <= 1


def test_shares_decide_the_clients_and_keep_their_sizes_alike():
    pairs = table(pairs=997)
    dealt = partition(pairs, PartitionConfig(clients=10, shares={"blue": 0.7, "amber": 0.3}), seed=0)
    assert [client.group for client in dealt.clients] == ["amber"] * 3 + ["blue"] * 7
    sizes = [len(client.train) + len(client.test) for client in dealt.clients]
    for part in ("train", "test"):
        assert np.ptp([len(getattr(client, part)) for client in dealt.clients]) <= 1
    assert max(sum(sizes[:3]) / 3, sum(sizes[3:]) / 7) == pytest.approx(
        min(sum(p.group == "amber" for p in pairs.pairs) / 3, sum(p.group == "blue" for p in pairs.pairs) / 7), abs=2
    )


@pytest.mark.parametrize(
    ("total", "shares", "counts"),
    [
        (10, [0.7, 0.3], [7, 3]),
        (10, [1, 1, 1], [4, 3, 3]),
        (7, [5, 2], [5, 2]),
        (0, [1, 1], [0, 0]),
        (1, [1, 9], [0, 1]),
    ],
)
def test_apportionment(total, shares, counts):
    assert apportion(total, shares) == counts


def test_unseen_clients_come_on_top_and_evenly_from_the_groups():
    pairs = table(pairs=997)
    for kind in ("group", "natural"):
        dealt = partition(pairs, PartitionConfig(kind=kind, clients=7, unseen=6), seed=0)
        assert (len(dealt.seen), len(dealt.unseen)) == (7, 6)
        assert sorted(client.group for client in dealt.unseen) == ["amber"] * 2 + ["blue"] * 2 + ["coral"] * 2


@pytest.mark.parametrize(
    ("shares", "seen", "unseen", "counts"),
    [
        ((0.8, 0.2), 50, 20, (40 + 10, 10 + 10)),
        ((9, 1), 10, 3, (9 + 2, 1 + 1)),
        ((0, 2), 5, 4, (0, 5 + 4)),
        ((1, 2, 4, 1), 31, 5, (4 + 2, 8 + 1, 15 + 1, 4 + 1)),
    ],
)
def test_users_of_the_world_are_so_many_that_the_seen_ones_have_the_shares(shares, seen, unseen, counts):
    assert shares_of_all(shares, seen, unseen) == counts
    population = find_population("two-groups" if len(counts) == 2 else "four-groups")
    users = [user.group for user in make_users(population, seen + unseen, 0, counts)]
    assert tuple(users.count(utility.name) for utility in population.utilities) == counts


def test_shares_that_are_none_are_left_to_whoever_refuses_them():
    assert [shares_of_all(wrong, 5, 2) for wrong in ((-1.0, 2.0), (0.0, 0.0))] == [(-1.0, 2.0), (0.0, 0.0)]


def test_unseen_clients_give_no_more_pairs_than_asked_and_keep_their_test_pairs():
    pairs, config = table(), {"kind": "group", "clients": 5, "unseen": 3}
    whole = partition(pairs, PartitionConfig(**config), seed=0)
    short = partition(pairs, PartitionConfig(**config, unseen_pairs=4), seed=0)
    for before, after in zip(whole.clients, short.clients, strict=True):
        kept = before.train if before.seen else before.train[:4]
        assert len(before.train) > 4
        assert np.array_equal(after.train, kept)
        assert np.array_equal(after.test, before.test)


def test_dirichlet_deals_every_pair_in_mixtures_that_alpha_sharpens():
    pairs = table(pairs=1999)
    purity = {}
    for alpha in (0.05, 100.0):
        dealt = partition(pairs, PartitionConfig(kind="dirichlet", clients=11, alpha=alpha), seed=1)
        rows = [np.concatenate([client.train, client.test]) for client in dealt.clients]
        assert sum(map(len, rows)) == len(pairs)
        counts = [np.bincount([GROUPS.index(pairs.pairs[row].group) for row in part], minlength=3) for part in rows]
        purity[alpha] = np.mean([count.max() / count.sum() for count in counts])
        pure = [client.group is not None for client in dealt.clients]
        assert pure == [bool((count > 0).sum() == 1) for count in counts]
    assert purity[0.05] > 0.75
    assert purity[100.0] < 0.45
    assert max(map(len, rows)) - min(map(len, rows)) <= 2 * 3


def test_log_normal_sizes_follow_sigma():
    pairs = table(pairs=9973, prompts=9973)
    logs = {}
    for sigma in (0.2, 0.7):
        config = PartitionConfig(clients=97, sizes="log-normal", sigma=sigma, min_train=1)
        sizes = [len(client.train) + len(client.test) for client in partition(pairs, config, seed=0).clients]
        logs[sigma] = np.std(np.log(sizes))
    assert logs[0.2] == pytest.approx(0.2, rel=0.25)
    assert logs[0.7] == pytest.approx(0.7, rel=0.25)


def test_a_natural_client_is_a_user_and_newcomers_change_nobody():
    pairs = table(pairs=613)
    config = PartitionConfig(kind="natural", validation_fraction=0.1)
    before = contents(pairs, partition(pairs, config, seed=0))
    more = PairTable(
        tuple(Pair(f"p{i}", "c", "r", "newcomer", "amber", pair_id=f"new{i}") for i in range(7)) + pairs.pairs
    )
    after = contents(more, partition(more, config, seed=0))
    assert after.keys() - before.keys() == {"newcomer"}
    assert {name: after[name] for name in before} == before
    assert set(before) == {pair.user_id for pair in pairs.pairs}


def test_a_newcomer_displaces_at_most_one_unseen_user_per_group():
    pairs = table(pairs=997)
    config = PartitionConfig(kind="natural", unseen=6)
    for trial in range(17):
        newcomer = tuple(Pair(f"p{i}", "c", "r", f"new{trial}", "blue", pair_id=f"new{i}") for i in range(7))
        more = PairTable(pairs.pairs + newcomer)
        before, after = (
            {client.client_id for client in partition(some, config, seed=0).unseen} for some in (pairs, more)
        )
        assert len(before - after) <= 1


def test_the_cap_adds_train_pairs_and_moves_none():
    pairs = table(pairs=613)
    dealt = {cap: partition(pairs, PartitionConfig(clients=5, pairs_per_client=cap), 0) for cap in (7, 19, None)}
    for small, middle, whole in zip(*(dealt[cap].clients for cap in (7, 19, None)), strict=True):
        assert (len(small.train), len(middle.train)) == (7, 19)
        assert set(small.train) < set(middle.train) < set(whole.train)
        np.testing.assert_array_equal(small.test, whole.test)


def test_a_prescribed_split_is_respected_and_dealt_evenly():
    pairs = tuple(
        Pair(f"p{i}", "c", "r", None, "ab"[i % 2], split="test" if i % 10 < 3 else "train", pair_id=str(i))
        for i in range(1010)
    )
    dealt = partition(PairTable(pairs), PartitionConfig(clients=7), seed=0)
    assert all(pairs[row].split == "test" for client in dealt.clients for row in client.test)
    assert all(pairs[row].split == "train" for client in dealt.clients for row in client.train)
    for group, fraction in (("a", 0.4), ("b", 0.2)):
        shares = [len(c.test) / (len(c.test) + len(c.train)) for c in dealt.clients if c.group == group]
        assert shares == pytest.approx([fraction] * len(shares), abs=0.01)
    assert sum(len(client.test) + len(client.train) for client in dealt.clients) == 1010


def test_conversations_as_prompts_are_kept_together():
    asks = [(Message("user", f"q{i % 5}"),) for i in range(31)]
    pairs = PairTable(tuple(Pair(ask, "c", "r", "u", pair_id=str(i)) for i, ask in enumerate(asks)))
    client = partition(pairs, PartitionConfig(kind="natural"), seed=0).clients[0]
    assert {asks[row] for row in client.train} & {asks[row] for row in client.test} == set()


def test_the_world_deals_about_forty_train_pairs_by_default():
    pairs = load(DataConfig(users=97))
    dealt = partition(pairs, PartitionConfig(kind="natural"), seed=0)
    assert {len(client.train) + len(client.test) for client in dealt.clients} == {50}
    assert np.mean([len(client.train) for client in dealt.clients]) == pytest.approx(40, abs=1)


@pytest.mark.parametrize("kind", ["group", "dirichlet", "topics", "natural"])
def test_what_tests_is_held_out_over_all_clients(kind):
    # Every user judges the same prompts: a split of each client alone would train on all of them.
    asked = [f"p{number}" for number in range(53)]
    rows = [(user, prompt) for user in range(13) for prompt in asked]
    pairs = PairTable(
        tuple(
            Pair(prompt, f"c{i}", f"r{i}", f"u{user}", GROUPS[user % 3], pair_id=str(i))
            for i, (user, prompt) in enumerate(rows)
        )
    )
    dealt = partition(
        pairs,
        PartitionConfig(kind=kind, clients=7, unseen=3, alpha=5.0, validation_fraction=0.2)
        if kind in ("dirichlet", "topics")
        else PartitionConfig(kind=kind, clients=7, unseen=3, validation_fraction=0.2),
        0,
    )
    by_part = {
        part: {pairs.pairs[row].prompt for client in dealt.clients for row in getattr(client, part)}
        for part in ("train", "validation", "test")
    }
    assert set.union(*by_part.values()) == set(asked)
    assert sum(map(len, by_part.values())) == len(asked)
    assert all(len(prompts) >= 3 for prompts in by_part.values())


def test_pairs_that_all_users_judge_under_one_prompt_are_held_out_by_pair():
    pairs = PairTable(
        tuple(
            Pair(
                "which?",
                *(f"a{item}", f"b{item}")[:: 1 if (user + item) % 2 else -1],
                f"u{user}",
                pair_id=f"{user}-{item}",
            )
            for user in range(7)
            for item in range(31)
        )
    )
    dealt = partition(pairs, PartitionConfig(kind="natural", unit="pair"), 0)
    train, test = (
        {
            frozenset((pairs.pairs[row].chosen, pairs.pairs[row].rejected))
            for client in dealt.clients
            for row in rows(client)
        }
        for rows in (lambda client: client.train, lambda client: client.test)
    )
    assert test
    assert train
    assert not train & test
    with pytest.raises(DataError, match=r"partition\.unit=pair"):
        partition(pairs, PartitionConfig(kind="natural", min_train=1), 0).held_out(pairs)


@pytest.mark.parametrize("kind", ["group", "dirichlet"])
def test_too_few_groups_never_fall_back_to_iid(kind):
    config = PartitionConfig(kind=kind)
    with pytest.raises(DataError, match=r"the pairs have no group, .*data\.map\.group=COLUMN"):
        partition(PairTable(tuple(Pair("p", "c", "r", pair_id=str(i)) for i in range(97))), config, 0)
    with pytest.raises(DataError, match=r"1 of 98 pairs have no group"):
        partition(PairTable((*table(97).pairs, Pair("p", "c", "r", pair_id="x"))), config, 0)
    with pytest.raises(DataError, match=r"needs two groups or more, and is given amber"):
        partition(table(97, groups=("amber",)), config, 0)
    with pytest.raises(DataError, match=r"pairs share a pair_id"):
        partition(PairTable(table(97).pairs * 2), config, 0)


def test_shares_must_name_groups_that_exist():
    with pytest.raises(ConfigError, match=r"partition\.shares: no pair is of group 'ambre'\. Did you mean 'amber'"):
        partition(table(), PartitionConfig(shares={"ambre": 1, "blue": 1}), 0)
    with pytest.raises(DataError, match=r"needs two groups or more, and is given blue\."):
        partition(table(), PartitionConfig(shares={"blue": 1}), 0)
    with pytest.raises(ConfigError, match=r"partition\.clients: 3 clients give group 'amber' none"):
        partition(table(), PartitionConfig(clients=3, shares={"amber": 1, "blue": 99}), 0)


def test_clients_with_too_few_pairs_are_named_with_their_numbers():
    with pytest.raises(
        DataError,
        match=r"client 'amber-0' holds too few pairs: 1 in all, .*at least 2 and 0 \(\d+ of 97 .*partition\.clients",
    ):
        partition(table(211, prompts=9973), PartitionConfig(clients=97), 0)


def test_small_users_are_errors_or_left_out():
    small = Pair("p", "c", "r", "hermit", "blue", pair_id="h")
    pairs = PairTable((*table(613).pairs, small))
    with pytest.raises(
        DataError,
        match=r"client 'hermit' holds too few pairs: 1 in all, 1 train and 0 test.*partition\.drop_small=true",
    ):
        partition(pairs, PartitionConfig(kind="natural"), 0)
    dealt = partition(pairs, PartitionConfig(kind="natural", drop_small=True), 0)
    assert "hermit" not in dealt.by_id
    assert len(dealt) == 23


def test_a_natural_partition_needs_users_and_enough_of_them():
    config = PartitionConfig(kind="natural")
    with pytest.raises(DataError, match=r"the pairs have no user_id, .*data\.map\.user_id=COLUMN"):
        partition(PairTable(tuple(Pair("p", "c", "r", pair_id=str(i)) for i in range(7))), config, 0)
    with pytest.raises(DataError, match=r"1 of 98 lack a user_id"):
        partition(PairTable((*table(97).pairs, Pair("p", "c", "r", pair_id="x"))), config, 0)
    with pytest.raises(DataError, match=r"23 users are fewer than 19 seen and 5 unseen"):
        partition(table(613), PartitionConfig(kind="natural", clients=19, unseen=5), 0)


def test_a_hand_made_split_must_be_known():
    pairs = (*table(97).pairs, Pair("p", "c", "r", "u0", "amber", split="valid", pair_id="x"))
    with pytest.raises(DataError, match=r"the split 'valid' is not known\. Did you mean 'validation'"):
        partition(PairTable(pairs), PartitionConfig(), 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "natural", "shares": {"a": 1}}, "'shares' was set"),
        ({"kind": "group", "alpha": 0.5}, "'alpha' was set"),
        ({"kind": "natural", "sizes": "log-normal"}, "'sizes' was set"),
        ({"kind": "group", "drop_small": True}, "'drop_small' was set"),
        ({"sizes": "equal", "sigma": 2.0}, "'sigma' was set"),
        ({"shares": {"a": -1}}, "-1 cannot be used"),
        ({"test_fraction": 0.5, "validation_fraction": 0.5}, "leave nothing to train on"),
        ({"pairs_per_client": 1}, "pairs_per_client 1 is below min_train 2"),
        ({"client": 5}, "configuration key 'client': is not known. Did you mean 'clients'?"),
    ],
)
def test_settings_that_cannot_work_are_errors(values, message):
    with pytest.raises(ConfigError) as error:
        PartitionConfig.parse(values)
    assert message in str(error.value)


def test_ten_thousand_clients_are_dealt():
    users = 10_007
    pairs = PairTable(
        tuple(Pair(str(i), "c", "r", f"u{i % users}", "ab"[i % 2], pair_id=str(i)) for i in range(8 * users))
    )
    for kind in ("natural", "group"):
        assert len(partition(pairs, PartitionConfig(kind=kind, clients=users, min_train=1), 0)) == users


def people(*, users=31, conversations=3, pairs=4):
    """Each user's conversations of several pairs each, as in PRISM; the first user has one, of 16 pairs."""
    rows = [
        (user, f"{user}-{number}", pair)
        for user in range(users)
        for number in range(conversations if user else 1)
        for pair in range(pairs if user else 16)
    ]
    return PairTable(
        tuple(
            Pair(f"p{prompt}", f"c{one}", f"r{one}", f"u{user}", pair_id=f"{prompt}:{one}")
            for user, prompt, one in rows
        )
    )


def test_users_of_few_conversations_are_left_out_or_the_message_says_what_helps():
    pairs, seed = people(), next(seed for seed in range(99) if SplitRule("prompt", seed, 0.2).part("p0-0") == TEST)
    split = partition(pairs, PartitionConfig(kind="natural", drop_small=True), seed)
    assert "u0" not in split.by_id
    assert len(split) >= 28
    kept = len(split)
    with pytest.raises(
        DataError,
        match=rf"'u0' holds too few pairs: 16 in all, 0 train and 16 test.*over all clients, by prompt\. Leave such "
        rf"users out with partition\.drop_small=true \({kept} of 31 stay\), or if .*unit=pair \(31 stay\)\.$",
    ):
        partition(pairs, PartitionConfig(kind="natural"), seed)
    assert len(partition(pairs, PartitionConfig(kind="natural", unit="pair"), seed)) == 31


def test_a_least_number_is_to_be_lowered_only_where_that_helps():
    pairs = PairTable(tuple(Pair(f"p{i}", "c", "r", f"u{i % 5}", pair_id=str(i)) for i in range(35)))
    with pytest.raises(DataError, match=r"Lower partition\.min_train\.$"):
        partition(pairs, PartitionConfig(kind="natural", min_train=9, drop_small=True), 0)
    with pytest.raises(DataError, match=r"[Ll]ower partition\.min_test\.$"):
        partition(pairs, PartitionConfig(kind="natural", min_test=7, drop_small=True), 0)
    one = PairTable(tuple(replace(pair, split="test") for pair in pairs.pairs))
    with pytest.raises(DataError, match=r"0 users are fewer .*by split\) *.*Give more pairs of each user\.$"):
        partition(one, PartitionConfig(kind="natural", drop_small=True), 0)


def test_unseen_users_are_drawn_from_those_that_have_test_pairs():
    pairs = people(users=61, conversations=2)
    for seed in range(5):
        found = partition(pairs, PartitionConfig(kind="natural", unseen=9, drop_small=True), seed)
        assert all(len(client.test) for client in found.unseen)
        untested = sum(not len(client.test) for client in found.seen)
        assert untested
        held = found.held_out(pairs)
        assert held.untested == untested
        assert f"{untested} clients hold none of these and are not scored" in str(held)
        lacking = {client.client_id for client in found.clients if not len(client.test)}
        grouped = PairTable(
            tuple(replace(pair, group="few" if pair.user_id in lacking else "many") for pair in pairs.pairs)
        )
        drawn = partition(grouped, PartitionConfig(kind="natural", unseen=9, drop_small=True), seed).unseen
        assert {client.group for client in drawn} == {"many"}
        every = partition(pairs, PartitionConfig(kind="natural", unseen=len(found) - 1, drop_small=True), seed)
        assert sum(not len(client.test) for client in every.clients) == untested


def test_validation_that_is_asked_for_must_have_units():
    pairs = PairTable(tuple(Pair(f"p{i % 3}", f"c{i}", "r", f"u{i % 2}", pair_id=str(i)) for i in range(24)))
    seed = next(
        seed for seed in range(99) if [SplitRule("prompt", seed, 0.2).part(f"p{i}") for i in range(3)].count(TEST) == 1
    )
    config = PartitionConfig(kind="natural", validation_fraction=1e-6)
    with pytest.raises(DataError, match=r"24 pairs \(3 different prompts\) leave none to validate on.*unit=pair"):
        partition(pairs, config, seed).held_out(pairs)
    with pytest.raises(DataError, match=r"leave none to validate on.*partition\.validation_fraction"):
        partition(pairs, config.model_copy(update={"unit": "pair"}), seed).held_out(pairs)
