"""What nodes are given to serve their users: whole, checked by content, and nothing of a user in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from fedvpa.api.align import align
from fedvpa.api.export import export_release
from fedvpa.api.generate import generate
from fedvpa.api.personalize import personalize
from fedvpa.core.errors import ConfigError, ModelError, RunError
from fedvpa.models import locate
from fedvpa.policy.files import read_preferences
from fedvpa.policy.preference import shareable
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.users import load_users
from fedvpa.world import backbone_path
from own_table import pairs_of, write_rows
from policy_fixtures import make_selector
from run_fixtures import TINY_POLICY, finished, tiny

__all__ = ["finished", "tiny"]

PROMPT = "how do i plan a picnic ?"
POLICY = (*TINY_POLICY, "policy.steps=1", "policy.evaluate_every=1", "policy.candidates.samples=3")
HOLDS = [
    *("README.md", "config.yaml", "policy/README.md", "policy/adapter_config.json", "policy/adapter_model.safetensors"),
    *("policy/metrics.json", "policy/policy.json", "policy/preferences.json", "policy/z_conditioner.safetensors"),
    *("selector/config.json", "selector/selector.safetensors"),
]


@pytest.fixture(scope="module")
def aligned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated run with everything that a run may hold, and more."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("aligned") / "run"))
    align(run, overrides=POLICY)
    (run / "policy" / "answers.jsonl").write_text('{"user": "user-00001"}\n')
    (run / "policy" / "later.safetensors").write_bytes(b"user-00001")
    return run


@pytest.fixture(scope="module")
def release(aligned: Path) -> Path:
    return export_release(aligned, aligned.parent / "release").release


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new user's pairs under the standard column names."""
    columns = {name: name for name in ("user_id", "prompt", "chosen", "rejected")}
    return write_rows(tmp_path_factory.mktemp("node") / "mine.jsonl", pairs_of(1, 9, 77), columns)


@pytest.mark.unit
def test_a_release_holds_what_is_named_and_nothing_of_a_user(aligned: Path, release: Path, tmp_path: Path) -> None:
    made = export_release(aligned, tmp_path / "release")
    assert made.to_dict() == {
        "release": str(tmp_path / "release"), "files": HOLDS, "policies": [""], "left_out": [],
    }  # fmt: skip
    files = [path for path in release.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(release).as_posix() for path in files) == HOLDS
    users = load_users(RunFolder.open(aligned).users)
    secrets = [name.encode() for some in (users.seen, users.unseen) for name in some.ids]
    secrets += [z.numpy().tobytes() for z in users.seen.z] + [str(aligned).encode()]
    assert any(secret in (aligned / "history.jsonl").read_bytes() for secret in secrets), "they would be found"
    assert any(secret in (aligned / "clients" / "users.safetensors").read_bytes() for secret in secrets)
    found = {path.name for path in files for secret in secrets if secret in path.read_bytes()}
    assert found == set()


@pytest.mark.end_to_end
def test_a_release_answers_as_the_run_does(aligned: Path, release: Path, mine: Path) -> None:
    there, here = personalize(aligned, mine), personalize(release, mine)
    assert here.mean == pytest.approx(there.mean)
    for preference in (f"@{mine}", "0", *read_preferences(release / "policy")):
        answers = [generate(run, PROMPT, preference, max_new_tokens=7).answers for run in (aligned, release)]
        assert answers[0] == answers[1], preference
    with pytest.raises(ConfigError, match="the run holds no users, who are on other machines"):
        generate(release, PROMPT, "user-00001")


