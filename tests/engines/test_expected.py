import importlib.util
import json
from pathlib import Path

import pytest

from fedvpa.algorithms.registry import METHODS

HERE = Path(__file__).resolve().parent
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))

spec = importlib.util.spec_from_file_location("expected_table", HERE / "expected.py")
assert spec is not None
assert spec.loader is not None
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)


@pytest.mark.equivalence
@pytest.mark.parametrize("engine", ["loop", "vectorised"])
@pytest.mark.parametrize("method", METHODS.names())
def test_every_engine_gives_the_expected_table(method: str, engine: str):
    assert table.run(method, engine) == pytest.approx(EXPECTED[method], rel=1e-4, abs=2e-5)
