"""Samples are of the policy, and end where its turns end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LlamaConfig

from chat_models import END, byte_level, metaspace, save_chat_model
from fedvpa.models.chat_template import ChatTemplate
from fedvpa.models.controls import ControlTokens
from fedvpa.models.stops import Stops, stops_of
from fedvpa.policy.decoding import decoding_obstacle
from fedvpa.policy.generation import StopTexts, inheriting_nothing, response_of, settings_of
from fedvpa.policy.rows import PolicyTokenizer
from fedvpa.policy.sampling import Sampling
from policy_fixtures import latents, make_policy, prompts_and_responses

INHERITED = {
    "repetition_penalty": 7.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "top_k": 2,
    "min_p": 0.5,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.02,
    "suppress_tokens": list(range(5, 40)),
    "min_new_tokens": 9,
    "temperature": 0.1,
}


@pytest.mark.unit
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_inherited_from_the_checkpoint(base_folder, temperature):
    policy = make_policy(base_folder)
    prompts, _ = prompts_and_responses(5)
    how = Sampling(temperature=temperature, max_new_tokens=9, batch=3)
    expected = policy.sample(prompts, latents(5), how, 3)
    base = policy.model.get_base_model()
    base.generation_config = inherited = GenerationConfig(**INHERITED)
    found = policy.sample(prompts, latents(5), how, 3)
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]
    assert base.generation_config is inherited
    with inheriting_nothing(base):
        assert base.generation_config.to_diff_dict() == GenerationConfig().to_diff_dict()


@pytest.mark.unit
def test_the_models_own_list_of_ends_counts(base_folder, tmp_path):
    """Also where it stands in the generation configuration only, which nothing else is read of."""
    folder = Path(shutil.copytree(base_folder, tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7], "repetition_penalty": 7.0}))
    assert make_policy(folder).tokenizer.stops.tokens == (2, 7)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [2, 9]}))
    policy = make_policy(folder)
    assert policy.tokenizer.stops.tokens == (2, 7, 9)
    settings = settings_of(Sampling(), policy.tokenizer)
    assert (settings.eos_token_id, settings.do_sample, settings.num_beams) == ([2, 7, 9], False, None)


@pytest.mark.unit
@pytest.mark.parametrize("end", [2, 7, 9])
def test_a_response_ends_at_any_token_of_the_stop_set(base_folder, tmp_path, end):
    folder = Path(shutil.copytree(base_folder, tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    tokenizer = make_policy(folder).tokenizer
    drawn = np.asarray([11, 12, end, 13, 2], np.int32)
    assert response_of(drawn, tokenizer, ()).tolist() == [11, 12, end]


def stops(tokenizer, **arguments) -> Stops:
    template = ChatTemplate(tokenizer, arguments)
    return stops_of(ControlTokens.of(template), template.frame())


@pytest.mark.unit
def test_what_the_template_writes_after_a_turn_ends_a_response():
    for template in ("chatml", "dated", "think", "turns"):
        tokenizer = byte_level(template, end="<|pad|>")
        assert tokenizer.eos_token != END
        assert tokenizer.convert_tokens_to_ids(END) in stops(tokenizer).tokens
    plain = stops(byte_level(None, end="<|pad|>"))
    assert plain.tokens == (0,)


@pytest.mark.unit
def test_a_template_without_an_end_token_ends_at_the_next_header():
    found = stops(byte_level("transcript"))
    assert ("\n\nAssistant:", "\n\nHuman:") in found.texts
    assert found.texts_for("\n\nHuman: Hi\n\nAssistant:") == ("\n\nHuman:",)
    assert found.texts_for("Human: Hi") == ()


@pytest.mark.unit
@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_transcripts_end_at_the_next_human_turn(make):
    tokenizer = PolicyTokenizer.of(make(None), 99)
    (prompt,) = tokenizer.prompts(["\n\nHuman: How do I bake?\n\nAssistant:"])
    texts = tokenizer.stop_texts(prompt)
    assert texts == ("\n\nHuman:",)
    drawn = tokenizer.encode(" Use warm water.\n\nHuman: How do I paint?")
    response = response_of(drawn, tokenizer, texts)
    assert tokenizer.text(response).strip() == "Use warm water."
    assert response.tolist() == drawn[: len(response)].tolist()
    assert response_of(drawn, tokenizer, ()).tolist() == drawn.tolist()
    assert tokenizer.stop_texts(tokenizer.prompts(["How do I bake?"])[0]) == ()
    rule = StopTexts(tokenizer, [texts, ()])
    steps = [rule(torch.from_numpy(np.stack([drawn[:length]] * 2)), None).tolist() for length in range(1, len(drawn))]
    assert not any(other for _, other in steps)
    assert [own for own, _ in steps].index(True) >= len(response)


@pytest.mark.unit
def test_sampling_a_transcript_stops_by_itself(tmp_path):
    """A model that says one thing only: its answer is cut before the header, and it is not asked for more."""
    folder = save_chat_model(tmp_path / "model", None)
    policy = make_policy(folder, None, noise=False)
    words = policy.tokenizer
    loop = words.encode("\n\nHuman: so")
    assert decoding_obstacle(policy) == ""
    calls = []

    def speak(module, args, kwargs, output):
        calls.append(1)
        output.logits[:] = -1e4
        output.logits[:, -1, int(loop[min(len(calls), len(loop)) - 1])] = 1e4
        return output

    handle = policy.model.get_base_model().register_forward_hook(speak, with_kwargs=True)
    how = Sampling(temperature=0.0, max_new_tokens=40)
    (found,) = policy.sample(words.prompts(["\n\nHuman: Hi\n\nAssistant:"]), None, how, 0)
    assert words.text(found).strip() == ""
    assert len(calls) < 20
    calls.clear()
    (found,) = policy.sample(words.prompts(["Human: Hi"]), None, how, 0)
    assert (len(found), len(calls)) == (40, 40)
    handle.remove()


@pytest.mark.unit
def test_configurations_name_ends_as_numbers_lists_or_not_at_all():
    template = ChatTemplate(byte_level(None))
    controls = ControlTokens.of(template)
    for given, expected in ((None, (2,)), (5, (2, 5)), ([5, 7], (2, 5, 7))):
        assert stops_of(controls, None, LlamaConfig(eos_token_id=given)).tokens == expected
