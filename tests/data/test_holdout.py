import json

import numpy as np
import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.config import DataConfig
from fedvpa.data.holdout import load_holdout, rows_by_group
from fedvpa.data.schema import Pair, PairTable

pytestmark = pytest.mark.unit

TABLE = PairTable(
    (
        Pair("p", "c", "r", group="blue", pair_id="1"),
        Pair("s", "r", "c", group="amber", pair_id="2"),
    )
)


@pytest.fixture
def holdout(tmp_path):
    def make(*rows):
        path = tmp_path / "held.jsonl"
        path.write_text(
            "".join(
                json.dumps(dict(zip(("prompt", "chosen", "rejected", "kind"), row, strict=True))) + "\n" for row in rows
            )
        )
        return load_holdout(DataConfig(source="table", path=str(path), map={"group": "kind"}), TABLE)

    return make


def test_pairs_of_the_tables_groups_are_kept(holdout):
    held = holdout(("q", "c", "r", "amber"), ("q", "r", "c", "blue"), ("t", "c", "r", "amber"))
    assert len(held) == 3
    rows = rows_by_group(held)
    assert list(rows) == ["amber", "blue"]
    np.testing.assert_array_equal(rows["amber"], [0, 2])
    np.testing.assert_array_equal(rows["blue"], [1])


def test_what_training_holds_and_other_groups_are_left_out_and_counted(holdout):
    held = holdout(
        ("p", "r", "c", "blue"),  # the same pair, the other way round
        ("s", "r", "c", "blue"),  # held by the other group only
        ("q", "c", "r", "coral"),
        ("q", "c", "r", "amber"),
    )
    assert [pair.group for pair in held.pairs] == ["blue", "amber"]
    assert held.report.read == 4
    assert held.report.skipped == {
        "the same pair, of the same group, is in the training data": 1,
        "no client is of this group": 1,
    }


def test_groups_that_do_not_match_are_errors(holdout):
    with pytest.raises(DataError, match=r"held\.jsonl: holds no pair of group 'amber'\. Did you mean 'ambre'"):
        holdout(("q", "c", "r", "blue"), ("q", "c", "r", "ambre"))
    with pytest.raises(DataError, match=r"held\.jsonl: some pairs have no group"):
        holdout(("q", "c", "r", "blue"), ("q", "c", "r", None))
