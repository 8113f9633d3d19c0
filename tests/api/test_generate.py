"""Answers of an aligned policy under every kind of preference."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedvpa.alignment.prompts import evaluation_prompts, public_prompts
from fedvpa.api.align import align
from fedvpa.api.generate import Answer, generate
from fedvpa.api.personalize import personalize
from fedvpa.api.profiles import profiles
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, DataError, ModelError, RunError
from fedvpa.policy.policy import Policy
from fedvpa.policy.preference import latent_of
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import open_aligned
from fedvpa.runs.preferences import Known, z_of
from fedvpa.runs.users import RunUsers, load_users
from fedvpa.selector.selector import Selector
from fedvpa.serving.profiles import UnknownProfile
from fedvpa.world import backbone_path
from fedvpa.world.generate import generate_world

from .test_align import SMALL, stage_of

SHORT = {"max_new_tokens": 7}
PROMPTS = ["how do i plan a picnic ?", "how do i bake bread ?"]


@pytest.fixture(scope="module")
def aligned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both stages, whose groups lean to different prototypes and whose z is so strong that it decides.

    Five rounds of ten users need not tell the groups apart.
    """
    run = shutil.copytree(finished, tmp_path_factory.mktemp("aligned") / "run")
    align(run, overrides=(*SMALL, "policy.steps=1", "policy.conditioning=additive"))
    path = run / "policy" / "z_conditioner.safetensors"
    weights = load_file(path)
    save_file({**weights, "map.weight": 100 * weights["map.weight"]}, path)
    first, second = Selector.from_pretrained(run / "selector").prototypes.tolist()
    (run / "policy" / "preferences.json").write_text(json.dumps({"helpful": first, "harmless": second}))
    return run


@pytest.fixture(scope="module")
def users(aligned: Path) -> RunUsers:
    return load_users(aligned / "clients" / "users.safetensors")


def named_z(aligned: Path, users: RunUsers, named: dict, preference: str) -> torch.Tensor:
    prototypes = Selector.from_pretrained(aligned / "selector").prototypes.tolist()
    return torch.tensor(z_of(RunFolder(aligned), preference, Known(named, prototypes), lambda: users))


@pytest.fixture(scope="module")
def named(aligned: Path) -> dict[str, list[float]]:
    return json.loads((aligned / "policy" / "preferences.json").read_text())


@pytest.mark.end_to_end
def test_answers_follow_the_preference_and_the_seed(aligned: Path, named: dict):
    def said(preference: str, seed: int = 0, temperature: float = 0.7) -> list[str]:
        found = generate(aligned, PROMPTS, preference, seed=seed, temperature=temperature, **SHORT)
        assert [answer.prompt for answer in found.answers] == PROMPTS
        assert found.preference == preference
        assert found.z == pytest.approx(named[preference])
        return [answer.response for answer in found.answers]

    helpful = said("helpful")
    assert helpful == said("helpful")
    assert helpful != said("helpful", seed=1)
    assert said("helpful", temperature=0.0) == said("helpful", seed=1, temperature=0.0)
    assert said("harmless", temperature=0.0) != said("helpful", temperature=0.0)
    assert all(len(answer.split()) <= 7 for answer in helpful)


@pytest.mark.unit
@pytest.mark.parametrize("groups", [0, 2])
def test_a_number_is_a_prototype_or_a_mixture_of_two_with_or_without_groups(
    groups: int, aligned: Path, users: RunUsers, named: dict, capsys
):
    first, second = Selector.from_pretrained(aligned / "selector").prototypes
    some = dict(list(named.items())[:groups])
    assert named_z(aligned, users, some, "0").equal(first)
    assert named_z(aligned, users, some, "1.0").equal(second)
    assert named_z(aligned, users, some, "prototype:1").equal(second)
    torch.testing.assert_close(named_z(aligned, users, some, "0.3"), 0.7 * first + 0.3 * second)
    said = capsys.readouterr().err.splitlines()[-1]
    groups_of = [" (helpful)", " (harmless)"] if groups else ["", ""]
    assert said == f"preference 0.3 is 0.7 of prototype 0{groups_of[0]} and 0.3 of prototype 1{groups_of[1]}"
    for outside in ("1.5", "-0.1", "nan", "2"):
        with pytest.raises(ConfigError, match=r"no prototype, nor between two.*rototypes: 0, 1 and numbers between"):
            named_z(aligned, users, some, outside)


