"""Two rounds of FedDPO on Flower's simulation: ``python flower_text_run.py OUT``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedvpa.algorithms.feddpo import FedDPO
from fedvpa.algorithms.policy_method import server_rules
from fedvpa.engines.checkpoint import save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from text_clients import make_texts, text_settings

SEED = 13


def train(name: str) -> tuple[TrainState, list[dict]]:
    """The last state and the lines of history of two rounds on an engine."""
    settings = text_settings()
    algorithm, clients = FedDPO(settings, server_rules(settings, settings.feddpo.rounds)), make_texts(SEED)
    engine, begin = EngineConfig(name=name, cohort=2), start(algorithm, clients, SEED)
    found = list(rounds(algorithm, clients, engine, SEED, begin))
    return found[-1][0], [{**line, "seconds": 0} for _, line in found]


if __name__ == "__main__":
    state, lines = train("flower")
    save_checkpoint(Path(sys.argv[1]) / "last.safetensors", state, {"lines": lines})
