"""``fedvpa simulate`` on the bundled language model: a table that every verb reads, users that are known exactly."""

import json
import shlex

import numpy as np
import pytest

from fedvpa.api.align import align
from fedvpa.api.compare import compare
from fedvpa.api.evaluate_policy import evaluate_policy
from fedvpa.api.simulate import simulate
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, DataError, RunError
from fedvpa.data.load import load
from fedvpa.data.prompt_files import read_prompts
from fedvpa.data.text import plain_text
from fedvpa.evaluation.outcomes import load_outcomes
from fedvpa.policy.model import PolicyModel
from fedvpa.runs.bayes import bayes
from fedvpa.runs.config import read_config
from fedvpa.runs.prepare import prepare
from fedvpa.runs.scores import conflicting
from fedvpa.runs.tastes import own_tastes
from fedvpa.runs.truth import own_margins, truth_of
from fedvpa.styles.simulation import Simulation
from fedvpa.world.prompts import prompts as world_prompts
from run_fixtures import TINY_POLICY

pytestmark = pytest.mark.end_to_end

TINY_STAGES = (
    "method=fedvpa_gp",
    "server.rounds=2",
    "local.steps=1",
    *TINY_POLICY,
    "policy.candidates.max_new_tokens=16",
)
GIVEN = {
    "clients": 4,
    "unseen": 2,
    "pairs": 20,
    "samples": 3,
    "pair_prompts": 12,
    "temperature": 1.0,
    "max_new_tokens": 16,
    "batch": 60,
}
MODEL = "bundled"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    some = [prompt.text for prompt in world_prompts()[::97]][:24]
    file.write_text("\n".join([*some[:12], "", some[3], *some[12:], ""]), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    file = tmp_path_factory.mktemp("population") / "own.yaml"
    file.write_text("groups: {brief: {length: -1, first_person: 1}, long: {length: 1, connectives: 0.5}}")
    return file


@pytest.fixture(scope="module")
def made(prompts, own, tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "groups"
    return simulate(MODEL, prompts, out, users=str(own), **GIVEN)


@pytest.fixture(scope="module")
def individuals(made, prompts, tmp_path_factory):
    file = tmp_path_factory.mktemp("population") / "many.yaml"
    file.write_text("individuals: {length: 0.5, connectives: 0, first_person: 0, warmth: 0.5}")
    out = tmp_path_factory.mktemp("simulated") / "individuals"
    return simulate(MODEL, prompts, out, users=str(file), samples_from=made.out, **GIVEN)


def configured(made, *overrides):
    data = ("data.source=table", f"data.path={made.table}", f"features.model={MODEL}")
    return read_config(None, [*data, "partition.clients=4", "partition.unseen=2", *overrides])


def test_the_table_is_an_ordinary_one_of_the_samples(made):
    table = load(configured(made).data)
    assert len(table) == made.pairs == 120
    assert table.report.read == 120
    assert (made.users, table.groups()) == ({"brief": 3, "long": 3}, ["brief", "long"])
    lines = [json.loads(line) for line in (made.out / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    answers = {json.dumps(line["prompt"]): set(line["samples"]) for line in lines}
    for row in (json.loads(line) for line in made.table.read_text().splitlines()):
        texts = {row[side][0]["content"] for side in ("chosen", "rejected")}
        assert len(texts) == 2
        assert texts <= answers[json.dumps(row["prompt"])]
        assert [turn["role"] for turn in row["prompt"]] == ["user"]


def test_prompts_of_pairs_of_alignment_and_of_judging_are_apart(made, prompts):
    paired = {pair.prompt for pair in load(configured(made).data).pairs}
    align, judge = set(read_prompts(made.align_prompts)), set(read_prompts(made.judge_prompts))
    assert (len(paired), len(align), len(judge)) == (12, 9, 3)
    assert not paired & (align | judge)
    assert not align & judge
    assert {prompt[0].content for prompt in paired | align | judge} == set(read_prompts(prompts))


def test_the_bayes_accuracy_of_the_file_is_that_of_the_table(made):
    config = configured(made)
    table, truth = load(config.data), truth_of(config)
    margins = own_margins(truth, table)
    assert made.bayes_accuracy == pytest.approx(np.mean(1 / (1 + np.exp(-np.abs(margins)))))
    assert made.agreement == pytest.approx(np.mean(np.sign(margins) / 2 + 0.5))
    assert 0.7 < made.bayes_accuracy < 0.95
    own = made.bayes_accuracy_by_group
    assert made.bayes_accuracy == pytest.approx((own["brief"] + own["long"]) / 2)
    assert Simulation.load(made.out).notes["sampling"]["max_new_tokens"] == 16


def test_who_knows_the_users_is_a_row_of_the_comparison(made, tmp_path):
    config = configured(made, "server.rounds=2", "local.steps=1")
    found = compare(config, methods=["global"], seeds=1, out=tmp_path / "table", jobs=1).to_dict()
    rows = {row["method"]: row for row in found["bayes_rows"]}
    expected = bayes(config, prepare(config))
    assert rows["bayes"]["noiseless"]["mean"] == 1.0
    assert rows["bayes"]["expected"] == pytest.approx(expected.expected)
    assert rows["bayes"]["unseen_expected"] == pytest.approx(expected.unseen_expected)
    assert rows["global"]["way"]["mean"] == 0.0
    assert {score.method for score in expected.scores} == {"bayes"}


def test_the_pairs_on_which_groups_disagree_are_known(made):
    config = configured(made)
    table, truth = load(config.data), truth_of(config)
    margins = {name: own_margins(_as(truth, name), table) for name in ("brief", "long")}
    by_hand = (margins["brief"] > 0) & (margins["long"] < 0) | (margins["brief"] < 0) & (margins["long"] > 0)
    assert (conflicting(config, table) == by_hand).all()
    assert 0.3 < by_hand.mean() < 1


def _as(truth, group):
    """What is known if everybody liked what this group does."""
    return type(truth)(lambda user, items: truth.of_group(group, items), truth.of_group, (), 1.0, 0.0)


def test_individuals_have_no_groups_and_are_judged_by_their_own_taste(made, individuals):
    assert (individuals.out / "samples.jsonl").read_text() == (made.out / "samples.jsonl").read_text()
    judged = ("policy.judging.judge=styles", f"policy.judging.settings.path={individuals.out}")
    config = configured(individuals, *judged)
    assert load(config.data).groups() == []
    assert conflicting(config, load(config.data)) is None
    assert own_tastes(config, ["user-00003"]) == {"user-00003": "user-00003"}
    with pytest.raises(ConfigError, match=r"no user 'ann'"):
        own_tastes(config, ["ann"])
    grouped = ("policy.judging.judge=styles", f"policy.judging.settings.path={made.out}")
    assert own_tastes(configured(made, *grouped), ["user-00003"]) == {}
    prepared = prepare(config)
    assert bayes(config, prepared).expected == pytest.approx(individuals.bayes_accuracy, abs=0.15)


def test_a_policy_is_judged_by_the_taste_of_the_own_group_on_prompts_of_its_own(made, tmp_path):
    (command,) = (words for words in map(shlex.split, made.next) if words[1] == "train")
    train(read_config(None, [*(word for word in command if "=" in word), *TINY_STAGES]), tmp_path / "run")
    align(tmp_path / "run")
    rows = evaluate_policy(tmp_path / "run").to_dict()["policy_summary"]
    assert [set(own["preferences"]) for own in (rows[0], rows[0]["unseen"])] == [{"brief", "long"}] * 2
    outcomes = load_outcomes(tmp_path / "run/policy/outcomes.jsonl")
    assert {outcome.prompt for outcome in outcomes} == {plain_text(text) for text in read_prompts(made.judge_prompts)}
    simulation = Simulation.load(made.out)
    for outcome in outcomes:
        values, _ = simulation.utility(outcome.preference).values([outcome.response, outcome.base_response])
        assert [outcome.utility, outcome.base_utility] == pytest.approx(values)
        assert outcome.score == (0.5 if values[0] == values[1] else float(values[0] > values[1]))


def test_the_same_call_reads_what_is_there_and_another_is_refused(made, prompts, own, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in made.out.rglob("*") if path.name != ".lock"}
    assert simulate(MODEL, prompts, made.out, users=str(own), **GIVEN) == made
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(RunError, match=r"another simulation: pairs = 20 \(now 19\).*samples_from"):
        simulate(MODEL, prompts, made.out, users=str(own), **{**GIVEN, "pairs": 19})
    with pytest.raises(RunError, match=r"other samples than are asked for: temperature = 1\.0 \(now 0\.5\)"):
        simulate(
            MODEL,
            prompts,
            made.out.parent / "b",
            users=str(own),
            samples_from=made.out,
            **{**GIVEN, "temperature": 0.5},
        )
    with pytest.raises(RunError, match="no samples of a simulation"):
        simulate(MODEL, prompts, made.out.parent / "c", samples_from=prompts.parent, **GIVEN)


def test_a_stopped_call_goes_on_and_gives_the_same(made, prompts, own, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    sample, blocks = PolicyModel._sample, []

    def stopping(self, *arguments, **others):
        blocks.append(1)
        if len(blocks) == 2:
            raise Stopped
        return sample(self, *arguments, **others)

    given = {**GIVEN, "batch": 12}
    monkeypatch.setattr(PolicyModel, "_sample", stopping)
    with pytest.raises(Stopped):
        simulate(MODEL, prompts, tmp_path / "stopped", users=str(own), **given)
    assert not (tmp_path / "stopped/samples.jsonl").exists()
    again = simulate(MODEL, prompts, tmp_path / "stopped", users=str(own), **given)
    assert len(blocks) == 4  # one block is kept, two are left
    for name in ("pairs.jsonl", "simulation.json", "samples.jsonl"):
        assert (again.out / name).read_bytes() == (made.out / name).read_bytes()
    assert not (again.out / "samples.partial").exists()


def test_a_population_that_weighs_what_does_not_vary_is_refused_and_its_samples_are_kept(made, prompts, tmp_path):
    file = tmp_path / "lists.yaml"
    file.write_text("groups: {a: {lists: 1, length: 1}, b: {lists: -1}}")
    with pytest.raises(ConfigError, match=r"'lists' weighs properties.*: lists \(differs in 0% of pairs\)"):
        simulate(MODEL, prompts, tmp_path / "out", users=str(file), samples_from=made.out, **GIVEN)
    assert not (tmp_path / "out/pairs.jsonl").exists()


def test_wrong_input_is_said_before_anything_is_written(prompts, tmp_path):
    one = tmp_path / "one.txt"
    one.write_text("Only one?\n\n\n")
    out = tmp_path / "out"
    with pytest.raises(DataError, match="holds 1 different prompt"):
        simulate(MODEL, one, out)
    with pytest.raises(ConfigError, match="no population 'two'"):
        simulate(MODEL, prompts, out, users="two")
    with pytest.raises(DataError, match="is to label 999"):
        simulate(MODEL, prompts, out, pairs=999)
    with pytest.raises(ConfigError, match="key 'samples'"):
        simulate(MODEL, prompts, out, samples=1)
    assert not out.exists()


def test_a_table_with_pairs_of_somebody_else_says_so(made, tmp_path):
    table = made.table.read_text()
    (tmp_path / "simulation.json").write_text((made.out / "simulation.json").read_text())
    (tmp_path / "pairs.jsonl").write_text(table.replace("user-00001", "ann"))
    config = configured(made).model_copy(update={"data": load_config(tmp_path)})
    with pytest.raises(DataError, match=r"pairs of 'ann', who is none of the 6 simulated users"):
        own_margins(truth_of(config), load(config.data))


def load_config(folder):
    return read_config(None, ["data.source=table", f"data.path={folder / 'pairs.jsonl'}"]).data