@pytest.mark.unit
def test_numbers_lie_between_neighbouring_prototypes_and_without_any_between_two_groups():
    three = [[0.0, 0.0], [4.0, 0.0], [4.0, 8.0]]
    for number, z in ((1, [4.0, 0.0]), (2, [4.0, 8.0]), (0.25, [1.0, 0.0]), (1.5, [4.0, 4.0])):
        assert latent_of(number, {}, three).tolist() == z
    assert latent_of("0.25", {"b": [0.0, 0.0], "a": [4.0, 8.0]}).tolist() == [1.0, 2.0]
    for number, named in ((0, {}), (0.5, {"a": [1.0]})):
        with pytest.raises(ConfigError, match="no prototype, nor between two"):
            latent_of(number, named)


@pytest.mark.unit
def test_users_are_known_by_their_ids_seen_or_not(aligned: Path, users: RunUsers, named: dict):
    for some, count in ((users.seen, 7), (users.unseen, 3)):
        assert len(some.ids) == count
        for name, own in zip(some.ids, some.z, strict=True):
            assert named_z(aligned, users, named, name).equal(own)


@pytest.mark.unit
def test_a_user_whose_id_is_a_number_is_found(aligned: Path, users: RunUsers, named: dict):
    renamed = replace(users, seen=replace(users.seen, ids=("7", *users.seen.ids[1:])))
    assert named_z(aligned, renamed, named, "7").equal(users.seen.z[0])
    assert named_z(aligned, renamed, named, "user:7").equal(users.seen.z[0])
    with pytest.raises(ConfigError, match="There is no user '8'"):
        named_z(aligned, renamed, named, "user:8")


@pytest.mark.unit
def test_a_name_that_could_mean_several_things_is_a_group_then_a_user_then_a_prototype(
    aligned: Path, users: RunUsers, named: dict, capsys
):
    renamed = replace(users, seen=replace(users.seen, ids=("1", "helpful", *users.seen.ids[2:])))
    prototypes = Selector.from_pretrained(aligned / "selector").prototypes
    assert named_z(aligned, renamed, named, "1").equal(users.seen.z[0])
    assert "the prototype of this number is prototype:1" in capsys.readouterr().err
    assert named_z(aligned, renamed, named, "prototype:1").equal(prototypes[1])
    assert named_z(aligned, renamed, named, "helpful").tolist() == named["helpful"]
    assert named_z(aligned, renamed, named, "group:helpful").tolist() == named["helpful"]
    assert named_z(aligned, renamed, named, "user:helpful").equal(users.seen.z[1])


@pytest.mark.end_to_end
def test_the_policy_alone_says_what_the_verb_says(aligned: Path, named: dict):
    policy = Policy.from_pretrained(aligned)
    for preference in ("harmless", "0.25"):
        verb = generate(aligned, PROMPTS, preference, seed=2, **SHORT)
        assert policy.generate(PROMPTS, preference=preference, seed=2, **SHORT) == [a.response for a in verb.answers]
        assert policy.generate(PROMPTS, preference=verb.z, seed=2, **SHORT) == [a.response for a in verb.answers]
    one = policy.generate(PROMPTS[0], preference=0.25, temperature=0, **SHORT)
    chat = [{"role": "user", "content": PROMPTS[0]}]
    assert len(one) == len(policy.generate(chat, preference="helpful", **SHORT)) == 1
    assert Policy.from_pretrained(aligned / "policy").preferences == policy.preferences == named
    assert repr(policy) == "Policy(base='bundled', z of 13 numbers, preferences=['helpful', 'harmless'])"
    with pytest.raises(ConfigError, match=r"no preference 'helpfull'.*helpful, harmless"):
        policy.generate(PROMPTS, preference="helpfull")
    with pytest.raises(ConfigError, match="and none is given"):
        policy.generate(PROMPTS)


