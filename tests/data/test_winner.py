import csv
import json

import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.options import flags
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.winner import Columns, is_neutral, side_of, words_of

pytestmark = pytest.mark.unit

FIRST = ["A", "a", " A ", "[[A]]", "1", 1, 1.0, "1.0", "model_a", "Model A", "response_a", "ResponseA", "response_1"]
FIRST += [
    "answer1",
    "left",
    "Left",
    "first",
    "option-1",
    "A wins",
    "A is better",
    "Response A is slightly better",
    "A>B",
]
FIRST += ["B<A", "A>>B", "(A)", "the first one"]
SECOND = ["B", "b", "[[B]]", "2", 2, 2.0, "2.0", "model_b", "response_b", "ResponseB", "response_2", "right", "second"]
SECOND += ["B wins", "Model B is much better", "B>A", "A<B", "A<<B"]
TIES = [
    "tie",
    "Tie",
    "TIE",
    "tie (bothbad)",
    "both_bad",
    "draw",
    "equal",
    "same",
    "neither",
    "no preference",
    "A=B",
    1.5,
]
UNKNOWN = ["0", 0, True, False, "gpt-4", "A or B", "C", "3", "A>A", "yes"]


@pytest.mark.parametrize("value", FIRST)
def test_values_that_say_the_first_response_won(value):
    assert side_of(value) == "first"


@pytest.mark.parametrize("value", SECOND)
def test_values_that_say_the_second_response_won(value):
    assert side_of(value) == "second"


@pytest.mark.parametrize("value", TIES)
def test_values_that_say_nobody_won(value):
    assert side_of(value) == "tie"


@pytest.mark.parametrize("value", UNKNOWN)
def test_values_that_could_mean_anything_are_not_guessed(value):
    assert side_of(value) is None


def test_values_may_be_given_a_meaning_which_goes_first():
    meanings = {"0": "first", "1": "second", "links": "first"}
    assert [side_of(value, meanings) for value in (0, "1", 1.0, "Links", "B", "2")] == [
        "first",
        "second",
        "second",
        "first",
        "second",
        "second",
    ]


def test_the_words_of_a_column_are_found_in_every_way_to_write_them():
    assert words_of("preferredModel_A2") == ["preferred", "model", "a", "2"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "neutral"),
    [
        ("response_a", "response_b", True),
        ("x", "y", True),
        ("output_1", "output_2", True),
        ("chosen", "rejected", False),
        ("better_answer", "worse_answer", False),
        ("good", "bad", False),
    ],
)
def test_neutral_names_do_not_say_which_response_was_preferred(chosen, rejected, neutral):
    assert is_neutral(chosen, rejected) is neutral


def seen(**columns):
    found = Columns()
    for row in zip(*columns.values(), strict=True):
        found.see(dict(zip(columns, row, strict=True)))
    return found


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("winner", ["gpt-4", "claude", "gpt-4"]),
        ("Winner", ["A", "B", None]),
        ("winner_model_a", [1, 0, 0]),
        ("preference", ["A", "B", "tie"]),
        ("preference_strength", [-3, 2, 1]),
        ("label", [0, 1, 1]),
        ("label", ["1", "2", "1"]),
        ("choice", ["left", "right", "left"]),
        ("column 7", ["model_a", "model_b", "tie"]),
        ("q1", ["left", "right", "left"]),
    ],
)
def test_columns_that_look_as_if_they_said_who_won(name, values):
    assert seen(other=["x", "y", "z"], **{name: values}).winners([]) == [name]
    assert seen(**{name: values}).winners([name]) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("turn", [1, 2, 1]),
        ("arm", ["A", "B", "A"]),
        ("group", ["helpful", "harmless", "helpful"]),
        ("preference", ["helpful", "harmless", "helpful"]),
        ("label", ["cooking", "travel", "cooking"]),
        ("feedback", ["It is good.", "No.", "A"]),
        ("side", ["left", "left", "left"]),
        ("rating", [{"a": 1}, None, None]),
        ("choice", list(range(13))),
    ],
)
def test_columns_that_do_not(name, values):
    assert seen(**{name: values}).winners([]) == []


EXPORT = [
    {"prompt": "p1", "response_a": "x1", "response_b": "y1", "winner": "A", "worker": "ana"},
    {"prompt": "p2", "response_a": "x2", "response_b": "y2", "winner": "B", "worker": "ben"},
    {"prompt": "p3", "response_a": "x3", "response_b": "y3", "winner": "tie", "worker": "ben"},
    {"prompt": "p4", "response_a": "x4", "response_b": "y4", "winner": "", "worker": "ana"},
    {"prompt": "p5", "response_a": "x5", "response_b": "y5", "winner": "model_b", "worker": "ana"},
]
NAMES = {"chosen": "response_a", "rejected": "response_b", "user_id": "worker"}


