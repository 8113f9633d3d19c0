"""A trained judge: kept, read again, the same for every way of writing a conversation, and refused when it is not."""

import json
import shutil

import pytest
import torch

from fedvpa.core.errors import ConfigError, ModelError, RunError
from fedvpa.data.schema import Message, Pair, PairTable
from fedvpa.rewards.base import LearnedReward
from fedvpa.rewards.held_out import as_read, make_held_out_reward, prompt_text, seen_pairs
from fedvpa.rewards.held_out_files import SETTINGS_FILE, TENSORS_FILE, load_judge, save_judge
from trained_judge import trained_judge

__all__ = ["trained_judge"]

ITEMS = [("w1 w2", "w3 w4 w5"), ("w1 w2", " w3 w4 w5 "), ("w9", "w7"), ("w9", "")]


def test_the_folder_holds_all_that_was_trained(trained_judge, tmp_path):
    saved = load_judge(trained_judge)
    save_judge(saved, tmp_path)
    again = load_judge(tmp_path)
    assert again.pairs == saved.pairs
    assert len(saved.pairs) == 46
    assert again.accuracy == saved.accuracy
    assert again.features == saved.features
    assert all(torch.equal(again.weights[name], saved.weights[name]) for name in ("brief", "wordy"))
    text = (trained_judge / SETTINGS_FILE).read_text()
    assert "w3" not in text  # no text of a pair


def test_a_reward_reads_the_words_and_not_how_they_are_written(trained_judge):
    reward = make_held_out_reward({"path": str(trained_judge)})
    assert isinstance(reward, LearnedReward)
    first, same, short, none = reward.score(ITEMS, "brief")
    assert first == same
    assert none == "no token that the judge could read"
    assert short > first  # the users of "brief" prefer short answers
    longer, _, shorter, _ = reward.score(ITEMS, "wordy")
    assert longer > shorter
    turns = (Message("user", "w1"), Message("assistant", "w2"), Message("user", "w3"))
    assert prompt_text(turns) == prompt_text("\n\nHuman: w1\n\nAssistant: w2\n\nHuman: w3\n\nAssistant:")
    assert reward.score([(turns, "w5")], "brief") == reward.score(
        [("\n\nHuman: w1\n\nAssistant: w2\n\nHuman: w3\n\nAssistant:", "w5")], "brief"
    )


def test_pairs_of_the_judge_are_known_again_in_other_clothes(trained_judge):
    known = load_judge(trained_judge).pairs
    table = PairTable((Pair("Human: w0 w1\n\nAssistant:", "W5  w6 w7 w8 w9", "w2"), Pair("w0 w1", "w2", "w3")))
    assert seen_pairs(known, table.pairs) == 1
    assert as_read(table).pairs[0].prompt == "Human: w0 w1\n\nAssistant:"


def test_what_cannot_judge_is_refused(trained_judge, tmp_path, model_folder):
    with pytest.raises(ConfigError, match="no reward for the preference 'breif'") as wrong:
        make_held_out_reward({"path": str(trained_judge)}).score(ITEMS, "breif")
    assert "brief" in str(wrong.value)
    with pytest.raises(ConfigError, match="There is no such folder"):
        make_held_out_reward({"path": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="holds no judge"):
        make_held_out_reward({"path": str(tmp_path)})
    other = make_held_out_reward({"path": str(trained_judge), "encoder": str(model_folder("gpt2"))})
    with pytest.raises(ModelError, match="not the language model that the judge was trained with"):
        other.score(ITEMS, "brief")


def test_a_damaged_folder_is_refused(trained_judge, tmp_path):
    copy = shutil.copytree(trained_judge, tmp_path / "judge")
    (copy / TENSORS_FILE).write_bytes(b"cut")
    with pytest.raises(RunError, match="cannot be read"):
        load_judge(copy)
    settings = json.loads((copy / SETTINGS_FILE).read_text())
    (copy / SETTINGS_FILE).write_text(json.dumps(settings | {"schema_version": 99}))
    with pytest.raises(RunError, match="schema version 99"):
        load_judge(copy)