@pytest.mark.end_to_end
def test_a_new_user_is_a_file_of_pairs(aligned: Path, tmp_path: Path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        for pair in generate_world("two-groups", 1, 9, 77)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = generate(aligned, PROMPTS[:1], f"@{pairs}", **SHORT)
    assert found.z == pytest.approx(personalize(aligned, pairs).mean)
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        generate(aligned, PROMPTS[:1], f"@{tmp_path / 'nowhere.jsonl'}", **SHORT)


@pytest.mark.end_to_end
def test_a_profile_that_is_kept_is_a_preference(aligned: Path, tmp_path: Path):
    run = Path(shutil.copytree(aligned, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"keeps no profiles.*fedvpa profiles .* create ana --pairs FILE"):
        generate(run, PROMPTS[:1], "profile:ana", **SHORT)
    with profiles(run) as kept:
        ana = kept.create("ana", [asdict(pair) for pair in generate_world("two-groups", 1, 9, 77)])
    found = generate(run, PROMPTS[:1], "profile:ana", **SHORT)
    assert (found.preference, found.z) == ("profile:ana", ana.mean)
    with pytest.raises(UnknownProfile, match="There is no profile 'bo'"):
        generate(run, PROMPTS[:1], "profile:bo", **SHORT)


@pytest.mark.unit
def test_an_unknown_preference_lists_the_known_ones(aligned: Path, users: RunUsers):
    user = users.unseen.ids[0]
    with pytest.raises(ConfigError, match="Did you mean 'helpful'") as told:
        generate(aligned, PROMPTS, "helpfull", **SHORT)
    for known in ("helpful", "harmless", user, "@pairs.jsonl"):
        assert known in str(told.value)
    with pytest.raises(ConfigError, match="follows a preference, and none is given"):
        generate(aligned, PROMPTS, None, **SHORT)


@pytest.mark.end_to_end
def test_the_settings_are_those_that_the_policy_was_trained_with(aligned: Path):
    kept = open_aligned(RunFolder(aligned)).config.policy
    assert (kept.conditioning, kept.steps, kept.lora_rank) == ("additive", 1, 2)
    assert (kept.candidates.samples, kept.candidates.max_new_tokens) == (3, 19)
    assert open_aligned(RunFolder(aligned), ["policy.candidates.batch=1"]).config.policy.candidates.batch == 1

    def said(longest: int | None) -> list[Answer]:
        return list(generate(aligned, PROMPTS, "helpful", seed=3, temperature=3.0, max_new_tokens=longest).answers)

    assert said(None) == said(19)
    assert said(None) != said(40)  # at this temperature no sample ends by itself


@pytest.mark.unit
def test_answers_that_cannot_be_are_refused(aligned: Path):
    with pytest.raises(DataError, match="The prompt '' has no tokens"):
        generate(aligned, [PROMPTS[0], ""], "helpful", **SHORT)
    with pytest.raises(ConfigError, match=r"top_p=0\.0 keeps no share"):
        generate(aligned, PROMPTS, "helpful", top_p=0.0, **SHORT)
    for temperature in (math.nan, math.inf, -1.0, 1e-45, 1e30):
        with pytest.raises(
            ConfigError, match=r"temperature: .* cannot be used: .*Give a number from 0\.01 to 100, or 0"
        ):
            generate(aligned, PROMPTS, "helpful", temperature=temperature, **SHORT)
        with pytest.raises(ConfigError, match="temperature"):
            open_aligned(RunFolder(aligned)).policies[""].generate(
                PROMPTS, preference="helpful", temperature=temperature
            )
    with pytest.raises(ConfigError, match="max_new_tokens=0 leaves no room"):
        generate(aligned, PROMPTS, "helpful", max_new_tokens=0)
    tokens = len(open_aligned(RunFolder(aligned)).policies[""].tokenizer.prompts(PROMPTS[:1])[0])
    room = 256 - tokens  # positions, prompt
    with pytest.raises(ConfigError, match=rf"a prompt of {tokens} tokens do not fit .* Give at most {room}\."):
        generate(aligned, PROMPTS[:1], "helpful", max_new_tokens=room + 1)


@pytest.mark.end_to_end
def test_a_base_model_that_has_moved_is_found_and_another_one_is_refused(finished: Path, tmp_path: Path):
    run, other = shutil.copytree(finished, tmp_path / "run"), shutil.copytree(backbone_path(), tmp_path / "old")
    align(run, overrides=(*SMALL, "policy.steps=1", f"features.model={other}"))
    moved = other.rename(tmp_path / "new")
    with pytest.raises(ModelError, match="old"):
        generate(run, PROMPTS, "helpful", overrides=[f"policy.model={other}"], **SHORT)
    found = generate(run, PROMPTS, "helpful", overrides=[f"features.model={moved}"], **SHORT)
    assert len(found.answers) == 2
    settings = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-5}))
    with pytest.raises(ModelError, match="trained on other weights"):
        generate(run, PROMPTS, "helpful", overrides=[f"policy.model={moved}"], **SHORT)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "{"),
        ("preferences.json", None),
        ("adapter_model.safetensors", None),
        ("z_conditioner.safetensors", None),
    ],
)
def test_a_policy_that_is_not_whole_names_what_it_lacks(aligned: Path, tmp_path: Path, name: str, content: str | None):
    run = shutil.copytree(aligned, tmp_path / "run")
    (run / "policy" / name).unlink()
    if content is not None:
        (run / "policy" / name).write_text(content)
    with pytest.raises(RunError, match=name):
        generate(run, PROMPTS, "helpful", **SHORT)


