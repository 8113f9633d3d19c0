"""How models are fetched and loaded: what is handed on, what is refused, and that no token is shown."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import RevisionNotFoundError

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.features.config import FeatureConfig
from fedvpa.models import load, locate
from fedvpa.models.load import load_body, loading_arguments
from fedvpa.models.loading_config import LoadingConfig
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.templates import loading_of, with_base

CPU = torch.device("cpu")
SECRET = "hf_AbCdEf0123456789"


def options(**values: object) -> LoadingConfig:
    return LoadingConfig.parse(values, "features", "loading")


@pytest.fixture
def asked(folder, monkeypatch):
    """What the hub is asked for; it answers with a folder."""
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(locate, "snapshot_download", lambda name, **given: calls.append(given) or str(folder))
    return calls


@pytest.mark.unit
def test_revision_and_token_reach_the_hub_and_code_only_where_it_is_trusted(asked, monkeypatch):
    monkeypatch.setenv("OUR_TOKEN", f" {SECRET}\n")
    source = locate.locate("org/model", options(revision="v2", token_env="OUR_TOKEN"))
    assert (asked[0]["revision"], asked[0]["token"]) == ("v2", SECRET)
    assert "*.py" not in asked[0]["allow_patterns"]
    assert SECRET not in repr(source)
    locate.locate("org/model", options(trust_remote_code=True))
    assert "*.py" in asked[1]["allow_patterns"]
    assert (asked[1]["revision"], asked[1]["token"]) == (None, None)


@pytest.mark.unit
def test_a_token_in_place_of_the_name_of_its_variable_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match=r"'features\.loading\.token_env'.*export HF_TOKEN") as told:
        options(token_env=SECRET)
    assert SECRET not in str(told.value)
    with pytest.raises(ConfigError, match="Did you mean 'token_env'") as told:
        options(token=SECRET)
    assert SECRET not in str(told.value)


@pytest.mark.unit
def test_a_variable_without_a_token_is_named(monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(ConfigError, match="The environment variable NO_SUCH holds no token"):
        locate.locate("org/model", options(token_env="NO_SUCH"))


@pytest.mark.unit
def test_a_revision_that_the_hub_lacks_is_named(monkeypatch):
    def lacking(*_: object, **__: object) -> None:
        raise RevisionNotFoundError("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(locate, "snapshot_download", lacking)
    with pytest.raises(ModelError, match=r"'org/model' has no revision 'v9'"):
        locate.locate("org/model", options(revision="v9"))


@pytest.mark.unit
def test_the_attention_that_is_asked_for_is_the_one_that_runs(folder):
    for name in ("eager", "sdpa"):
        loaded = load_body(locate.locate(str(folder), options(attn_implementation=name)), torch.float32, CPU)
        assert loaded.model.config._attn_implementation == name
    with pytest.raises(ModelError, match=r"attn_implementation=no_such_attention: .*Give sdpa or eager"):
        load_body(locate.locate(str(folder), options(attn_implementation="no_such_attention")), torch.float32, CPU)


@pytest.mark.unit
def test_without_bitsandbytes_quantisation_is_one_message(folder, monkeypatch):
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    source = locate.locate(str(folder), options(quantization="nf4"))
    with pytest.raises(ConfigError, match=r"quantization=nf4 is done by bitsandbytes.*pip install bitsandbytes"):
        load_body(source, torch.float32, CPU)


@pytest.mark.unit
def test_what_bitsandbytes_is_asked_for(monkeypatch):
    """It cannot be installed here: these are the arguments that ``from_pretrained`` is given."""
    monkeypatch.setattr(load, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.49.0")
    found = loading_arguments(options(quantization="nf4"), torch.bfloat16, CPU)
    assert found["device_map"] == {"": CPU}
    assert found["dtype"] == torch.bfloat16
    how = found["quantization_config"]
    assert (how.load_in_4bit, how.bnb_4bit_quant_type, how.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert how.bnb_4bit_compute_dtype == torch.bfloat16
    assert loading_arguments(options(), torch.float32, CPU) == {"dtype": torch.float32}


@pytest.mark.unit
def test_weights_that_are_rounded_further_are_others(folder):
    plain, rounded = (locate.locate(str(folder), options(quantization=how)) for how in (None, "nf4"))
    assert plain.identity() != rounded.identity()
    assert plain.content() == rounded.content()


@pytest.mark.unit
def test_code_beside_the_weights_does_not_run_unless_it_is_trusted(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "from transformers import Qwen2Config\n\n\nclass OwnConfig(Qwen2Config):\n    model_type = 'own'\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"Python code that lies beside its weights.*loading\.trust_remote_code=true"):
        load_body(locate.locate(str(folder)), torch.float32, CPU)
    assert not ran.exists()
    trusted = locate.locate(str(folder), options(trust_remote_code=True))
    before = trusted.content()
    assert load.open_settings(trusted).model_type == "own"
    assert ran.exists()
    (folder / "own.py").write_text("# other code\n")
    assert trusted.content() != before
    shutil.rmtree(folder)


@pytest.mark.unit
def test_a_policy_is_loaded_as_the_features_are_where_it_is_the_same_model():
    features = FeatureConfig(model="org/model", loading=options(revision="v2"))
    assert loading_of(PolicyConfig(), features).revision == "v2"
    assert loading_of(PolicyConfig(model="org/model"), features).revision == "v2"
    assert loading_of(PolicyConfig(model="org/other"), features) == LoadingConfig()
    own = PolicyConfig(loading=options(quantization="nf4"))
    assert loading_of(own, features) == own.loading
    assert with_base(PolicyConfig(), features).model == "org/model"