@pytest.fixture
def table(tmp_path):
    def make(rows, name="pairs.jsonl", **config):
        path = tmp_path / name
        if name.endswith(".csv"):
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load(DataConfig.parse({"source": "table", "path": str(path), **config}))

    return make


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_an_export_is_read_by_who_won_and_ties_are_counted(table, name):
    loaded = table(EXPORT, name, map={**NAMES, "winner": "winner"})
    assert [(pair.chosen, pair.rejected, pair.user_id) for pair in loaded.pairs] == [
        ("x1", "y1", "ana"),
        ("y2", "x2", "ben"),
        ("y5", "x5", "ana"),
    ]
    assert loaded.report.read == 5
    assert loaded.report.skipped == {"the winner is a tie": 1, "no winner is given": 1}
    first = 4 if name.endswith(".csv") else 3
    assert loaded.report.examples["the winner is a tie"].endswith(f"{name}:{first}")


def test_under_strict_a_tie_is_an_error_with_its_row(table):
    with pytest.raises(DataError, match=r"pairs\.jsonl:3: the winner is a tie"):
        table(EXPORT, map={**NAMES, "winner": "winner"}, strict=True)


def test_a_winner_that_is_not_mapped_is_an_error_that_shows_the_flag(table):
    with pytest.raises(DataError, match=r"the column 'winner' looks as if .* Add data\.map\.winner=winner\."):
        table(EXPORT, map=NAMES)
    with flags(), pytest.raises(DataError, match=r"Add --map winner=winner\. .*--map winner= \(nothing"):
        table(EXPORT, map=NAMES)
    assert len(table(EXPORT, map={**NAMES, "winner": ""})) == 5


def test_a_table_of_two_responses_shows_all_flags(table):
    with flags(), pytest.raises(DataError) as error:
        table(EXPORT)
    assert "Perhaps: --map chosen=response_a --map rejected=response_b --map winner=winner" in str(error.value)


def test_columns_that_say_which_was_preferred_need_no_winner(table):
    rows = [{"prompt": "p", "chosen": f"c{i}", "rejected": f"r{i}", "winner": "A", "label": i % 2} for i in range(5)]
    assert len(table(rows)) == 5
    assert [pair.chosen for pair in table(rows).pairs] == [f"c{i}" for i in range(5)]


def test_a_winner_may_be_the_name_or_the_text_of_a_column(table):
    rows = [{**EXPORT[0], "winner": "response_b"}, {**EXPORT[1], "winner": " x2 "}]
    loaded = table(rows, map={**NAMES, "winner": "winner"})
    assert [pair.chosen for pair in loaded.pairs] == ["y1", "x2"]


def test_a_value_that_names_no_winner_is_an_error_until_it_has_a_meaning(table):
    rows = [{**row, "winner": number % 2} for number, row in enumerate(EXPORT)]
    names = {**NAMES, "winner": "winner"}
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: column 'winner' says 0.*data\.winner_values\.0=first"):
        table(rows, map=names)
    loaded = table(rows, map=names, winner_values={"0": "first", "1": "second"})
    assert [pair.chosen for pair in loaded.pairs] == ["x1", "y2", "x3", "y4", "x5"]


def test_meanings_without_a_winner_are_an_error():
    with pytest.raises(ConfigError, match="no column of winners is mapped"):
        DataConfig.parse({"source": "table", "path": "x.csv", "winner_values": {"0": "first"}})


def test_a_configuration_without_a_winner_is_written_as_before_there_was_one():
    assert "winner" not in DataConfig(source="table").model_dump()["map"]
    assert "winner_values" not in DataConfig(source="table").model_dump(mode="json")
    config = DataConfig.parse({"source": "table", "map": {"winner": "w"}, "winner_values": {"0": "tie"}})
    assert DataConfig.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", ["instruction", "question", "user_prompt", "Prompt"])
def test_a_prompt_that_is_not_mapped_is_an_error_that_shows_the_flag(table, name):
    rows = [{name: f"p{i}", "chosen": f"I like x{i}", "rejected": f"I like y{i}"} for i in range(3)]
    with (
        flags(),
        pytest.raises(DataError, match=rf"has no column 'prompt', and '{name}' looks like it.* --map prompt={name}\."),
    ):
        table(rows)
    assert table(rows, map={"prompt": name}).pairs[0].prompt == "p0"
    assert table(rows, map={"prompt": ""}).pairs[0].prompt == "I like"


@pytest.mark.parametrize("name", ["system_prompt", "context_id", "post_date", "the longest input"])
def test_columns_that_do_not_look_like_the_prompt(table, name):
    rows = [{name: f"p{i}", "chosen": f"I like x{i}", "rejected": f"I like y{i}"} for i in range(3)]
    assert table(rows).pairs[0].prompt == "I like"