@pytest.mark.unit
def test_a_z_of_the_wrong_size_is_refused(aligned: Path, tmp_path: Path):
    run = shutil.copytree(aligned, tmp_path / "run")
    (run / "policy" / "preferences.json").write_text(json.dumps({"helpful": [0.1] * 5}))
    with pytest.raises(ConfigError, match="takes a z of 13 numbers, and 5 are given"):
        generate(run, PROMPTS, "helpful", **SHORT)


@pytest.mark.unit
def test_a_policy_of_another_schema_version_is_not_read(aligned: Path, tmp_path: Path):
    run = shutil.copytree(aligned, tmp_path / "run")
    path = run / "policy" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    with pytest.raises(RunError, match="has schema version 1; this fedvpa reads 3"):
        generate(run, PROMPTS, "helpful", **SHORT)


@pytest.mark.unit
def test_a_run_without_a_policy_says_what_to_do(finished: Path):
    with pytest.raises(RunError, match="fedvpa align"):
        generate(finished, PROMPTS, "helpful", **SHORT)


@pytest.mark.end_to_end
def test_a_policy_without_z_takes_no_preference(tiny: RunConfig, tmp_path: Path):
    run = tmp_path / "run"
    train(tiny.with_method("global"), run)
    align(run, overrides=(*SMALL, "policy.steps=1"))
    found = generate(run, PROMPTS, None, **SHORT)
    assert found.z is None
    assert len(found.answers) == 2
    with pytest.raises(ConfigError, match="'global' is the same for everybody and cannot follow 'helpful'"):
        generate(run, PROMPTS, "helpful", **SHORT)


@pytest.mark.end_to_end
def test_the_oracle_has_a_policy_for_each_group(tiny: RunConfig, tmp_path: Path):
    run = tmp_path / "run"
    train(tiny.with_method("oracle"), run)
    align(run, overrides=(*SMALL, "policy.steps=1"))
    assert generate(run, PROMPTS, "harmless", **SHORT).z is None
    for preference in ("user-1", None):
        with pytest.raises(ConfigError, match=r"one policy for each of .*helpful"):
            generate(run, PROMPTS, preference, **SHORT)


@pytest.mark.unit
def test_prompts_of_the_evaluation_are_in_no_training(finished: Path):
    stage = stage_of(finished)
    texts, held = public_prompts(stage)
    fair = evaluation_prompts(stage, 31)
    assert len(set(fair)) == 31
    assert not set(fair) & {*texts, *held}
    assert not set(fair) & {pair.prompt for pair in stage.pairs.table.pairs}
