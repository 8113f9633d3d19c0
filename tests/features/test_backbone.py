"""Which models can be used, and what is said about those that cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, GemmaConfig, Qwen2Config, RobertaConfig, T5Config, ViTConfig

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features
from fedvpa.models import locate
from fedvpa.models.architecture import attention_window, kind_of, position_limit
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.load import load_tokenizer


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "model"))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Qwen2Config(), "causal"),
        (GemmaConfig(), "causal"),
        (BertConfig(), "encoder"),
        (RobertaConfig(), "encoder"),
        (BertConfig(is_decoder=True), "causal"),
    ],
)
def test_the_architecture_decides_the_kind(settings, kind):
    assert kind_of(settings) == kind


@pytest.mark.unit
@pytest.mark.parametrize(("settings", "reason"), [(T5Config(), "encoder-decoder"), (ViTConfig(), "neither")])
def test_an_undecidable_architecture_is_an_error(settings, reason):
    with pytest.raises(ModelError, match=reason):
        kind_of(settings)


@pytest.mark.unit
def test_each_process_of_a_launch_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert resolve_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.unit
def test_attention_windows():
    assert attention_window(Qwen2Config()) is None
    assert attention_window(Qwen2Config(use_sliding_window=True, sliding_window=37)) == 37
    assert attention_window(BertConfig()) is None


@pytest.mark.unit
def test_position_tables_that_start_behind_their_padding_row_are_shorter(tokenizer_of):
    sizes = {
        "vocab_size": 101,
        "hidden_size": 8,
        "intermediate_size": 11,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tokenizer = tokenizer_of("bert")
    roberta = AutoModel.from_config(RobertaConfig(**sizes, max_position_embeddings=31, pad_token_id=1))
    bert = AutoModel.from_config(BertConfig(**sizes, max_position_embeddings=31))
    assert position_limit(roberta, tokenizer) == 29
    assert position_limit(bert, tokenizer) == 31
    tokenizer.model_max_length = 23
    assert position_limit(bert, tokenizer) == 23


@pytest.mark.unit
@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer.json", "no tokenizer")],
)
def test_an_incomplete_folder_says_what_is_missing(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        load_backbone(FeatureConfig(model=str(folder)))


@pytest.mark.unit
def test_an_adapter_is_not_a_model(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match="adapter without its base model"):
        load_backbone(FeatureConfig(model=str(folder)))


@pytest.mark.unit
def test_a_git_lfs_pointer_is_not_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        load_backbone(FeatureConfig(model=str(folder)))


@pytest.mark.unit
def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"two\.safetensors is missing"):
        load_backbone(FeatureConfig(model=str(folder)))


@pytest.mark.unit
def test_weights_that_lack_a_tensor_are_refused_and_not_drawn_at_random(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors.*layers\.1\.mlp\.up_proj\.weight"):
        load_backbone(FeatureConfig(model=str(folder)))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"\x00" * 31), ("config.json", b"{"), ("config.json", b'{"model_type": "?"}')],
)
def test_damaged_files_give_one_message(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_backbone(FeatureConfig(model=str(folder)))


@pytest.mark.unit
@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_path_without_a_folder_is_not_asked_from_the_hub(model, monkeypatch):
    monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(ModelError, match="no model folder"):
        load_backbone(FeatureConfig(model=model))


@pytest.mark.unit
def test_a_hub_model_is_named_by_its_revision(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(locate, "snapshot_download", lambda name, **_: asked.append(name) or str(folder))
    source = locate.locate("someone/model")
    assert asked == ["someone/model"]
    assert source.identity() == f"someone/model@{folder.name}"
    assert load_backbone(FeatureConfig(model="someone/model"), source).kind == "causal"


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


@pytest.mark.unit
def test_no_such_layer_or_device(folder):
    with pytest.raises(ConfigError, match=r"hidden states 0 \(embeddings\) to 3"):
        load_backbone(FeatureConfig(model=str(folder), layer=4))
    with pytest.raises(ConfigError, match="'quantum' cannot be used"):
        load_backbone(FeatureConfig(model=str(folder), device="quantum"))


@pytest.mark.unit
def test_precision_follows_the_device():
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16


@pytest.mark.unit
def test_a_declared_generic_tokenizer_is_read_as_it_is(folder):
    """AutoTokenizer would read this Qwen2 folder with Qwen2's own byte-level rules."""
    assert load_tokenizer(folder)("w1 w88")["input_ids"] == [8, 95]


@pytest.mark.unit
def test_the_bundled_model_is_the_default_and_shares_prompts(tmp_path):
    table = PairTable((Pair("How do I bake a loaf?", "Thank you for this question.", "No."),))
    features = load_features(table, FeatureConfig(cache_dir=tmp_path, device="cpu"))
    assert features.report.kind == "causal"
    assert features.report.pairs_sharing_prompt == 1
    assert abs(features.differences()).max() > 0


@pytest.mark.unit
def test_loading_is_silent(folder, capsys):
    load_backbone(FeatureConfig(model=str(folder)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""
