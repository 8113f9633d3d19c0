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
from tiny_models import config_of, make_tokenizer

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
    [("model.safetensors", b"\x00" * 31), ("config.json", b"{"), ("config.json", b'{"model_type": "?"}')],
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
