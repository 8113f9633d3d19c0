"""A history holds finite numbers alone: what has diverged is an error, not a line."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from fedvpa.core.errors import TrainingError
from fedvpa.core.loop import check_finite, run_in_memory, run_job

NAN = float("nan")


class Diverges:
    """A job whose third step has no finite loss."""

    title, unit, total, is_main, checkpoint_due = "method: steps", "step", 5, True, False

    def __init__(self, value: float) -> None:
        self.value, self.done = value, 0

    def run(self) -> Generator[dict[str, Any], None, None]:
        while self.done < self.total:
            self.done += 1
            yield {"step": self.done, "seconds": 0.1, "losses": {"kl": self.value if self.done == 3 else 1.0}}


@pytest.mark.unit
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_and_is_never_written(value: float, tmp_path: Path):
    saved = []
    with pytest.raises(
        TrainingError, match=r"method: steps: step 3: losses\.kl is .*diverged.*local\.head_lr.*policy\.lr"
    ):
        run_job(Diverges(value), tmp_path / "history.jsonl", lambda: saved.append(1), "go on")
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2
    assert saved == []
    with pytest.raises(TrainingError, match="step 3"):
        run_in_memory(Diverges(value), tmp_path / "memory.jsonl")
    assert not (tmp_path / "memory.jsonl").exists()


@pytest.mark.unit
def test_a_job_in_memory_may_leave_its_history(tmp_path: Path):
    run_in_memory(Diverges(0.5))
    run_in_memory(Diverges(0.5), tmp_path / "history.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["losses"]["kl"] for line in lines] == [1.0, 1.0, 0.5, 1.0, 1.0]


@pytest.mark.unit
def test_numbers_are_found_wherever_they_stand():
    check_finite({"round": 1, "loss": None, "cohort": ["a"], "losses": {"kl": 0.5}, "flag": True}, "round 1")
    for line in ({"a": NAN}, {"a": {"b": NAN}}, {"a": [1.0, NAN]}, {"a": ({"b": NAN},)}):
        with pytest.raises(TrainingError, match="round 1: a"):
            check_finite(line, "round 1")
