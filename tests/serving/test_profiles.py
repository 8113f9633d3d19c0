"""Profiles of a run: what is inferred, ties, another selector, the next pair, and that nothing of a user leaks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fedvpa
from command_line import fedvpa as command
from fedvpa.api.personalize import personalize
from fedvpa.api.profiles import pairs_of_file
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.deployment.release import write_release
from fedvpa.runs.folder import RunFolder
from fedvpa.selector.information import expected_information
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector
from fedvpa.serving import pool
from fedvpa.serving.judged_pairs import context_of, judged_rows
from fedvpa.serving.pool import key_of
from fedvpa.serving.profiles import ProfileExists, Profiles, UnknownProfile
from fedvpa.world.generate import generate_world

ROWS = [
    {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    for pair in generate_world("two-groups", 1, 5, 77)
]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POOL", 23)


@pytest.fixture
def run(telling_run: Path) -> Path:
    return telling_run


@pytest.fixture
def kept(run: Path, tmp_path: Path):
    with fedvpa.profiles(run, store=tmp_path / "profiles.sqlite3") as opened:
        yield opened


@pytest.mark.equivalence
def test_a_profile_says_what_personalize_says_of_the_same_pairs(kept: Profiles, run: Path, tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    verb = personalize(run, file)
    kept.create("rows", ROWS)
    kept.create("later", ROWS[:2])
    kept.add("later", ROWS[2:])
    kept.create("file", pairs_of_file(run, file))
    assert kept.names() == ["file", "later", "rows"]
    for name in kept.names():
        found = kept.get(name)
        assert (found.pairs, found.ties, found.prototype) == (5, 0, verb.prototype)
        for ours, theirs in ((found.mean, verb.mean), (found.std, verb.std)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.responsibilities, verb.responsibilities, atol=1e-5)


@pytest.mark.unit
def test_of_no_pairs_the_posterior_is_the_prior(kept: Profiles, run: Path):
    found = kept.create("nobody")
    prior = Selector.from_pretrained(run).prior
    np.testing.assert_allclose(found.mean, prior.mean, atol=1e-5)
    np.testing.assert_allclose(found.responsibilities, [0.5, 0.5], atol=1e-5)
    assert (found.pairs, found.created) == (0, found.updated)


@pytest.mark.reference
def test_a_tie_is_half_a_win_for_each_response():
    rng = torch.Generator().manual_seed(1)
    pairs = Pairs(*torch.randn(2, 3, 5, generator=rng), torch.tensor([1.0, 3.0, 2.0]), torch.ones(3))
    margins = torch.tensor([0.3, -0.7, 1.1])
    context = context_of(pairs, [False, True, False])
    assert context.weight.tolist() == [1.0, 1.5, 2.0, 1.5]
    assert context.chosen[3].equal(pairs.rejected[1])
    assert context.rejected[3].equal(pairs.chosen[1])
    assert context.slot.tolist() == [1, 1, 1, -1]
    each = torch.tensor([*margins.tolist(), -margins[1].item()])
    log_sigmoid = torch.nn.functional.logsigmoid
    likelihood = log_sigmoid(margins[0]) + 2 * log_sigmoid(margins[2])
    likelihood += 3 * 0.5 * (log_sigmoid(margins[1]) + log_sigmoid(-margins[1]))
    torch.testing.assert_close((context.weight * log_sigmoid(each)).sum(), likelihood)


@pytest.mark.unit
def test_ties_draw_z_to_where_both_are_worth_the_same_and_rows_say_the_same_in_two_ways(kept: Profiles):
    sided = [{"prompt": row["prompt"], "response_a": row["rejected"], "response_b": row["chosen"]} for row in ROWS]
    winners = ["B", "tie", "B", "b", "equal"]
    found = kept.create("sided", [{**row, "winner": winner} for row, winner in zip(sided, winners, strict=True)])
    plain = kept.create(
        "plain", [{**row, "winner": "tie" if number in (1, 4) else "A"} for number, row in enumerate(ROWS)]
    )
    assert (found.pairs, found.ties) == (5, 2)
    np.testing.assert_allclose(found.mean, plain.mean, atol=1e-3)

    def gap(name: str | None) -> float:
        first, second = kept.rewards(name, ROWS[1]["prompt"], [ROWS[1]["chosen"], ROWS[1]["rejected"]])
        return abs(first - second)

    kept.create("ties", [{**ROWS[1], "winner": "tie"}] * 9)
    kept.create("wins", [ROWS[1]] * 9)
    assert gap("ties") < 0.3 < gap("wins")
    exported = kept.export("sided")
    assert (exported["name"], exported["ties"], len(exported["judged"])) == ("sided", 2, 5)
    again = kept.create("again", exported["judged"])
    np.testing.assert_allclose(again.mean, found.mean, atol=1e-6)


@pytest.mark.unit
def test_wrong_pairs_and_names_are_refused_and_leave_nothing(kept: Profiles):
    with pytest.raises(DataError, match=r"pairs:2: .*chosen and rejected are equal"):
        kept.create("ana", [ROWS[0], {**ROWS[1], "rejected": ROWS[1]["chosen"]}])
    with pytest.raises(DataError, match="has no column 'rejected'"):
        kept.create("ana", [{"prompt": "p", "chosen": "a"}])
    with pytest.raises(DataError, match=r"pairs:1: .*'neither of us'"):
        kept.create("ana", [{**ROWS[0], "winner": "neither of us"}])
    for name in ("", "a b", "-a", "a/b", "a:b", "x" * 101, "ana\n"):
        with pytest.raises(ConfigError, match="cannot be the name of a profile"):
            kept.create(name)
    assert kept.names() == []
    kept.create("änna.7@home")
    with pytest.raises(ProfileExists):
        kept.create("änna.7@home")
    for call in (kept.get, kept.delete, kept.export, kept.next, lambda name: kept.add(name, ROWS)):
        with pytest.raises(UnknownProfile, match="There is no profile 'ana'"):
            call("ana")
    with pytest.raises(UnknownProfile):
        kept.rewards("ana", "p", ["a"])


@pytest.mark.unit
def test_the_next_pair_is_the_one_that_says_most_and_is_asked_once(kept: Profiles, run: Path):
    kept.create("ana", ROWS[:1])
    reader = kept._reader
    table, pairs = kept._pool.pairs(reader)
    assert len({key_of(pair) for pair in table.pairs}) == len(table) == 23
    assert {pair.prompt for pair in table.pairs} >= {kept.next(None).prompt}
    asked = set()
    for winner in ("A", "tie", "B"):
        context = reader.context(kept._store.read("ana").pairs)
        told = expected_information(reader.selector, reader.selector.infer(context), context, pairs)
        free = [row for row, pair in enumerate(table.pairs) if key_of(pair) not in asked]
        question = kept.next("ana")
        assert question.information == pytest.approx(float(told[free].max()), abs=1e-5)
        assert question.left == len(free)
        key = (question.prompt, frozenset((question.first, question.second)))
        assert key not in asked
        asked.add(key)
        kept.add("ana", [question.answered(winner)])
    assert kept.get("ana").ties == 1
    kept.add("ana", [{"prompt": one.prompt, "chosen": one.rejected, "rejected": one.chosen} for one in table.pairs])
    assert kept.next("ana") is None


@pytest.mark.end_to_end
def test_pairs_to_ask_may_come_from_a_file_whose_labels_are_not_read(run: Path, tmp_path: Path):
    file = tmp_path / "pool.jsonl"
    rows = [
        {"prompt": row["prompt"], "response_a": row["chosen"], "response_b": row["rejected"], "winner": None}
        for row in ROWS[:2]
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fedvpa.profiles(run, store=tmp_path / "profiles.sqlite3", pool=file) as kept:
        question = kept.next()
        assert question.left == 2
        assert question.first in {row["response_a"] for row in rows}
    with pytest.raises(DataError, match="no such file"):
        fedvpa.profiles(run, pool=tmp_path / "nowhere.jsonl")


@pytest.mark.end_to_end
def test_under_another_selector_a_profile_is_inferred_again_and_that_is_said(run: Path, tmp_path: Path, capsys):
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    with fedvpa.profiles(mine) as kept:
        before = kept.create("ana", ROWS)
    selector = Selector.from_pretrained(mine)
    swapped = {**selector.params, "prototypes": selector.prototypes.flip(0)}
    Selector(
        selector.config, selector.inference, swapped, selector.log_prior, selector.gain, selector.scaling,
        selector.feature_key,
    ).save_pretrained(mine / "selector")  # fmt: skip
    capsys.readouterr()
    with fedvpa.profiles(mine) as kept:
        after = kept.get("ana")
        assert "profile 'ana' is of another selector and is inferred again from its 5 pairs" in capsys.readouterr().err
        assert kept.get("ana") == after
        assert capsys.readouterr().err == ""
    assert after.selector != before.selector
    np.testing.assert_allclose(after.responsibilities, before.responsibilities[::-1], atol=1e-5)
    np.testing.assert_allclose(after.mean, before.mean, atol=1e-4)


@pytest.mark.end_to_end
def test_features_of_another_language_model_are_computed_again(kept: Profiles):
    kept.create("ana", ROWS)
    before = kept.get("ana")
    kept._store._connection.execute("UPDATE pairs SET read_as = 'other', features = zeroblob(8)")
    kept._store._connection.execute("UPDATE profiles SET selector = 'other'")
    after = kept.get("ana")
    np.testing.assert_allclose(after.mean, before.mean, atol=1e-5)
    assert after.selector == before.selector


@pytest.mark.end_to_end
def test_no_text_of_a_user_is_kept_elsewhere_and_no_release_takes_profiles(run: Path, tmp_path: Path, monkeypatch):
    mine, cache = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "cache"
    monkeypatch.setenv("FEDVPA_CACHE", str(cache))
    with fedvpa.profiles(mine) as kept:
        kept.create("ana", [{**ROWS[0], "prompt": "xylophone", "chosen": "bring a zeppelin ."}])
        assert not list(cache.rglob("vectors.bin"))
        made = write_release(RunFolder.open(mine), tmp_path / "release")
        assert not [name for name in made.files if "profile" in name]
        assert b"zeppelin" in b"".join(path.read_bytes() for path in (mine / "profiles").iterdir())
        kept.delete("ana")
        assert b"zeppelin" not in b"".join(path.read_bytes() for path in mine.rglob("*") if path.is_file())
    with fedvpa.profiles(tmp_path / "release") as kept:
        assert kept.names() == []


@pytest.mark.unit
def test_a_run_that_serves_all_users_alike_has_no_profiles(run: Path, tmp_path: Path):
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    Selector.from_pretrained(mine).with_inference("none").save_pretrained(mine / "selector")
    with pytest.raises(ConfigError, match="serves every user alike"):
        fedvpa.profiles(mine)
    assert not (mine / "profiles").exists()


@pytest.mark.unit
def test_no_rows_are_no_pairs():
    assert len(judged_rows([])) == 0


@pytest.mark.end_to_end
def test_the_command_line_makes_shows_asks_and_deletes(run: Path, tmp_path: Path):
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({**row, "winner": "tie"}) + "\n" for row in ROWS[:2]))

    def said(*words: object) -> str:
        done = command("profiles", mine, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("list") == "no profiles\n"
    made = json.loads(said("create", "ana", "--pairs", file, "--map", "winner=winner", "--json"))
    assert (made["pairs"], made["ties"]) == (2, 2)
    assert said("add", "ana", "--pairs", file).startswith("ana: 4 pairs (2 ties); prototype ")
    assert json.loads(said("list", "--json")) == {"profiles": ["ana"]}
    assert said("show", "ana").startswith("ana: 4 pairs (2 ties)")
    assert len(json.loads(said("export", "ana"))["judged"]) == 4
    asked = json.loads(said("next", "--name", "ana", "--json"))["question"]
    assert {"prompt", "response_a", "response_b", "winner", "information", "left"} == asked.keys()
    assert "\nA: " in said("next")
    assert said("delete", "ana") == "ana: deleted\n"
    missing = command("profiles", mine, "show", "ana")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "fedvpa: There is no profile 'ana'. The command 'profiles list' names all.\n"
    elsewhere = command("profiles", "--store", tmp_path / "other.sqlite3", mine, "create", "bo")
    assert elsewhere.returncode == 0
    assert said("list") == "no profiles\n"
