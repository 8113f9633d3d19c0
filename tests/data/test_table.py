import json

import pyarrow
import pyarrow.parquet
import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.options import flags
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.schema import Message
from fedvpa.data.splits import unit_names

pytestmark = pytest.mark.unit

FULL = {
    "prompt": "p",
    "chosen": "c",
    "rejected": "r",
    "user_id": 17,
    "group": "kind",
    "split": "test",
    "weight": 2,
    "pair_id": "first",
}


SAID, OTHER = [{"role": "assistant", "content": "c"}], [{"role": "assistant", "content": "r"}]
NOT_ANSWERED = "a response begins or ends with a turn that is not the assistant's"


@pytest.fixture
def table(tmp_path):
    def make(*rows, **config):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load(DataConfig.parse({"source": "table", "path": str(path), **config}))

    return make


def test_every_column_is_read(table):
    pair = table(FULL).pairs[0]
    assert (pair.prompt, pair.chosen, pair.rejected) == ("p", "c", "r")
    assert (pair.user_id, pair.group, pair.split, pair.weight, pair.pair_id) == ("17", "kind", "test", 2.0, "first")


def test_optional_columns_have_defaults_and_rows_are_named_after_their_number(table):
    pairs = table(
        {"prompt": "p", "chosen": "c", "rejected": "r"}, {"prompt": "q", "chosen": "c", "rejected": "r"}
    ).pairs
    assert [pair.pair_id for pair in pairs] == ["1", "2"]
    assert (pairs[0].user_id, pairs[0].group, pairs[0].split, pairs[0].weight) == (None, None, None, 1.0)


def test_other_names_go_through_the_map(table):
    row = {"question": "p", "good": "c", "bad": "r", "worker": "w", "label": "l"}
    names = {"prompt": "question", "chosen": "good", "rejected": "bad", "user_id": "worker", "group": "label"}
    pair = table(row, map=names).pairs[0]
    assert (pair.prompt, pair.chosen, pair.rejected, pair.user_id, pair.group) == ("p", "c", "r", "w", "l")


def test_messages_and_implicit_prompts(table):
    ask = {"role": "user", "content": "a"}
    row = {
        "chosen": [ask, {"role": "assistant", "content": "b"}],
        "rejected": [ask, {"role": "assistant", "content": "c"}],
    }
    pair = table(row).pairs[0]
    assert (pair.prompt, pair.chosen) == ((Message("user", "a"),), (Message("assistant", "b"),))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"prompt": "p", "rejected": "r"}, "no chosen response"),
        ({"prompt": "p", "chosen": None, "rejected": "r"}, "no chosen response"),
        ({"prompt": "p", "chosen": "c"}, "no rejected response"),
        ({"prompt": "p", "chosen": "c", "rejected": " "}, "no rejected response"),
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, "chosen and rejected are equal"),
        ({"chosen": "x", "rejected": "y"}, "the two responses share no prompt"),
        ({"prompt": [], "chosen": SAID, "rejected": OTHER}, "the prompt has no message"),
        ({"prompt": "p", "chosen": [{"role": "user", "content": "x"}], "rejected": OTHER}, NOT_ANSWERED),
        ({"prompt": "p", "chosen": SAID, "rejected": [*OTHER, {"role": "user", "content": "x"}]}, NOT_ANSWERED),
        ({"prompt": "p", "chosen": [{"role": "system", "content": "x"}, *SAID], "rejected": OTHER}, NOT_ANSWERED),
    ],
)
def test_rows_that_are_no_pairs_are_counted_or_under_strict_errors(table, bad, reason):
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    loaded = table(good, bad, good, bad)
    assert (len(loaded), loaded.report.read, loaded.report.skipped) == (2, 4, {reason: 2})
    assert loaded.report.examples[reason].endswith("pairs.jsonl:2")
    with pytest.raises(DataError, match=rf"pairs\.jsonl:2: {reason}"):
        table(good, bad, strict=True)


def test_a_table_of_no_pairs_says_why(table):
    with pytest.raises(
        DataError, match=r"none of the 3 rows can be used: 3 × chosen and rejected are equal \(first: .*:1\)"
    ):
        table(*[{"prompt": "p", "chosen": "c", "rejected": "c"}] * 3)


@pytest.mark.parametrize("strict", [False, True])
def test_a_missing_column_is_named_with_the_map_and_what_there_is(table, strict):
    with flags(), pytest.raises(DataError) as error:
        table({"prompt": "p", "preferred": "c", "rejected": "r"}, strict=strict)
    message = str(error.value)
    assert "has no column 'chosen'. Columns: preferred, prompt, rejected." in message
    assert "--map chosen=COLUMN" in message


