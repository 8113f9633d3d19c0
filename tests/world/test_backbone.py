"""The bundled language model: a standard folder, small, fluent in the grammar, with attributes that a line can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer

from fedvpa.core.errors import FedvpaError
from fedvpa.core.seeds import numpy_generator
from fedvpa.world import backbone_path, build_backbone
from fedvpa.world.attributes import draw_attributes
from fedvpa.world.build_backbone import Recipe, losses, measure, sample, train, write_folder
from fedvpa.world.corpus import Batch, corpus_batches
from fedvpa.world.generate import WorldPair, draw_prompt, generate_world
from fedvpa.world.grammar import Parsed, parse, render
from fedvpa.world.prompts import prompts
from fedvpa.world.tokenizer import build_tokenizer
from fedvpa.world.utility import features

TINY = Recipe(hidden=16, intermediate=24, layers=2, heads=2, examples=78, batch=13, test_samples=7, max_tokens=11)


def first_batch() -> Batch:
    return next(corpus_batches(tokenizer(), examples=TINY.examples, batch=TINY.batch, seed=TINY.seed))


@cache
def bundled() -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(backbone_path()).eval()
    return model, AutoTokenizer.from_pretrained(backbone_path())


@cache
def tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer()


@pytest.mark.unit
def test_folder_is_standard_and_small() -> None:
    files = {file.name: file.stat().st_size for file in backbone_path().iterdir()}
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert expected | {"README.md", "chat_template.jinja"} == set(files)
    assert files["model.safetensors"] <= 4_000_000
    config = json.loads((backbone_path() / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen2", ["Qwen2ForCausalLM"])


@pytest.mark.equivalence
def test_bundled_tokenizer_is_the_one_that_the_script_builds() -> None:
    """Whoever changes a word of the world has to build the model again."""
    assert bundled()[1].get_vocab() == tokenizer().get_vocab()


@pytest.mark.unit
def test_tokenizer_gives_texts_back_exactly_and_has_every_word() -> None:
    ours, rng = bundled()[1], numpy_generator(0, "test-tokenizer")
    for prompt in prompts()[::13]:
        response = render(prompt.intent, draw_attributes(rng), rng)
        for text in (prompt.text, response):
            assert ours.decode(ours(text).input_ids) == text
        pieces = response.replace(".", " .").replace(",", " ,").replace("!", " !").replace("'", " '").split()
        assert len(ours(response).input_ids) == len(pieces)
    for text in ("Zürich, 日本 \U0001f600\n\n x", "  two  spaces "):
        assert ours.decode(ours(text).input_ids) == text


@pytest.mark.equivalence
def test_chat_and_plain_strings_give_the_same_tokens() -> None:
    ours = bundled()[1]
    for pair in generate_world("two-groups", 2, 17, 3):
        chat = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.chosen}]
        plain = ours(pair.prompt).input_ids + ours(pair.chosen).input_ids
        assert ours.apply_chat_template(chat, return_dict=False) == [*plain, ours.eos_token_id]
        ask = ours.apply_chat_template(chat[:1], return_dict=False, add_generation_prompt=True)
        assert ask == ours(pair.prompt).input_ids


@pytest.mark.end_to_end
def test_samples_at_temperature_one_parse_and_are_a_broad_mix() -> None:
    model, ours = bundled()
    rng = numpy_generator(0, "test-samples")
    questions = [draw_prompt(rng, "test").text for _ in range(400)]
    answers = sample(model, ours, questions, seed=1, max_tokens=112, batch=400)
    readings = [parse(question, answer) for question, answer in zip(questions, answers, strict=True)]
    inside = [reading.attributes for reading in readings if isinstance(reading, Parsed)]
    # 99% is promised and measured on 2,000 samples by the script; 400 samples get a margin of two standard errors.
    assert len(inside) / len(answers) >= 0.98
    assert len(set(answers)) > 350
    means = np.mean([features(attributes) for attributes in inside], axis=0)
    assert np.abs(means[:-1]).max() < 0.3
    assert means[-1] < 0.01


@pytest.mark.end_to_end
def test_generation_needs_no_arguments_and_ends_by_itself() -> None:
    model, ours = bundled()
    encoded = ours("How should someone bake a crusty loaf?", return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tokens = cast(Any, model).generate(**encoded, num_return_sequences=5)
    assert all(ours.eos_token_id in row for row in tokens.tolist())


@pytest.mark.end_to_end
def test_attributes_are_linear_in_the_features() -> None:
    learn, test = generate_world("two-groups", 1, 400, 0), generate_world("two-groups", 1, 200, 1, pool="test")
    hidden, traits = _table(learn)
    unseen, truth = _table(test)
    centre, scale = hidden.mean(0), hidden.std(0)
    predicted = Ridge(1.0).fit((hidden - centre) / scale, traits).predict((unseen - centre) / scale)
    explained = 1 - ((predicted - truth) ** 2).mean(0) / truth.var(0)
    assert explained.min() > 0.9


@pytest.mark.end_to_end
def test_two_hundred_pairs_of_one_group_nearly_reach_the_bayes_accuracy_and_a_mixture_does_not() -> None:
    learn, test = generate_world("two-groups", 2, 200, 5), generate_world("two-groups", 2, 400, 6, pool="test")
    gaps, unseen = _gaps(learn), _gaps(test)
    group, unseen_group = (np.array([pair.group for pair in pairs]) for pairs in (learn, test))
    shared = _accuracy(gaps, unseen)
    for name in ("helpful", "harmless"):
        own = unseen[unseen_group == name]
        assert _accuracy(gaps[group == name], own) > 0.82 - 0.05
        assert _accuracy(gaps[group != name], own) < 0.4
    assert shared < 0.66


def _table(pairs: Sequence[WorldPair]) -> tuple[np.ndarray, np.ndarray]:
    texts = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    readings = [parse(prompt, text) for prompt, text in texts]
    traits = [features(reading.attributes)[:-1] for reading in readings if isinstance(reading, Parsed)]
    return _hidden(texts), np.stack(traits)


def _gaps(pairs: Sequence[WorldPair]) -> np.ndarray:
    hidden = _hidden([(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)])
    return (hidden[::2] - hidden[1::2]) / hidden.std(0)


def _accuracy(gaps: np.ndarray, unseen: np.ndarray) -> float:
    both, labels = np.concatenate([gaps, -gaps]), np.repeat([1, 0], len(gaps))
    scorer = LogisticRegression(C=0.003, fit_intercept=False, max_iter=500).fit(both, labels)
    return float((unseen @ scorer.coef_[0] > 0).mean())


@torch.no_grad()
def _hidden(texts: Sequence[tuple[str, str]]) -> np.ndarray:
    """Means of the last hidden states over response tokens, one text after the other."""
    model, ours = bundled()
    starts = [len(ours(prompt).input_ids) for prompt, _ in texts]
    ids = [ours(prompt).input_ids + ours(response).input_ids for prompt, response in texts]
    rows: list[np.ndarray] = [np.empty(0)] * len(ids)
    by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for first in range(0, len(ids), 64):
        chunk = by_length[first : first + 64]
        tokens = torch.zeros((len(chunk), len(ids[chunk[-1]])), dtype=torch.long)
        for place, row in enumerate(chunk):
            tokens[place, : len(ids[row])] = torch.tensor(ids[row])
        hidden = model.model(input_ids=tokens).last_hidden_state
        for place, row in enumerate(chunk):
            rows[row] = hidden[place, starts[row] : len(ids[row])].mean(0).numpy()
    return np.stack(rows)


@pytest.mark.reference
def test_losses_by_hand() -> None:
    model = build_backbone._new_model(TINY, tokenizer()).eval()
    batch = first_batch()
    directions = torch.eye(16)[:, :6]
    language, attribute = losses(model, batch, directions)
    nll, errors = [], []
    for tokens, answer, pooled, truth in zip(batch.tokens, batch.response, batch.pooled, batch.features, strict=True):
        where = answer.nonzero()[:, 0]
        alone = tokens[: int(where[-1]) + 1]
        out = model(input_ids=alone[None], output_hidden_states=True)
        nll.append(functional.cross_entropy(out.logits[0, where - 1], alone[where], reduction="none"))
        mean = out.hidden_states[-1][0, where[:-1]].mean(0)
        errors.append((mean[:6] - truth) ** 2)
        assert pooled.sum() == len(where) - 1
    assert language.item() == pytest.approx(torch.cat(nll).mean().item(), rel=1e-5)
    assert attribute.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


@pytest.mark.equivalence
def test_training_is_reproducible_and_learns() -> None:
    first, second = (train(TINY, tokenizer()) for _ in range(2))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    batch = first_batch()
    directions = build_backbone._attribute_directions(TINY)
    before = losses(build_backbone._new_model(TINY, tokenizer()).eval(), batch, directions)
    plain = train(replace(TINY, sharpness=1.0), tokenizer())
    after = losses(plain, batch, directions)
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert torch.equal(first.model.norm.weight, plain.model.norm.weight * TINY.sharpness)


@pytest.mark.end_to_end
def test_script_refuses_a_model_that_does_not_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_backbone, "Recipe", lambda: TINY)
    monkeypatch.setattr("sys.argv", ["build_backbone", "--out", str(tmp_path / "new"), "--threads", "1"])
    with pytest.raises(FedvpaError, match="samples parse"):
        build_backbone.main()
    assert not (tmp_path / "new").exists()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(build_backbone, "Recipe", lambda: replace(TINY, parsed_share=0.0))
    build_backbone.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["samples"] == 7
    assert {file.name for file in (tmp_path / "new").iterdir()} == {file.name for file in backbone_path().iterdir()}
    assert "| examples | 78 |" in (tmp_path / "new" / "README.md").read_text()


@pytest.mark.equivalence
def test_written_folder_loads_as_the_same_model(tmp_path: Path) -> None:
    model = train(TINY, tokenizer())
    write_folder(tmp_path, model, tokenizer(), TINY, measure(model, tokenizer(), TINY))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([[5, 7, 11]])
    assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)
