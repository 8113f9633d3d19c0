import gzip
import json

import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load

pytestmark = pytest.mark.unit

HEAD = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
ROW = {"chosen": HEAD + " good", "rejected": HEAD + " bad"}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def config(root, **more):
    return DataConfig.parse({"source": "hh-rlhf", "path": str(root), **more})


def test_both_subsets_in_order_with_their_objective_as_group(tmp_path):
    write(tmp_path / "helpful-base/test.jsonl.gz", [ROW] * 2)
    write(tmp_path / "harmless-base/test.jsonl", [ROW] * 3)
    table = load(config(tmp_path))
    assert [pair.group for pair in table.pairs] == ["helpful"] * 2 + ["harmless"] * 3
    assert (table.pairs[0].prompt, table.pairs[0].chosen, table.pairs[0].rejected) == (HEAD, " good", " bad")
    assert [pair.pair_id for pair in table.pairs[1:3]] == ["helpful-base/test:2", "harmless-base/test:1"]
    assert {pair.split for pair in table.pairs} == {None}


def test_train_and_test_files_prescribe_the_split_and_either_can_be_chosen(tmp_path):
    write(tmp_path / "helpful-base/train.jsonl", [ROW] * 3)
    write(tmp_path / "helpful-base/test.jsonl", [ROW] * 2)
    both = load(config(tmp_path, subsets="helpful-base"))
    assert [pair.split for pair in both.pairs] == ["train"] * 3 + ["test"] * 2
    assert len(load(config(tmp_path, subsets=["helpful-base"], split="test"))) == 2


def test_transcripts_with_different_prompts_are_counted(tmp_path):
    other = {"chosen": ROW["chosen"], "rejected": "\n\nHuman: z\n\nAssistant: bad"}
    write(tmp_path / "helpful-base/test.jsonl", [ROW, other, ROW, ROW])
    table = load(config(tmp_path, subsets="helpful-base"))
    assert (len(table), table.report.skipped) == (3, {"the two responses share no prompt": 1})
    with pytest.raises(DataError, match=r"helpful-base/test\.jsonl:2: the two responses share no prompt"):
        load(config(tmp_path, subsets="helpful-base", strict=True))


def test_a_transcript_without_assistant_is_an_error(tmp_path):
    write(tmp_path / "helpful-base/test.jsonl", [ROW, {"chosen": "\n\nHuman: a", "rejected": HEAD}])
    with pytest.raises(DataError, match=r"test\.jsonl:2: the chosen transcript has no .*Assistant"):
        load(config(tmp_path, subsets="helpful-base"))


def test_messages_are_no_transcripts(tmp_path):
    turns = [[{"role": "user", "content": text}] for text in ("a", "b")]
    write(tmp_path / "helpful-base/test.jsonl", [{"chosen": turns[0], "rejected": turns[1]}])
    with pytest.raises(DataError, match=r"test\.jsonl:1: an HH-RLHF transcript is a string"):
        load(config(tmp_path, subsets="helpful-base"))


def test_what_was_looked_for_is_said(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(config(tmp_path / "gone"))
    (tmp_path / "helpful-base").mkdir()
    with pytest.raises(DataError, match=r"Looked for train\.jsonl, train\.jsonl\.gz, test\.jsonl, test\.jsonl\.gz"):
        load(config(tmp_path))
    with pytest.raises(DataError, match=r"no subset folder 'online'\. Folders: helpful-base\..*data\.subsets"):
        load(config(tmp_path, subsets="online"))


def test_a_split_in_two_files_is_ambiguous(tmp_path):
    write(tmp_path / "helpful-base/test.jsonl", [ROW])
    write(tmp_path / "helpful-base/test.jsonl.gz", [ROW])
    with pytest.raises(DataError, match=r"one split twice: test\.jsonl, test\.jsonl\.gz"):
        load(config(tmp_path, subsets="helpful-base"))


def test_a_hub_id_reads_each_subset_as_a_folder(monkeypatch):
    calls = []

    def load_dataset(name, data_dir):
        calls.append((name, data_dir))
        return {"train": [ROW] * 2, "test": [ROW]}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    table = load(config("Anthropic/hh-rlhf", split="test"))
    assert calls == [("Anthropic/hh-rlhf", "helpful-base"), ("Anthropic/hh-rlhf", "harmless-base")]
    assert [(pair.group, pair.pair_id) for pair in table.pairs] == [
        ("helpful", "helpful-base/test:1"),
        ("harmless", "harmless-base/test:1"),
    ]