def test_a_mapped_column_must_exist_though_it_is_optional(table):
    with flags(), pytest.raises(DataError, match=r"no column 'worker'.*--map user_id=COLUMN"):
        table(FULL, map={"user_id": "worker"})


@pytest.mark.parametrize("weight", [0, -1.5, float("nan"), float("inf"), "2", True])
def test_a_weight_must_be_a_positive_number(table, weight):
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: the weight .* is not a positive finite number"):
        table({**FULL, "pair_id": "other"}, {**FULL, "weight": weight})


@pytest.mark.parametrize("weight", [9e-4, 1e-20, 1e-46, 1001, 1e20, 10**400])
def test_a_weight_is_a_count_and_has_bounds(table, weight):
    with pytest.raises(
        DataError, match=r"pairs\.jsonl:1: the weight .* is not from 0\.001 to 1000\. A weight is a count"
    ):
        table({**FULL, "weight": weight})


@pytest.mark.parametrize("weight", [1e-3, 0.5, 2, 1000])
def test_weights_within_the_bounds_are_kept(table, weight):
    assert table({**FULL, "weight": weight}).pairs[0].weight == weight


def test_cells_of_a_csv_file_are_read_as_what_their_column_holds(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(
        "prompt,chosen,rejected,user_id,split,weight,pair_id\n"
        "p,c,r,007,test,2.5,\n"
        ",c,r,,,,x\n"
        'p,"[{""role"": ""assistant"", ""content"": ""c""}]","[{""role"": ""assistant"", ""content"": ""r""}]",'
        "on,,1,1e3\n"
    )
    first, second, third = load(DataConfig(source="table", path=str(path))).pairs
    assert (first.user_id, first.split, first.weight, first.pair_id) == ("007", "test", 2.5, "2")
    assert (second.prompt, second.user_id, second.split, second.weight, second.pair_id) == ("", None, None, 1.0, "x")
    assert (third.user_id, third.pair_id, third.prompt) == ("on", "1e3", (Message("user", "p"),))
    assert {type(text) for text in (first.prompt, first.chosen, first.user_id, first.split)} == {str}
    path.write_text("prompt,chosen,rejected,weight\np,c,r,many\n")
    with pytest.raises(DataError, match=r"pairs\.csv:2: the weight 'many' is not a positive finite number"):
        load(DataConfig(source="table", path=str(path)))


HALF = "\ud83d"


def test_half_surrogate_pairs_become_the_replacement_character_and_are_counted(table):
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    talk = [{"role": "assistant", "content": [{"type": "text", "text": f"x{HALF}"}]}]
    rows = [good, {**good, "prompt": f"p{HALF}", "chosen": f"c{HALF}"}, {**good, "chosen": talk, "rejected": talk[:0]}]
    rows += [{**good, "chosen": talk, "rejected": [{"role": "assistant", "content": "y"}]}]
    loaded = table(*rows)
    assert [pair.chosen for pair in loaded.pairs] == ["c", "c\ufffd", (Message("assistant", "x\ufffd"),)]
    changed = [finding for finding in loaded.report.findings if finding.effect == "changed"]
    assert [(finding.unit, finding.count) for finding in changed] == [("text", 3)]
    assert changed[0].first.endswith("pairs.jsonl:2")
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: a text would be changed: a half surrogate pair"):
        table(*rows, strict=True)


def test_texts_that_are_equal_once_replaced_are_no_pair(table):
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    loaded = table(good, {**good, "chosen": "x\ud83d", "rejected": "x\ud83e"})
    assert loaded.report.skipped == {"chosen and rejected are equal": 1}


@pytest.mark.parametrize("column", ["user_id", "group", "pair_id"])
def test_a_name_with_half_a_surrogate_pair_is_an_error(table, column):
    with pytest.raises(DataError, match=rf"pairs\.jsonl:1: column '{column}' holds .* half a surrogate pair"):
        table({**FULL, column: f"ana{HALF}"})


def test_the_message_about_a_name_says_the_column_of_the_data(table):
    with pytest.raises(DataError, match=r"column 'worker' holds"):
        table({**FULL, "worker": f"ana{HALF}"}, map={"user_id": "worker"})


def test_messages_that_cannot_be_used_leave_their_row_out_and_the_load_goes_on(table):
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    call = [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    bad = {**good, "chosen": call, "rejected": [{"role": "assistant", "content": "r"}]}
    loaded = table(good, bad, good, bad)
    assert len(loaded) == 2
    assert [str(one).partition(" (")[0] for one in loaded.report.findings] == [
        "2 rows left out: a message calls a tool"
    ]
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: a message calls a tool"):
        table(good, bad, strict=True)


def test_a_folder_reads_other_types_before_json_and_no_pairs_twice(tmp_path):
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    (tmp_path / "info.json").write_text('{"version": 1}')
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / ".hidden.csv").write_text("x")
    config = DataConfig(source="table", path=str(tmp_path))
    assert len(load(config)) == 1
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\np,c,r\n")
    with pytest.raises(DataError, match=r"holds 'pairs' twice: pairs\.csv and pairs\.jsonl"):
        load(config)


def test_an_empty_name_leaves_a_column_out_and_conversations_are_read_if_named(table):
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "group": "g"}
    rows = [row | {"split": "test", "thread": f"t{place % 2}"} for place in range(4)]
    read = table(*rows, map={"split": "", "group": "", "conversation": "thread"})
    assert [(pair.split, pair.group, pair.conversation) for pair in read.pairs] == [
        (None, None, f"t{place % 2}") for place in range(4)
    ]
    assert unit_names(read.pairs, "prompt")[:2] == ["\x1ft0", "\x1ft1"]
    assert len(set(unit_names(read.pairs, "pair"))) == 1
    assert {pair.conversation for pair in table(*rows).pairs} == {None}
    with pytest.raises(DataError, match=r"has no column ''"):
        table(*rows, map={"chosen": ""})


