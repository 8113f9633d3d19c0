"""Two rounds of FedDPO and of FIRM on Flower's simulation: ``python flower_text_run.py OUT``."""

import sys
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedvpa.engines.checkpoint import save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState
from text_clients import Texts

METHODS = ("feddpo", "firm")


def train(method: str, engine: str) -> tuple[TrainState, list[dict]]:
    """The last state and the lines of history of two rounds on an engine."""
    states, lines = Texts.of(method).train(EngineConfig(name=engine, cohort=2))
    return states[-1], lines


if __name__ == "__main__":
    # Ray is started once for both: starting it takes longer than the rounds.
    with mock.patch("ray.shutdown"):
        for name in METHODS:
            state, lines = train(name, "flower")
            save_checkpoint(Path(sys.argv[1]) / f"{name}.safetensors", state, {"lines": lines})
