"""Five rounds on Flower's simulation, stopped after three and started again: ``python flower_run.py OUT``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.mixture_state import MixtureState
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from tests_shared import config


def train(name: str, state: TrainState | None = None, stop: int = 5) -> tuple[TrainState, list[dict]]:
    """The state and the lines of history after ``stop`` rounds on an engine."""
    federation, algorithm = make_federation(), make("fedvpa_gp", config(server={"rounds": 5}))
    state, lines = state or start(algorithm, federation, 7), []
    todo = rounds(algorithm, federation, EngineConfig(name=name, cohort=5, dropout=0.3, workers=1), 7, state)
    for reached, line in todo:
        state = reached
        lines.append({**line, "seconds": 0})
        if state.server.round == stop:
            todo.close()
    return state, lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    path = Path(sys.argv[1]) / "last.safetensors"
    half, first = train("flower", stop=3)
    save_checkpoint(path, half, {})
    whole, rest = train("flower", load_checkpoint(path, MixtureState)[0])
    save_checkpoint(path, whole, {"lines": first + rest})
