"""The exports of a run: what they write, under which names, and one clear line for what cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import fedvpa
from command_line import fedvpa as command
from fedvpa.api.align import align
from fedvpa.api.export_models import export_adapters, export_baked, export_hub, export_merged
from fedvpa.core.errors import ConfigError, DataError, ModelError, RunError, StorageError
from fedvpa.exports import baked, hub
from fedvpa.exports.profiles import named
from fedvpa.models import locate
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import save_policy
from fedvpa.runs.users import load_users
from fedvpa.world import backbone_path
from policy_fixtures import latents, tiny_config
from run_fixtures import TINY_POLICY, finished, tiny

from .conftest import SHARED, our_answers, policy_on, stock_answers

__all__ = ["finished", "tiny"]

PROMPT = "how do i plan a picnic ?"
POLICY = (*TINY_POLICY, "policy.steps=1", "policy.evaluate_every=1", "policy.candidates.samples=3")
SUMMARY = {
    "win_rate": 0.83,
    "ci95": [0.7, 0.9],
    "prompts": 50,
}


@pytest.fixture(scope="module")
def aligned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a gated LoRA, and with a judgement."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("aligned") / "run"))
    align(run, overrides=POLICY)
    path = run / "policy" / "metrics.json"
    summary = [{"preferences": {"helpful": SUMMARY}, "unseen": {"preferences": {"helpful": {**SUMMARY, "ci95": None}}}}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "policy_summary": summary, "policy_judge": "world"}))
    return run


def rewritten(run: Path, to: Path, **conditioner: object) -> Path:
    """The run with another word in ``policy.json``, so that nothing is loaded before it is refused."""
    run = Path(shutil.copytree(run, to))
    path = run / "policy" / "policy.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, **conditioner}))
    return run


@pytest.mark.end_to_end
def test_merged_models_of_a_run_answer_as_it_does(aligned: Path, tmp_path: Path) -> None:
    done = command("export", "merged", aligned, tmp_path / "out", "--preferences", "helpful,0.3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["profiles"] == {name: str(tmp_path / "out" / name) for name in ("helpful", "0.3")}
    policy = fedvpa.Policy.from_pretrained(aligned)
    for name, place in found["profiles"].items():
        tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
        inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=9)
        said = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said == policy.generate(PROMPT, preference=name, temperature=0, max_new_tokens=9)[0]
        settings = GenerationConfig.from_pretrained(place)
        assert settings.eos_token_id == list(policy.tokenizer.stops.tokens)
        assert (settings.temperature, settings.top_k, settings.suppress_tokens) == (0.7, 0, None)
        guide = (Path(place) / "README.md").read_text()
        assert f"answers under the preference {name!r}" in guide
        assert f"vllm serve {place}" in guide
        assert "## What left the users' devices\n\n- This run was a simulation" in guide


@pytest.mark.end_to_end
def test_adapters_of_a_run_name_their_base_and_no_place_of_this_machine(aligned: Path, tmp_path: Path) -> None:
    made = export_adapters(
        aligned, tmp_path / "out", {"helpful": "helpful", "mine": latents(1)[0].tolist() + [0.0] * 10}
    )
    assert dict(made.profiles) == {name: tmp_path / "out" / name for name in ("helpful", "mine")}
    assert {path.name for path in (tmp_path / "out" / "mine").iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors"),
    }
    assert json.loads((tmp_path / "out" / "mine" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "bundled"
    )
    modules = f"helpful={tmp_path}/out/helpful mine={tmp_path}/out/mine"
    guide = (tmp_path / "out" / "README.md").read_text()
    assert f"--enable-lora --max-lora-rank 8 --lora-modules {modules}" in guide


@pytest.mark.unit
def test_the_hub_gets_a_card_with_what_was_measured_and_nothing_of_a_user(
    aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = load_users(RunFolder.open(aligned).users)
    commit = backbone_path().name
    monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: str(backbone_path()))
    calls: list[tuple[str, object]] = []

    class Api(HfApi):
        def create_repo(self, repo_id: str, **options: object) -> str:
            calls.append(("create_repo", (repo_id, options)))
            return f"hub/{repo_id}"

        def upload_folder(self, **options: object) -> None:
            calls.append(("upload_folder", options["repo_id"]))
            assert (Path(str(options["folder_path"])) / "adapter_config.json").is_file()

    monkeypatch.setattr(hub, "HfApi", Api)
    place = ("features.model=someone/model",)
    made = export_hub(aligned, tmp_path / "out", push="me/policy", overrides=place)
    assert calls == [
        ("create_repo", ("me/policy", {"private": True, "exist_ok": True})),
        ("upload_folder", "me/policy"),
    ]
    assert (made.url, made.results) == ("hub/me/policy", 2)
    assert list(made.files) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "policy.json"),
        *("preferences.json", "tokenizer.json", "tokenizer_config.json", "z_conditioner.safetensors"),
    ]
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("someone/model", "peft")
    first, second = card.data.eval_results
    name = "win rate against the base, preference 'helpful', seen users, judge 'world'"
    assert (first.metric_type, first.metric_value, first.metric_name) == ("win_rate", 0.83, name)
    assert second.metric_name == name.replace("seen", "unseen")
    assert f"The base is `someone/model`, at the revision `{commit}`" in card.text
    assert f"AutoModelForCausalLM.from_pretrained('someone/model', revision='{commit}')" in card.text
    assert "| helpful | seen | 0.83 | [0.70, 0.90] | 50 |\n| helpful | unseen | 0.83 |  | 50 |" in card.text
    assert "## What left the users' devices\n\n- This run was a simulation" in card.text
    assert "No noise was added to anything" in card.text
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("someone/model", commit)
    secrets = [name.encode() for some in (users.seen, users.unseen) for name in some.ids]
    secrets += [z.numpy().tobytes() for z in users.seen.z] + [str(aligned).encode()]
    assert not [name for name in made.files for one in secrets if one in (tmp_path / "out" / name).read_bytes()]
    policy = fedvpa.Policy.from_pretrained(tmp_path / "out", model=str(backbone_path()))
    asked = {"preference": 0.3, "temperature": 0, "max_new_tokens": 5}
    assert policy.generate(PROMPT, **asked) == fedvpa.Policy.from_pretrained(aligned).generate(PROMPT, **asked)

    def refused(self: object, *_: object, **__: object) -> None:
        raise OSError("401 Client Error: Unauthorized\nmore")

    monkeypatch.setattr(Api, "create_repo", refused)
    with pytest.raises(StorageError, match=r"me/policy: cannot be written: 401.*hf auth login.*hf upload me/policy"):
        export_hub(aligned, tmp_path / "again", push="me/policy", overrides=place)
    assert (tmp_path / "again" / "README.md").is_file()


@pytest.mark.unit
def test_the_card_says_epsilon_where_the_run_has_one_and_no_results_where_none_were_measured(
    aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(aligned, tmp_path / "run"))
    card, metrics = run / "policy" / "README.md", run / "policy" / "metrics.json"
    card.write_text(
        card.read_text().replace("\n\nUse: ", "\n- User-level differential privacy: ε = 3 at δ = 1e-05\n\nUse: ")
    )
    values = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({name: value for name, value in values.items() if name != "policy_summary"}))
    made = export_hub(run, tmp_path / "out")
    assert made.results == 0
    assert "has none. First: fedvpa evaluate" in capsys.readouterr().err
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- User-level differential privacy: ε = 3 at δ = 1e-05\n" in text
    assert "## Results" not in text
    front = yaml.safe_load(text.split("---")[1])
    assert front == {"library_name": "peft", "tags": ["fedvpa", "dpo", "lora"]}, "the base is none of the hub"


@pytest.mark.unit
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(
    aligned: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no preference and no user 'helpfull'.*Did you mean 'helpful'"):
        export_merged(aligned, out, ["helpfull"])
    with pytest.raises(ConfigError, match="follows a preference, and none is given"):
        export_adapters(aligned, out)
    with pytest.raises(ConfigError, match=r"z is in its LoRA: use fedvpa export adapters, or fedvpa export merged"):
        export_baked(aligned, out, ["helpful"])
    with pytest.raises(RunError, match="holds no policy"):
        export_merged(finished, out, ["helpful"])
    with pytest.raises(ModelError, match=r"nowhere: There is no model folder here"):
        export_merged(aligned, out, ["helpful"], overrides=["features.model=./nowhere"])
    with pytest.raises(ConfigError, match=r"policy\.steps cannot be changed"):
        export_hub(aligned, out, overrides=["policy.steps=3"])
    with pytest.raises(ModelError, match=r"'bundled', which is no model of the hub.*policy\.model=HUB_ID"):
        export_hub(aligned, out, push="me/policy")
    with pytest.raises(ConfigError, match=r"'a b' is no name of a repository"):
        export_hub(aligned, out, push="a b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for export in (export_merged, export_adapters, export_baked):
        with pytest.raises(RunError, match="full: holds files already"):
            export(aligned, tmp_path / "full", ["helpful"])
    with pytest.raises(RunError, match="full: holds files already"):
        export_hub(aligned, tmp_path / "full")
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.unit
def test_a_quantised_base_and_a_z_outside_the_lora_are_refused_before_anything_is_loaded(
    aligned: Path, tmp_path: Path
) -> None:
    settings = json.loads((aligned / "policy" / "policy.json").read_text())["settings"]
    loading = {"quantization": "nf4"}
    quantised = rewritten(aligned, tmp_path / "quantised", settings={**settings, "loading": loading})
    with pytest.raises(ModelError, match=r"is quantised \(nf4\), and a LoRA cannot be merged.*fedvpa export adapters"):
        export_merged(quantised, tmp_path / "out", ["helpful"])
    for kind, fits in (("soft_prefix", "which serves every z by embeddings"), ("additive", "a model for each")):
        shape = {"kind": kind, "placement": "added", "latent": 13, "prefix_tokens": 3}
        run = rewritten(aligned, tmp_path / kind, conditioner=shape)
        with pytest.raises(ConfigError, match=rf"conditioning={kind} .*Use fedvpa export merged, .*{fits}"):
            export_adapters(run, tmp_path / "out", ["helpful"])


@pytest.mark.unit
def test_preferences_are_named_as_they_are_given_and_files_by_their_names() -> None:
    assert named(["helpful", 0.3, "@data/ana.jsonl"]) == {"helpful": "helpful", "0.3": 0.3, "ana": "@data/ana.jsonl"}
    with pytest.raises(ConfigError, match="Two preferences have the name 'ana'"):
        named(["@a/ana.jsonl", "@b/ana.jsonl"])
    with pytest.raises(ConfigError, match=r"A z has no name of its own.*preferences="):
        named([[0.1, 0.2]])
    with pytest.raises(DataError, match="'a/b' is a preference, and no folder"):
        named(["a/b"])


@pytest.fixture
def earlier(aligned: Path, base_of: Callable[..., Path], tmp_path: Path) -> Path:
    """The run with a policy as releases up to 0.4 left it, whose soft prefix stands in places of its own."""
    run = Path(shutil.copytree(aligned, tmp_path / "earlier"))
    policy = policy_on(base_of("llama", tied=True, shared=SHARED), "soft_prefix")
    policy.conditioner.placement = "inserted"
    policy.prototypes = latents(2).tolist()
    shutil.rmtree(run / "policy")
    config = tiny_config(policy.source.folder, template="chat")
    save_policy(RunFolder.open(run), policy, "fedeb", "", config, {})
    named = {"helpful": policy.prototypes[0], "harmless": [0.5, 0.5, 0.5]}
    for name, value in (("metrics", {"method": "fedeb", "policies": {"": {}}}), ("preferences", named)):
        (run / "policy" / f"{name}.json").write_text(json.dumps(value))
    return run


@pytest.mark.end_to_end
def test_a_run_of_an_earlier_release_is_exported_for_embeddings_and_with_its_profiles_in_the_vocabulary(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baked, "TEXTS", 16)
    policy = fedvpa.Policy.from_pretrained(earlier)
    assert export_merged(earlier, tmp_path / "all").profiles.keys() == {"helpful"}, "the other z is made of users'"
    kept = json.loads((tmp_path / "all" / "profiles.json").read_text())
    assert kept == {"helpful": pytest.approx(policy.latent("helpful").tolist())}
    assert "--enable-prompt-embeds" in (tmp_path / "all" / "README.md").read_text()
    done = command("export", "baked", earlier, tmp_path / "baked", "--preferences", "helpful,0.3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["profiles"] == dict.fromkeys(("helpful", "0.3"), str(tmp_path / "baked"))
    for name in ("helpful", "0.3"):
        spelled = "".join(f"<|profile:{name}:{place}|>" for place in range(policy.conditioner.tokens))
        assert f"    {name}: {spelled}\n" in (tmp_path / "baked" / "README.md").read_text()
        assert stock_answers(tmp_path / "baked", profile=name) == our_answers(policy, policy.latent(name))


@pytest.mark.unit
def test_a_model_whose_states_share_no_direction_gets_no_profile_tokens(
    base_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baked, "TEXTS", 16)
    policy = policy_on(base_of("llama", tied=False), "soft_prefix")
    policy.conditioner.placement = "inserted"
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"the states of this model share no direction .*Use fedvpa export merged"):
        baked.write_baked(policy, {"a": [0.0, 1.0, 0.0]}, tmp_path / "out")
