"""Which folders and names are models, and what is said about those that are not."""

from __future__ import annotations

import json

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from fedvpa.core.errors import ModelError
from fedvpa.models import locate


@pytest.mark.unit
@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer.json", "no tokenizer")],
)
def test_an_incomplete_folder_says_what_is_missing(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        locate.locate(str(folder))


@pytest.mark.unit
def test_an_adapter_is_not_a_model(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match="adapter without its base model"):
        locate.locate(str(folder))


@pytest.mark.unit
def test_a_git_lfs_pointer_is_not_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        locate.locate(str(folder))


@pytest.mark.unit
def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"two\.safetensors is missing"):
        locate.locate(str(folder))


@pytest.mark.unit
@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_path_without_a_folder_is_not_asked_from_the_hub(model, monkeypatch):
    monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(ModelError, match="no model folder"):
        locate.locate(model)


@pytest.mark.unit
def test_a_hub_model_is_named_by_its_revision(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(locate, "snapshot_download", lambda name, **_: asked.append(name) or str(folder))
    source = locate.locate("someone/model")
    assert asked == ["someone/model"]
    assert source.identity() == f"someone/model@{folder.name}"


@pytest.mark.unit
def test_a_hub_model_that_cannot_be_fetched_is_one_message(monkeypatch):
    def offline(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(locate, "snapshot_download", offline)
    with pytest.raises(ModelError, match="neither a folder nor a hub model"):
        locate.locate("someone/model")
    monkeypatch.undo()
    with pytest.raises(ModelError, match="neither a folder nor a hub model"):
        locate.locate("not a name")


@pytest.mark.unit
def test_pytorch_weights_of_the_hub_are_fetched_where_there_is_no_safetensors(folder, monkeypatch):
    patterns = []

    def download(_, *, allow_patterns, **__):
        patterns.append(allow_patterns[-1])
        (folder / "model.safetensors").unlink(missing_ok=True)
        if allow_patterns[-1] == "*.bin":
            (folder / "pytorch_model.bin").write_bytes(b"weights")
        return str(folder)

    monkeypatch.setattr(locate, "snapshot_download", download)
    locate.locate("someone/model")
    assert patterns == ["*.safetensors", "*.bin"]
