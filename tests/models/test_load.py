"""What is loaded, what is refused, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fedvpa.core.errors import ModelError
from fedvpa.models.load import LoadedModel, load_body, load_causal_lm, load_classifier, load_tokenizer
from fedvpa.models.locate import locate
from tiny_models import VOCABULARY, config_of, make_tokenizer

CPU = torch.device("cpu")


def body(folder: Path) -> LoadedModel:
    return load_body(locate(str(folder)), torch.float32, CPU)


@pytest.mark.unit
def test_weights_that_lack_a_tensor_are_refused_and_not_drawn_at_random(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors.*layers\.1\.mlp\.up_proj\.weight"):
        body(folder)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x00" * 31),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "?"}'),
        ("config.json", b'{"model_type": "qwen2", "num_hidden_layers": 3, "layer_types": ["full_attention"]}'),
        ("config.json", b'{"model_type": "qwen2", "hidden_size": "wide"}'),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b'{"version": "1.0", "added_tokens": [], "model": {"type": "?"}}'),
    ],
)
def test_damaged_files_give_one_message(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        body(folder)


@pytest.mark.unit
def test_a_declared_generic_tokenizer_is_read_as_it_is(folder):
    """AutoTokenizer would read this Qwen2 folder with Qwen2's own byte-level rules."""
    assert load_tokenizer(folder)("w1 w88")["input_ids"] == [8, 95]


@pytest.mark.unit
def test_loading_is_silent(folder, capsys):
    body(folder)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_comes_frozen_in_evaluation_mode_and_in_the_given_precision(model_folder, tmp_path, dtype):
    causal, classifier = config_of("qwen2"), config_of("bert")
    classifier.num_labels = 1
    for family, config, name in (
        (AutoModelForCausalLM, causal, "qwen2"),
        (AutoModelForSequenceClassification, classifier, "bert"),
    ):
        family.from_config(config).save_pretrained(tmp_path / name)
        make_tokenizer(name).save_pretrained(tmp_path / name)
    for load, place in (
        (load_body, model_folder("qwen2")),
        (load_causal_lm, tmp_path / "qwen2"),
        (load_classifier, tmp_path / "bert"),
    ):
        loaded = load(locate(str(place)), dtype, CPU)
        assert loaded.model.dtype == dtype
        assert not loaded.model.training
        assert not any(weight.requires_grad for weight in loaded.model.parameters())
        assert loaded.tokenizer("w1")["input_ids"][-2:].count(8) == 1
        assert repr(loaded) == f"LoadedModel({loaded.settings.model_type!r}, {dtype}, cpu)"


@pytest.mark.unit
def test_a_head_that_is_missing_is_not_drawn_at_random(folder, model_folder):
    """The folder holds a body; transformers would put a random head on it."""
    with pytest.raises(
        ModelError, match=r"lack 1 tensors of a causal language model, the first being 'lm_head\.weight'"
    ):
        load_causal_lm(locate(str(folder)), torch.float32, CPU)
    with pytest.raises(ModelError, match="a head of 2 outputs; a reward is a single one"):
        load_classifier(locate(str(model_folder("bert"))), torch.float32, CPU)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "reward"}}))
    with pytest.raises(ModelError, match=r"lack 1 tensors of a reward model, the first being 'score\.weight'"):
        load_classifier(locate(str(folder)), torch.float32, CPU)


@pytest.mark.unit
def test_the_bundled_model_shares_its_head_with_its_embedding_and_lacks_nothing():
    model = load_causal_lm(locate("bundled"), torch.float32, CPU).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


def save_with_tokens(folder: Path, *added: str, **special: str) -> Path:
    """A causal model with as many rows as its tokenizer had tokens before some were added to it."""
    AutoModelForCausalLM.from_config(config_of("llama")).save_pretrained(folder)
    tokenizer = make_tokenizer("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": list(added), **special})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.unit
@pytest.mark.parametrize("load", [load_body, load_causal_lm])
def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(load, tmp_path):
    folder = save_with_tokens(tmp_path, "<|tool|>", pad_token="<|pad|>")
    with pytest.raises(ModelError) as refused:
        load(locate(str(folder)), torch.float32, CPU)
    rows = len(VOCABULARY)
    for part in (
        f"has {rows + 2} tokens",
        f"embeddings for {rows}",
        "'<|pad|>'",
        "resize_token_embeddings",
        str(folder),
    ):
        assert part in str(refused.value)
    assert f"the padding token is number {rows}" in str(refused.value)


@pytest.mark.unit
def test_tokens_that_stand_for_pictures_need_no_row(tmp_path):
    """As in the smallest Gemma 3, which reads text alone and shares its tokenizer with the others."""
    folder = save_with_tokens(tmp_path, "<picture>")
    with pytest.raises(ModelError, match="'<picture>'"):
        load_causal_lm(locate(str(folder)), torch.float32, CPU)
    declared = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**declared, "image_token": "<picture>"}))
    assert load_causal_lm(locate(str(folder)), torch.float32, CPU).tokenizer.image_token == "<picture>"


@pytest.mark.unit
def test_a_model_with_rows_to_spare_is_taken(tmp_path):
    config = config_of("llama")
    config.vocab_size += 11
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer("llama").save_pretrained(tmp_path)
    assert load_causal_lm(locate(str(tmp_path)), torch.float32, CPU).settings.vocab_size == config.vocab_size


@pytest.mark.unit
def test_an_encoder_is_no_policy(model_folder):
    with pytest.raises(ModelError, match=r"'bert' is an encoder.*policy\.model=PATH"):
        load_causal_lm(locate(str(model_folder("bert"))), torch.float32, CPU)


@pytest.mark.unit
def test_weights_that_nothing_uses_are_said(tmp_path, capsys):
    """A reward model whose head is tied to the embeddings would pass for a policy."""
    config = config_of("llama")
    config.tie_word_embeddings, config.num_labels = True, 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    make_tokenizer("llama").save_pretrained(tmp_path)
    load_causal_lm(locate(str(tmp_path)), torch.float32, CPU)
    assert "1 tensors of the checkpoint are no part of a causal language model, such as 'score.weight'" in (
        capsys.readouterr().err
    )


@pytest.mark.unit
def test_a_quantised_checkpoint_that_cannot_be_loaded_is_called_one(folder):
    config = json.loads((folder / "config.json").read_text())
    how = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": how}))
    with pytest.raises(ModelError, match=r"The checkpoint is quantised \(.*awq.*unquantised"):
        body(folder)
