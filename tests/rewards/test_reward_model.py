"""Reward models are tiny and random, but laid out as any published one is."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.data.schema import Message
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.rewards import reward_model
from fedvpa.rewards.reward_model import RewardModelConfig, RewardModelReward

WORDS = [f"w{number}" for number in range(53)]
VOCABULARY = {token: row for row, token in enumerate(["<pad>", "[CLS]", "[SEP]", "<unk>", "user", "assistant", *WORDS])}
TEMPLATE = "{% for message in messages %} {{ message['role'] }} {{ message['content'] }} [SEP]{% endfor %}"
BERT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 37,
    "initializer_range": 0.3,  # large, so that a wrong mask or segment shows
}
QWEN = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 20,
    "intermediate_size": 31,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "max_position_embeddings": 61,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 2,
}


def text(seed, size):
    rows = torch.randint(len(WORDS), (size,), generator=torch.Generator().manual_seed(seed))
    return " ".join(WORDS[int(row)] for row in rows)


DUELS = [
    Duel(text(n, 2 + n % 5), text(100 + n, 1 + 3 * n % 11), text(200 + n, 1 + 5 * n % 13), "helpful") for n in range(17)
]


def save_tokenizer(folder, chat, template=TEMPLATE):
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = ["input_ids", "attention_mask"] if chat else ["input_ids", "token_type_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", model_input_names=names
    )
    fast.chat_template = template if chat else None
    fast.save_pretrained(folder)


def save_bert(folder, seed=5, labels=1):
    torch.manual_seed(seed)
    BertForSequenceClassification(BertConfig(**BERT, num_labels=labels)).save_pretrained(folder)
    save_tokenizer(folder, chat=False)
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(7)
    Qwen2ForSequenceClassification(Qwen2Config(**QWEN, pad_token_id=0, num_labels=1)).save_pretrained(folder)
    save_tokenizer(folder, chat=True)
    return str(folder)


def reward_of(tokens=4096, **places):
    return RewardModelReward(RewardModelConfig(models=places, tokens_per_batch=tokens, device="cpu"))


def judge_of(**places):
    return RewardJudge(reward_of(**places))


def reference(place, inputs):
    """The reward of one sequence alone, without any padding."""
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    with torch.inference_mode():
        return float(model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0, 0])


def ids(line):
    return [VOCABULARY[word] for word in line.split()]


def bert_reference(place, prompt, response):
    first, second = ids(f"[CLS] {prompt} [SEP]"), ids(f"{response} [SEP]")
    return reference(place, {"input_ids": first + second, "token_type_ids": [0] * len(first) + [1] * len(second)})


def qwen_reference(place, prompt, response):
    return reference(place, {"input_ids": ids(f"user {prompt} [SEP] assistant {response} [SEP]")})


@pytest.mark.reference
@pytest.mark.parametrize("tokens", [1, 47, 4096])
@pytest.mark.parametrize(("name", "expected"), [("bert", bert_reference), ("qwen", qwen_reference)])
def test_rewards_are_those_of_each_text_alone(name, expected, tokens, request):
    place = request.getfixturevalue(name)
    items = [(duel.prompt, duel.first) for duel in DUELS[:7]]
    rewards = reward_of(tokens, helpful=place).score(items, "helpful")
    assert rewards == pytest.approx([expected(place, *item) for item in items], abs=2e-5)
    assert max(rewards) - min(rewards) > 1e-2


@pytest.mark.reference
def test_a_conversation_goes_through_the_models_own_template(qwen, bert):
    talk = (Message("user", "w1 w2"), Message("assistant", "w3"), Message("user", "w4"))
    transcript = "\n\nHuman: w1 w2\n\nAssistant: w3\n\nHuman: w4\n\nAssistant:"
    whole = ids("user w1 w2 [SEP] assistant w3 [SEP] user w4 [SEP] assistant w5 [SEP]")
    rewards = reward_of(helpful=qwen).score([(talk, "w5"), (transcript, "w5")], "helpful")
    assert rewards == pytest.approx([reference(qwen, {"input_ids": whole})] * 2, abs=2e-5)
    # A model without a template reads it as one text; "user:" is no word of this one.
    (flat,) = reward_of(helpful=bert).score([(talk, "w5")], "helpful")
    assert flat == pytest.approx(bert_reference(bert, "<unk> w1 w2 <unk> w3 <unk> w4", "w5"), abs=2e-5)


REFUSED = (
    "of the reward model: the model's chat template refuses a conversation with the turns system, user, assistant: "
    "no system."
)


@pytest.mark.unit
def test_a_conversation_that_the_template_refuses_has_no_reward(qwen, tmp_path):
    shutil.copytree(qwen, tmp_path / "strict")
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    save_tokenizer(tmp_path / "strict", chat=True, template=refusal + TEMPLATE)
    told = Duel((Message("system", "w9"), Message("user", "w1")), "w2", "w3", "helpful")
    verdicts = judge_of(helpful=str(tmp_path / "strict")).compare([told, DUELS[0]])
    assert verdicts[0] == Verdict(None, REFUSED)
    assert verdicts[1].score in (0.0, 1.0)


@pytest.mark.unit
def test_the_higher_reward_wins(bert):
    judge = judge_of(helpful=bert)
    verdicts = judge.compare(DUELS)
    assert {verdict.score for verdict in verdicts} == {0.0, 1.0}
    for duel, verdict in zip(DUELS, verdicts, strict=True):
        lead = bert_reference(bert, duel.prompt, duel.first) - bert_reference(bert, duel.prompt, duel.second)
        assert verdict == Verdict(1.0 if lead > 0 else 0.0)
    swapped = judge.compare([Duel(duel.prompt, duel.second, duel.first, "helpful") for duel in DUELS])
    assert [verdict.score for verdict in swapped] == [1.0 - verdict.score for verdict in verdicts]
    assert judge.compare([Duel("w1", "w2", "w2", "helpful")]) == [Verdict(0.5, "equal reward")]
    assert judge.name == "reward-model"


@pytest.mark.unit
def test_each_preference_has_its_own_model_loaded_once_for_all_its_duels(bert, tmp_path, monkeypatch):
    other = save_bert(tmp_path / "other", seed=11)
    loaded, scored = [], []
    load, forward = reward_model.load_reward_model, reward_model._forward
    monkeypatch.setattr(
        reward_model, "load_reward_model", lambda place, config: loaded.append(place) or load(place, config)
    )
    monkeypatch.setattr(reward_model, "_forward", lambda model, rows: scored.extend(rows) or forward(model, rows))
    judge = judge_of(helpful=bert, harmless=other)
    mixed = [Duel(d.prompt, d.first, d.second, name) for d in DUELS for name in ("helpful", "harmless")]
    verdicts = judge.compare(mixed)
    assert loaded == [bert, other]
    assert len(scored) == 2 * 2 * len(DUELS)
    for duel, verdict in zip(mixed, verdicts, strict=True):
        place = bert if duel.preference == "helpful" else other
        lead = bert_reference(place, duel.prompt, duel.first) - bert_reference(place, duel.prompt, duel.second)
        assert verdict.score == float(lead > 0)
    assert judge.compare(mixed) == verdicts
    assert (len(loaded), len(scored)) == (2, 4 * len(DUELS))  # all rewards were known


@pytest.mark.unit
def test_a_model_without_a_padding_token_reads_one_text_at_a_time(qwen, tmp_path, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(qwen)
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, chat=True)
    sizes = []
    forward = reward_model._forward
    monkeypatch.setattr(reward_model, "_forward", lambda model, rows: sizes.append(len(rows)) or forward(model, rows))
    items = [(duel.prompt, duel.first) for duel in DUELS[:5]]
    rewards = reward_of(helpful=str(tmp_path)).score(items, "helpful")
    assert rewards == pytest.approx([qwen_reference(qwen, *item) for item in items], abs=2e-5)
    assert sizes == [1] * 5


@pytest.mark.unit
def test_an_item_that_occurs_twice_is_computed_once(bert, monkeypatch):
    scored = []
    forward = reward_model._forward
    monkeypatch.setattr(reward_model, "_forward", lambda model, rows: scored.extend(rows) or forward(model, rows))
    reward = reward_of(helpful=bert)
    first = reward.score([("w1", "w2"), ("w1", "w3"), ("w1", "w2")], "helpful")
    assert first[0] == first[2] != first[1]
    assert reward.score([("w1", "w3"), ("w1", "w4")], "helpful")[0] == first[1]
    assert reward.score([], "helpful") == []
    assert len(scored) == 3
    assert reward.name == "reward-model"


@pytest.mark.unit
def test_a_text_that_does_not_fit_is_missing_and_not_cut(bert):
    long = Duel("w1 w2", text(1, 33), "w3", "helpful")  # 3 special tokens: 38 of 37
    fits = Duel("w1 w2", text(1, 32), "w3", "helpful")
    verdicts = judge_of(helpful=bert).compare([long, fits])
    assert verdicts[0] == Verdict(None, "38 tokens, and the reward model reads at most 37")
    assert verdicts[1].score in (0.0, 1.0)


@pytest.mark.unit
def test_a_reward_that_is_not_a_number_is_missing(bert, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, chat=False)
    assert judge_of(helpful=str(tmp_path)).compare(DUELS[:2]) == [Verdict(None, "the reward is nan")] * 2


@pytest.mark.unit
def test_wrong_models_are_refused(bert, tmp_path):
    with pytest.raises(ModelError, match="a head of 2 outputs; a reward is a single one"):
        judge_of(helpful=save_bert(tmp_path / "two", labels=2)).compare(DUELS)
    headless = tmp_path / "headless"
    BertModel(BertConfig(**BERT, num_labels=1)).save_pretrained(headless)
    save_tokenizer(headless, chat=False)
    settings = json.loads((headless / "config.json").read_text())
    assert len(settings["id2label"]) == 1
    with pytest.raises(ModelError, match=r"lack 2 tensors of a reward model, the first being 'classifier\.bias'"):
        judge_of(helpful=str(headless)).compare(DUELS)
    with pytest.raises(ModelError, match="no model folder here"):
        judge_of(helpful="./nothing").compare(DUELS)
    with pytest.raises(ConfigError, match=r"No reward model is given for the preference 'harmless'"):
        judge_of(helpful=bert).compare([Duel("w1", "w2", "w3", "harmless")])
    with pytest.raises(ConfigError, match="'models'"):
        RewardModelConfig.parse({"models": {}})