def other_model(folder: Path) -> Path:
    """The bundled model with one weight changed."""
    folder = Path(shutil.copytree(backbone_path(), folder))
    weights = load_file(folder / "model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1e-3}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.end_to_end
def test_the_model_of_a_node_is_known_by_its_content(aligned: Path, mine: Path, tmp_path: Path) -> None:
    gone = shutil.copytree(aligned, tmp_path / "run")
    config = yaml.safe_load((gone / "config.yaml").read_text())
    config["features"]["model"] = str(tmp_path / "gone")
    (gone / "config.yaml").write_text("# schema_version: 1\n" + yaml.safe_dump(config))
    release = export_release(gone, tmp_path / "release").release
    copy, other = shutil.copytree(backbone_path(), tmp_path / "copy"), other_model(tmp_path / "other")
    copied = (f"features.model={copy}",)
    for place, said in (
        ((), rf"{tmp_path}/gone: There is no.*features\.model=PATH"),
        ((f"features.model={other}",), ""),
    ):
        with pytest.raises(ModelError, match=said or rf"{other}: The selector was trained on.*features\.model=PATH"):
            personalize(release, mine, overrides=place)
        with pytest.raises(ModelError, match=said or rf"{other}: The policy was trained on other weights") as told:
            generate(release, PROMPT, f"@{mine}", overrides=place)
        assert "\n" not in str(told.value)
    assert generate(release, PROMPT, f"@{mine}", max_new_tokens=5, overrides=copied).answers
    assert personalize(release, mine, overrides=copied).mean == pytest.approx(personalize(aligned, mine).mean)


@pytest.mark.unit
def test_a_copy_of_a_hub_model_is_the_same_model(
    aligned: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: str(backbone_path()))
    hub, folder = locate.locate("someone/model"), locate.locate("bundled")
    assert hub.identity() != folder.identity()
    assert hub.content() == folder.content()
    assert [hub.known_as(name) for name in (hub.identity(), folder.content(), "someone/model@other")] == [1, 1, 0]
    release = export_release(aligned, tmp_path / "release", overrides=("features.model=someone/model",)).release
    saved = json.loads((release / "policy" / "policy.json").read_text())
    adapter = json.loads((release / "policy" / "adapter_config.json").read_text())
    assert saved["model"] == adapter["base_model_name_or_path"] == "someone/model"
    assert "base_model: someone/model" in (release / "policy" / "README.md").read_text()
    assert generate(release, PROMPT, f"@{mine}", max_new_tokens=5).answers
    other = other_model(tmp_path / "other")
    monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: str(other))
    with pytest.raises(ModelError, match="someone/model"):
        export_release(aligned, tmp_path / "refused", overrides=("features.model=someone/model",))
    assert not (tmp_path / "refused").exists()


@pytest.mark.unit
def test_a_preference_that_is_made_of_users_own_z_is_left_out() -> None:
    prototypes = make_selector([[1.0, 0.5], [0.25, 2.0]], [[1.0], [1.0]], [1.0]).prototypes.tolist()
    named = {"helpful": [1.0, 0.5], "harmless": [0.3, 2.0]}
    assert shareable(named, prototypes) == ({"helpful": [1.0, 0.5]}, ("harmless",))


@pytest.mark.unit
def test_what_cannot_be_released_is_one_message_and_nothing_is_written(
    aligned: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"policy\.steps cannot be changed by a release.*features\.model=PATH"):
        export_release(aligned, tmp_path / "a", overrides=("policy.steps=3",))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(RunError, match="holds files already"):
        export_release(aligned, tmp_path / "full")
    policy = shutil.copytree(aligned, tmp_path / "policy")  # as a federation that trained a policy alone leaves it
    shutil.rmtree(policy / "selector")
    capsys.readouterr()
    made = export_release(policy, tmp_path / "without")
    assert [name for name in HOLDS if not name.startswith("selector")] == list(made.files)
    assert set(made.left_out) == read_preferences(aligned / "policy").keys()
    assert "holds no selector, so nodes can generate, and not personalize" in capsys.readouterr().err
    assert "personalize" not in (made.release / "README.md").read_text()
    assert generate(made.release, PROMPT, [0.1] * 13, max_new_tokens=5).answers
    with pytest.raises(RunError, match="holds no trained selector"):
        personalize(made.release, _pairs(tmp_path))
    untrained = shutil.copytree(finished, tmp_path / "untrained")
    shutil.rmtree(untrained / "selector")
    with pytest.raises(RunError, match="holds no trained selector"):
        export_release(untrained, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    capsys.readouterr()
    alone = export_release(finished, tmp_path / "b")
    assert alone.policies == ()
    assert "holds no policy, so nodes can personalize, and not generate" in capsys.readouterr().err
    assert "policy" not in os.listdir(alone.release)
    with pytest.raises(RunError, match="holds no policy"):
        generate(alone.release, PROMPT, "0")
    assert torch.isfinite(torch.tensor(personalize(alone.release, _pairs(tmp_path)).mean)).all()


def _pairs(folder: Path) -> Path:
    columns = {name: name for name in ("user_id", "prompt", "chosen", "rejected")}
    return write_rows(folder / "own.jsonl", pairs_of(1, 5, 3), columns)
