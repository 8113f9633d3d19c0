"""Hold-out scores, few-shot scores, and the main job on real pairs, in small."""

import gzip
import json
from pathlib import Path

import pytest

from fedvpa.api.compare import compare
from fedvpa.experiments.selector_cells import few_shot
from fedvpa.runs.config import RunConfig, read_config

OBJECTIVES = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh-rlhf-objectives" / "pairs.jsonl.gz"


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.end_to_end
def test_holdout_scores_every_client_on_the_pairs_of_its_group_and_leaves_out_what_training_saw(tmp_path: Path) -> None:
    """Group ``a`` likes the first word, group ``b`` the second, on the same texts."""

    def row(number: int, group: str) -> dict[str, str]:
        yes, no = f"sure {number} , gladly .", f"no {number} , sorry ."
        chosen, rejected = (yes, no) if group == "a" else (no, yes)
        return {"prompt": f"how do i plan {number} ?", "chosen": chosen, "rejected": rejected, "kind": group}

    pairs = write(tmp_path / "pairs.jsonl", [row(i, "ab"[i % 2]) for i in range(80)])
    held = [row(i, "a") for i in range(100, 113)] + [row(i, "b") for i in range(100, 111)]
    holdout = write(tmp_path / "held.jsonl", [*held, row(0, "a")])
    values = (
        "data.source=table",
        f"data.path={pairs}",
        "features.model=bundled",
        "data.map.group=kind",
        "partition.kind=group",
    )
    config = read_config(None, (*values, "engine.workers=1", "server.rounds=30"))
    compared = compare(
        config,
        methods=("fedvpa_gp", "global", "oracle"),
        clients=(4,),
        seeds=1,
        holdout=holdout,
        out=tmp_path / "o",
        jobs=1,
    )
    rows = {row["method"]: row for row in compared.to_dict()["rows"]}
    assert rows["oracle"]["holdout_groups"] == {"a": 1.0, "b": 1.0}
    assert rows["oracle"]["holdout_accuracy"] == 1.0
    assert rows["fedvpa_gp"]["holdout_accuracy"] == 1.0
    assert sum(rows["global"]["holdout_groups"].values()) == pytest.approx(1.0, abs=0.3), "one model cannot serve both"
    lines = (tmp_path / "o" / "scores.jsonl").read_text().splitlines()
    totals = {
        (score["group"], score["holdout_total"]) for score in map(json.loads, lines) if ":" not in score["method"]
    }
    assert totals == {("a", 13), ("b", 11)}


@pytest.mark.end_to_end
def test_few_shot_scores_unseen_users_by_their_number_of_pairs(tiny: RunConfig) -> None:
    found = few_shot(tiny, (0, 3))
    assert found.keys() == {0, 3}
    for scores in found.values():
        assert len(scores) == 3
        assert not any(score.seen for score in scores)
    assert [score.client_id for score in found[0]] == [score.client_id for score in found[3]]


@pytest.mark.end_to_end
@pytest.mark.skipif(not OBJECTIVES.is_file(), reason="../shared/data/hh-rlhf-objectives is not there")
def test_compare_runs_on_real_pairs(tmp_path: Path) -> None:
    with gzip.open(OBJECTIVES, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    short = [row for row in rows if len(row["prompt"]) < 300][:150]
    pairs = write(tmp_path / "pairs.jsonl", short)
    config = read_config(
        Path(__file__).resolve().parents[2] / "configs" / "hh_objectives.yaml",
        (
            f"data.path={pairs}",
            "features.model=bundled",
            "server.rounds=4",
            "features.max_response_tokens=32",
            f"features.cache_dir={tmp_path}",
        ),
    )
    compared = compare(config, methods=("fedvpa_gp", "global"), clients=(4,), seeds=1, out=tmp_path / "o", jobs=1)
    assert {row.method for row in compared.selectors.accuracy.rows} == {"fedvpa_gp", "global"}
    assert all(set(row.groups) == {"helpful", "harmless"} for row in compared.selectors.accuracy.rows)