def test_an_unknown_split_names_the_nearest(table):
    with pytest.raises(DataError, match=r":1: the split 'tset' is not known\. Did you mean 'test'"):
        table({**FULL, "split": "tset"})


def test_a_name_must_be_a_string_or_a_whole_number(table):
    with pytest.raises(DataError, match=r":1: column 'user_id' holds 1\.5"):
        table({**FULL, "user_id": 1.5})


def test_a_repeated_pair_id_names_both_places(table):
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: the pair_id 'first' was given before, at .*pairs\.jsonl:1"):
        table(FULL, {**FULL, "prompt": "q"})


def test_a_folder_prescribes_splits_by_its_files_only_if_there_are_several(tmp_path):
    def config(**more):
        return DataConfig(source="table", path=str(tmp_path), **more)

    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    (tmp_path / "test-0.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "notes.txt").write_text("not data")
    assert [pair.split for pair in load(config()).pairs] == [None]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * 3), tmp_path / "train.parquet")
    both = load(config()).pairs
    assert [pair.split for pair in both] == ["test", "train", "train", "train"]
    assert len({pair.pair_id for pair in both}) == 4
    assert len(load(config(split="train"))) == 3
    with pytest.raises(DataError, match=r"holds no data file of split 'validation'\. Looked for validation\*\.jsonl"):
        load(config(split="validation"))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.path: is needed"):
        load(DataConfig(source="table"))
    with pytest.raises(DataError, match=r"no such file or folder"):
        load(DataConfig(source="table", path=str(tmp_path / "gone.jsonl")))
    with pytest.raises(DataError, match=r"holds no data file\. Looked for \*\.jsonl"):
        load(DataConfig(source="table", path=str(tmp_path)))


class Hub:
    """Stands in for ``datasets.load_dataset``."""

    def __init__(self, monkeypatch, answer):
        self.calls, self.answer = [], answer
        monkeypatch.setattr("datasets.load_dataset", self)

    def __call__(self, name, data_dir=None):
        self.calls.append((name, data_dir))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_hub_id_goes_through_datasets(monkeypatch):
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    hub = Hub(monkeypatch, {"train_prefs": [row] * 2, "test_prefs": [row]})
    config = DataConfig(source="table", path="owner/name")
    loaded = load(config)
    assert hub.calls == [("owner/name", None)]
    assert [pair.split for pair in loaded.pairs] == ["train", "train", "test"]
    assert [pair.pair_id for pair in loaded.pairs] == ["train_prefs:1", "train_prefs:2", "test_prefs:1"]
    assert [pair.split for pair in load(config.model_copy(update={"split": "test_prefs"})).pairs] == [None]
    with pytest.raises(DataError, match=r"owner/name: has no split 'dev'\. Splits: train_prefs, test_prefs"):
        load(config.model_copy(update={"split": "dev"}))


def test_a_hub_id_that_cannot_be_loaded_is_an_input_error(monkeypatch):
    Hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(DataError, match=r"^owner/name: is neither a local file or folder, nor .* hub gives: no route"):
        load(DataConfig(source="table", path="owner/name"))
