"""A policy's folder names where its base came from, and no place of the machine that trained it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedvpa.core.errors import ModelError
from fedvpa.models import locate
from fedvpa.models.loading_config import LoadingConfig
from fedvpa.policy.files import read_policy, saved_settings
from fedvpa.policy.origin import describe
from fedvpa.policy.policy import Policy, load_policy, new_policy
from policy_fixtures import LATENT, make_policy, save_model, tiny_config

pytestmark = pytest.mark.unit


@pytest.fixture
def base(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base model that may move, on a machine that knows nothing yet."""
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(base_folder, tmp_path / "secret" / "our-model"))


def saved(policy: Policy, folder: Path) -> dict[str, object]:
    policy.save_pretrained(folder, {"settings": {"candidates": {"max_new_tokens": 11}}})
    return read_policy(folder)


def test_no_path_of_this_machine_is_in_a_policy_folder(base: Path, tmp_path: Path):
    policy = make_policy(base)
    about = saved(policy, tmp_path / "policy")
    adapter = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    assert about["model"] == adapter["base_model_name_or_path"] == "our-model"
    assert (about["origin"], about["revision"], adapter["revision"]) == ("folder", None, None)
    assert about["base"] == policy.source.content()
    for file in (tmp_path / "policy").glob("*.json"):
        assert "secret" not in file.read_text(), file.name
    assert "policy.model=PATH" in describe(policy.source)
    assert "secret" not in describe(policy.source)


def test_the_same_machine_finds_the_base_again_and_another_one_is_told_how(base: Path, tmp_path: Path, monkeypatch):
    about = saved(make_policy(base), tmp_path / "policy")
    again = Policy.from_pretrained(tmp_path / "policy", device="cpu")
    assert again.source.folder == base
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked for a folder"))
    with pytest.raises(ModelError, match=r"the model folder 'our-model' \(content sha256:.*policy\.model=PATH"):
        Policy.from_pretrained(tmp_path / "policy", device="cpu")
    moved = base.rename(tmp_path / "moved")
    found = Policy.from_pretrained(tmp_path / "policy", model=str(moved), device="cpu")
    assert found.source.content() == about["base"]
    other = save_model(tmp_path / "other", seed=3)
    with pytest.raises(ModelError, match="trained on other weights of 'our-model'"):
        Policy.from_pretrained(tmp_path / "policy", model=str(other), device="cpu")


def test_a_base_that_is_gone_is_not_taken_from_its_old_place(base: Path, tmp_path: Path):
    saved(make_policy(base), tmp_path / "policy")
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="where that is on this machine is not known"):
        Policy.from_pretrained(tmp_path / "policy", device="cpu")


def test_a_hub_model_is_named_with_its_commit_and_fetched_at_it(base: Path, tmp_path: Path, monkeypatch):
    commit, asked = tmp_path / ("c" * 40), []
    base.rename(commit)
    monkeypatch.setattr(
        locate, "snapshot_download", lambda name, **given: asked.append((name, given["revision"])) or str(commit)
    )
    config = tiny_config(Path("org/model"), loading={"revision": "main"})
    about = saved(new_policy(config, "", LATENT, 3, device="cpu"), tmp_path / "policy")
    adapter = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    assert (about["model"], about["origin"], about["revision"]) == ("org/model", "hub", "c" * 40)
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/model", "c" * 40)
    asked.clear()
    Policy.from_pretrained(tmp_path / "policy", device="cpu")
    assert asked == [("org/model", "c" * 40)]


def test_a_policy_of_an_earlier_release_is_opened_where_it_says(base: Path, tmp_path: Path):
    about = saved(make_policy(base), tmp_path / "policy")
    for key in ("origin", "revision", "quantization"):
        del about[key]
    (tmp_path / "policy" / "policy.json").write_text(json.dumps({**about, "model": str(base)}))
    assert load_policy(tmp_path / "policy", tiny_config(base), device="cpu").source.folder == base
    assert Policy.from_pretrained(tmp_path / "policy", device="cpu").source.folder == base


def test_trust_in_code_does_not_come_with_a_policy():
    config = tiny_config(Path("org/model"), loading=LoadingConfig(trust_remote_code=True, revision="v1"))
    found = saved_settings({"settings": config.model_dump(mode="json")})
    assert found.loading == LoadingConfig(revision="v1")
