"""The sources of published sets, each on a small file made here in the set's own layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.seeds import numpy_generator
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.data.schema import Message, PairTable
from fedvpa.runs.config import read_config

pytestmark = pytest.mark.unit


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(source: str, path: Path | str = "", **settings: Any) -> PairTable:
    beside = {
        key: settings.pop(key) for key in ("strict", "split", "seed", "users", "pairs_per_user") if key in settings
    }
    return load(DataConfig.parse({"source": source, "path": str(path), "settings": settings, **beside}))


def texts(table: PairTable) -> list[tuple[Any, ...]]:
    return [(pair.user_id, pair.group, pair.prompt, pair.chosen, pair.rejected) for pair in table.pairs]


def answer(turn: int, place: int, content: str, score: Any, chosen: bool = False) -> dict[str, Any]:
    return {
        "turn": turn, "role": "model", "content": content, "model_name": "m", "model_provider": "p", "score": score,
        "if_chosen": chosen, "within_turn_id": place,
    }  # fmt: skip


CONVERSATIONS = [
    {
        "conversation_id": "c0",
        "user_id": "user7",
        "conversation_type": "unguided",
        "opening_prompt": "hello?",
        "conversation_history": [
            {"turn": 0, "role": "user", "content": "hello?"},
            answer(0, 0, "low", 3),
            answer(0, 1, "high", 90, chosen=True),
            answer(0, 2, "as low", 3),
            {"turn": 1, "role": "user", "content": "and now?"},
            answer(1, 0, "better", 70, chosen=True),
            answer(1, 1, "worse", 69),
        ],
    },
    {
        "conversation_id": "c1",
        "user_id": "user8",
        "conversation_type": "values guided",
        "opening_prompt": "why?",
        "conversation_history": [
            {"turn": 0, "role": "user", "content": "why?"},
            answer(0, 0, "because", 50, chosen=True),
            answer(0, 1, "never", None),
        ],
    },
]


def utterances() -> list[dict[str, Any]]:
    """The same conversations, one answer a row."""
    rows = []
    for whole in CONVERSATIONS:
        asked = {said["turn"]: said["content"] for said in whole["conversation_history"] if said["role"] == "user"}
        rows += [
            {
                "utterance_id": f"ut{len(rows)}", "interaction_id": f"int{said['turn']}",
                "conversation_id": whole["conversation_id"], "user_id": whole["user_id"], "turn": said["turn"],
                "within_turn_id": said["within_turn_id"], "user_prompt": asked[said["turn"]],
                "model_response": said["content"], "score": said["score"], "if_chosen": said["if_chosen"],
            }
            for said in whole["conversation_history"]
            if said["role"] == "model"
        ]  # fmt: skip
    return rows


def test_prism_pairs_the_answers_of_a_turn_by_their_scores(tmp_path: Path):
    table = read("prism", write(tmp_path / "conversations.jsonl", CONVERSATIONS))
    first, hello = (Message("user", "hello?"),), Message("user", "and now?")
    assert [(pair.prompt, pair.chosen[0].content, pair.rejected[0].content) for pair in table.pairs] == [
        (first, "high", "low"),
        (first, "high", "as low"),
        ((*first, Message("assistant", "high"), hello), "better", "worse"),
    ]
    assert {(pair.user_id, pair.group, pair.conversation) for pair in table.pairs} == {("user7", None, "c0")}
    assert table.report.skipped == {"both answers have the same score": 1, "an answer has no score": 1}
    assert table.report.examples["an answer has no score"].endswith("conversations.jsonl:2")
    assert table.report.lines()[0] == "data: 3 of 5 pairs used"
    chosen = read("prism", tmp_path, pairs="choices")
    assert [pair.rejected[0].content for pair in chosen.pairs] == ["low", "as low", "worse", "never"]
    assert len(read("prism", tmp_path, turns="opening")) == 2
    written = read("prism", tmp_path, texts="transcript").pairs[2]
    assert written.prompt == "\n\nHuman: hello?\n\nAssistant: high\n\nHuman: and now?\n\nAssistant:"
    assert (written.chosen, written.rejected) == (" better", " worse")


def test_prism_reads_the_same_pairs_from_either_of_its_files(tmp_path: Path):
    whole = read("prism", write(tmp_path / "a" / "conversations.jsonl", CONVERSATIONS))
    rows = utterances()
    long = read("prism", write(tmp_path / "b" / "utterances.jsonl", rows[::-1]))
    assert sorted(texts(long), key=str) == sorted(texts(whole), key=str)
    assert long.report.skipped == whole.report.skipped


def test_all_turns_of_a_conversation_are_held_out_together(tmp_path: Path):
    many = []
    for place in range(40):
        one = json.loads(json.dumps(CONVERSATIONS[0]).replace("hello?", f"hello {place}?"))
        many.append(one | {"conversation_id": f"c{place}", "user_id": f"user{place % 4}"})
    config = read_config(None, ["data.source=prism", f"data.path={write(tmp_path / 'conversations.jsonl', many)}"])
    assert (config.partition.kind, config.partition.drop_small) == ("natural", True)
    table = load(config.data)
    split = partition(table, config.partition, 0)
    train, test = (
        {table.pairs[row].conversation for client in split.clients for row in getattr(client, part)}
        for part in ("train", "test")
    )
    assert test
    assert train
    assert not train & test


COMPARISONS = [
    {
        "info": {
            "id": "t3",
            "post": " long post ",
            "title": "a title",
            "subreddit": "cats",
            "site": None,
            "article": None,
        },
        "summaries": [{"text": " one", "policy": "sup", "note": None}, {"text": " two", "policy": "ref", "note": None}],
        "choice": choice,
        "worker": worker,
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": 8},
    }
    for choice, worker in ((1, "w1"), (0, "w2"), (None, "w2"))
]
ARTICLE = COMPARISONS[0] | {"info": {"post": None, "title": "news", "subreddit": None, "article": "text"}}


def test_tldr_is_what_each_labeller_chose_and_no_split_of_its_own(tmp_path: Path):
    write(tmp_path / "train.jsonl", COMPARISONS)
    write(tmp_path / "validation.jsonl", [ARTICLE])
    table = read("tldr", tmp_path)
    post = "SUBREDDIT: r/cats\n\nTITLE: a title\n\nPOST: long post\n\nTL;DR:"
    assert texts(table) == [
        ("w1", None, post, " two", " one"),
        ("w2", None, post, " one", " two"),
        ("w1", None, "TITLE: news\n\nARTICLE: text\n\nTL;DR:", " two", " one"),
    ]
    assert {pair.split for pair in table.pairs} == {None}
    assert table.report.examples == {"no winner is given": f"{tmp_path / 'train.jsonl'}:3"}
    axis = COMPARISONS[0] | {"summaries": [{"text": "one"}]}
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: column 'summaries' holds 1 summaries, and a comparison is of two"
    ):
        read("tldr", write(tmp_path / "a.jsonl", [axis]))


def vote(domain: str, label: Any, ratio: float = 3.0) -> dict[str, Any]:
    return {
        "post_id": "p", "domain": domain, "upvote_ratio": 0.9, "history": f"how? {domain}", "c_root_id_A": "a",
        "c_root_id_B": "b", "created_at_utc_A": 1, "created_at_utc_B": 2, "score_A": 9, "score_B": 3,
        "human_ref_A": "like this", "human_ref_B": "like that", "labels": label, "seconds_difference": 4.0,
        "score_ratio": ratio,
    }  # fmt: skip


def test_shp_is_the_votes_of_communities_in_their_own_splits(tmp_path: Path):
    for name in ("asklaw", "askbaking"):
        for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
            rows = [vote(f"{name}_{short}", 1), vote(f"{name}_{short}", 0, 1.2)]
            write(tmp_path / name / f"{split}.json", rows)
    table = read("shp", tmp_path)
    assert Counter((pair.user_id, pair.group, pair.split) for pair in table.pairs) == {
        (name, name, split): 2 for name in ("asklaw", "askbaking") for split in ("train", "validation", "test")
    }
    assert [pair.chosen for pair in table.pairs[:2]] == ["like this", "like that"]
    assert len({pair.pair_id for pair in table.pairs}) == len(table)
    clear = read("shp", tmp_path, domains="asklaw", least_ratio=2)
    assert {pair.group for pair in clear.pairs} == {"asklaw"}
    assert clear.report.skipped == {"the scores are closer than data.settings.least_ratio": 3}
    with pytest.raises(DataError, match=r"has no folder 'askmaths'\. Folders: askbaking, asklaw\."):
        read("shp", tmp_path, domains="askmaths")
    assert [pair.split for pair in read("shp", tmp_path / "asklaw" / "test.json").pairs] == [None, None]


ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def rated(*ratings: Sequence[Any]) -> dict[str, Any]:
    """A prompt whose answers have these ratings, each of the four aspects."""
    return {
        "source": "evol_instruct", "instruction": f"do it {ratings}", "models": ["a", "b"],
        "completions": [
            {
                "model": "m", "principle": "helpfulness", "custom_system_prompt": "s", "response": f"answer {place}",
                "annotations": {
                    name: {"Rating": rating, "Rationale": "r"} for name, rating in zip(ASPECTS, own, strict=True)
                },
                "overall_score": 7.0, "fine-grained_score": 4.0, "critique": "c",
            }
            for place, own in enumerate(ratings)
        ],
        "correct_answers": ["None"], "incorrect_answers": ["None"],
    }  # fmt: skip


def test_ultrafeedback_has_a_group_for_each_aspect_and_one_pair_of_answers(tmp_path: Path):
    path = write(tmp_path / "flan.jsonl", [rated("5123", ["4", "N/A", "2", "5"])])
    table = read("ultrafeedback", path)
    assert [(pair.group, pair.chosen) for pair in table.pairs] == [
        ("instruction_following", "answer 0"),
        ("helpfulness", "answer 1"),
    ]
    assert table.report.skipped == {"an aspect rates an answer not at all": 1, "an aspect rates both answers alike": 1}
    four = write(tmp_path / "four.jsonl", [rated("1234", "2345", "3451", "4512")] * 5)
    table = read("ultrafeedback", four)
    rows = [pair for pair in table.pairs if pair.pair_id.startswith("1.")]
    assert len({frozenset((pair.chosen, pair.rejected)) for pair in rows}) == 1
    drawn = {frozenset((read("ultrafeedback", four, seed=seed).pairs[0].chosen,
                        read("ultrafeedback", four, seed=seed).pairs[0].rejected)) for seed in range(9)}  # fmt: skip
    assert len(drawn) > 2


def test_uf_p_2_and_4_keep_answers_that_their_aspects_disagree_on(tmp_path: Path):
    agreed, apart = rated("1111", "2222"), rated("1114", "1153")  # honesty ties; truthfulness against helpfulness
    both = rated("1512", "1115")  # honesty against helpfulness
    path = write(tmp_path / "train.jsonl", [agreed, apart, both])
    two = read("uf-p-2", path)
    assert [(pair.group, pair.chosen) for pair in two.pairs] == [("helpfulness", "answer 1"), ("honesty", "answer 0")]
    agree = "the aspects agree on all answers of the prompt (data.settings.disagreeing)"
    assert two.report.skipped == {agree: 2}
    four = read("uf-p-4", path)
    assert [(pair.group, pair.chosen) for pair in four.pairs] == [
        ("truthfulness", "answer 1"),
        ("helpfulness", "answer 0"),
        ("honesty", "answer 0"),
        ("helpfulness", "answer 1"),
    ]
    assert four.report.skipped == {agree: 1, "an aspect rates both answers alike": 4}
    config = read_config(None, ["data.source=uf-p-2", "features.model=bundled"])
    assert config.partition.kind == "group"
    natural = read_config(None, ["data.source=prism", "features.model=bundled", "partition.kind=dirichlet"])
    assert (natural.partition.kind, natural.partition.drop_small) == ("dirichlet", False)


def scored(place: int, rng: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": f"ask {place}", "subset": "s", "prompt_id": place}
    for one in range(1, 9):
        row |= {f"response_{one}": f"answer {place}.{one}", f"response_{one}_model": "m"}
        row |= {
            f"response_{one}_{name}": float(rng.normal(scale, scale))
            for name, scale in (("gemma_2b", 1), ("oasst", 40))
        }
    return row


def test_personal_llm_users_prefer_by_their_weights_on_standardised_scores(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [scored(place, rng) for place in range(23)]
    write(tmp_path / "train.jsonl", rows[:19])
    write(tmp_path / "test.jsonl", rows[19:])
    rows = [*rows[19:], *rows[:19]]  # files are read in the order of their names
    table = read("personal-llm", tmp_path, users=7, pairs_per_user=11, alpha=1.0)
    assert Counter(pair.user_id for pair in table.pairs) == {f"user-{place}": 11 for place in range(7)}
    assert {pair.split for pair in table.pairs} == {"train", "test"}
    of = {row[f"response_{one}"]: [row[f"response_{one}_{name}"] for name in ("gemma_2b", "oasst")]
          for row in rows for one in range(1, 9)}  # fmt: skip
    every = np.array(list(of.values()))
    for user in range(7):
        weights = numpy_generator(0, "personal-llm", f"user-{user}").dirichlet([1.0, 1.0])
        worth = {text: weights @ ((np.array(own) - every.mean(0)) / every.std(0)) for text, own in of.items()}
        mine = [pair for pair in table.pairs if pair.user_id == f"user-{user}"]
        assert all(worth[pair.chosen] > worth[pair.rejected] for pair in mine)
        assert len({pair.prompt for pair in mine}) == 11
    more = read("personal-llm", tmp_path, users=8, pairs_per_user=11, alpha=1.0)
    assert [one for one in texts(more) if one[0] != "user-7"] == texts(table)
    assert texts(read("personal-llm", tmp_path, users=7, pairs_per_user=11, alpha=1.0, seed=1)) != texts(table)


def test_missing_and_equal_scores_are_counted(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [scored(place, rng) for place in range(9)]
    for one in range(1, 9):
        rows[1][f"response_{one}_oasst"] = None
        rows[2] |= {f"response_{one}_{name}": 1.0 for name in ("gemma_2b", "oasst")}
    table = read("personal-llm", write(tmp_path / "train.jsonl", rows), users=3, pairs_per_user=9)
    assert table.report.skipped == {
        "an answer lacks the score of a reward model": 3,
        "the user's scores of both answers are equal": 3,
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("prism", "user_id"),
        ("tldr", "info"),
        ("shp", "domain"),
        ("ultrafeedback", "instruction"),
        ("uf-p-4", "instruction"),
        ("personal-llm", "prompt"),
    ],
)
def test_another_layout_is_one_message(tmp_path: Path, source: str, name: str):
    path = write(tmp_path / "pairs.jsonl", [{"chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError) as error:
        read(source, path)
    assert "pairs.jsonl:1: is not in the layout of " in str(error.value)
    assert f"there is no column {name!r}. Columns: chosen, rejected. " in str(error.value)
    assert "data.source=table" in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        DataConfig.parse({"source": source, "path": str(tmp_path / "none.jsonl")}).check_paths()


def test_values_of_another_type_name_their_row(tmp_path: Path):
    broken = CONVERSATIONS[1] | {"conversation_history": "hello"}
    path = write(tmp_path / "conversations.jsonl", [CONVERSATIONS[0], broken])
    with pytest.raises(DataError, match=r":2: column 'conversation_history' holds str, and a list is needed"):
        read("prism", path)
    for source, column in (("prism", "conversation_history"), ("uf-p-2", "completions"), ("tldr", "summaries")):
        row = {"prism": CONVERSATIONS[0], "uf-p-2": rated("1512", "1115"), "tldr": COMPARISONS[0]}[source]
        with pytest.raises(DataError, match=rf":1: column '{column}' holds a list with str, and a list of objects"):
            read(source, write(tmp_path / "texts.jsonl", [row | {column: ["a", "b"]}]))
    with pytest.raises(DataError, match=r"holds no file 'conversations'\. It holds survey\.jsonl"):
        read("prism", write(tmp_path / "x" / "survey.jsonl", [{"user_id": "u"}]).parent)
    rows = [{"prompt": "p", "response_1": "a", "response_2": "b", "response_1_model": "m"}]
    with pytest.raises(DataError, match="no column response_1_<reward model> with a number"):
        read("personal-llm", write(tmp_path / "y.jsonl", rows))
    with pytest.raises(ConfigError, match=r"data\.settings\.turns"):
        read("prism", path, turns="last")
    with pytest.raises(
        ConfigError, match=r"'data\.turns': stands in the wrong place\. Set it as data\.settings\.turns"
    ):
        read_config(None, ["data.source=prism", "data.turns=opening"])
    with pytest.raises(DataError, match=r"conversations\.jsonl:1: both answers have the same score"):
        read("prism", write(tmp_path / "conversations.jsonl", CONVERSATIONS), strict=True)


def test_a_share_of_the_rows_is_a_part_of_any_larger_one(tmp_path: Path):
    path = write(
        tmp_path / "all.jsonl", [rated("1512", "1115") | {"instruction": f"do {place}"} for place in range(97)]
    )
    shares = [{pair.prompt for pair in read("uf-p-2", path, share=share).pairs} for share in (0.2, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(shares))
    assert [len(one) for one in shares] == pytest.approx([19, 48, 97], abs=12)


def test_a_share_of_people_has_all_of_their_pairs(tmp_path: Path):
    rows = [COMPARISONS[0] | {"worker": f"w{place % 40}"} for place in range(120)]
    found = Counter(pair.user_id for pair in read("tldr", write(tmp_path / "all.jsonl", rows), share=0.5).pairs)
    assert 8 < len(found) < 32
    assert set(found.values()) == {3}


class Hub:
    """Stands in for ``datasets.load_dataset``; the first call fails as for a script, if asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loaded: dict[str, Any], script: bool = False) -> None:
        self.calls: list[Any] = []
        self.loaded, self.script = loaded, script
        monkeypatch.setattr("datasets.load_dataset", self)

    def __call__(self, *given: Any, **more: Any) -> dict[str, Any]:
        self.calls.append((given, more))
        if self.script and len(self.calls) == 1:
            raise RuntimeError("Dataset scripts are no longer supported, but found summarize_from_feedback.py")
        return self.loaded


def test_without_a_path_the_set_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch):
    hub = Hub(monkeypatch, {"train": CONVERSATIONS})
    assert len(read("prism")) == 3
    assert hub.calls == [(("HannahRoseKirk/prism-alignment",), {"name": "conversations"})]
    hub = Hub(monkeypatch, {"train": COMPARISONS}, script=True)
    assert len(read("tldr")) == 2
    assert hub.calls[1] == (
        ("openai/summarize_from_feedback",),
        {"data_dir": "comparisons", "revision": "refs/convert/parquet"},
    )
    hub = Hub(monkeypatch, {"train": [vote("asklaw_train", 1)], "test": [vote("asklaw_test", 1)]})
    assert [pair.split for pair in read("shp", domains=["asklaw"]).pairs] == ["train", "test"]
    assert hub.calls == [(("stanfordnlp/SHP",), {"data_dir": "asklaw"})]
    hub = Hub(monkeypatch, {"train": [rated("1512", "1115")]})
    assert len(read("uf-p-2")) == 2
    assert hub.calls == [(("openbmb/UltraFeedback",), {})]
