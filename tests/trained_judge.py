"""A judge of two opposite tastes, trained on pairs of a tiny random encoder's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedvpa.data.schema import Pair, PairTable
from fedvpa.evaluation.judges.training import train_judge
from fedvpa.rewards.held_out_files import save_judge
from tiny_models import model_folder

__all__ = ["model_folder"]


def pairs_of_tastes(per_group: int = 23) -> PairTable:
    """Users of ``brief`` prefer the short response of each pair, those of ``wordy`` the long one."""
    pairs = []
    for number in range(2 * per_group):
        long = " ".join(f"w{(number + place) % 80}" for place in range(5, 10))
        both = (f"w{(number + 2) % 80}", long)
        brief = number % 2 == 1
        pairs.append(
            Pair(f"w{number} w{number + 1}", *(both if brief else both[::-1]), group=("wordy", "brief")[brief])
        )
    return PairTable(tuple(pairs))


@pytest.fixture(scope="session")
def trained_judge(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a judge with a reward for ``brief`` and one for ``wordy``."""
    folder = tmp_path_factory.mktemp("judge")
    save_judge(train_judge(pairs_of_tastes(), str(model_folder("bert")), "tastes"), folder)
    return folder
