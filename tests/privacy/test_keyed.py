from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from fedvpa.core.errors import RunError
from fedvpa.privacy.keyed import Key, read_key, write_key

NAMES = [f"user-{number}" for number in range(2000)]


@pytest.mark.unit
def test_coins_are_named_by_key_round_and_client_and_by_nothing_else():
    key = Key.of_seed(3)
    coins = key.uniform(5, NAMES)
    assert np.array_equal(coins[::-1], key.uniform(5, NAMES[::-1])), "no position"
    assert np.array_equal(coins[7:9], key.uniform(5, NAMES[7:9])), "no company"
    assert not np.isclose(coins, key.uniform(6, NAMES)).any()
    assert not np.isclose(coins, Key.of_seed(4).uniform(5, NAMES)).any()
    assert ((coins >= 0) & (coins < 1)).all()
    assert abs((coins < 0.3).mean() - 0.3) < 4 * (0.3 * 0.7 / len(NAMES)) ** 0.5, "false alarms: 1 in 16,000 keys"


@pytest.mark.unit
def test_noise_is_the_same_for_a_round_that_is_run_again_and_another_for_everything_else():
    key = Key.new()
    first = key.generator(0, "sum 0").standard_normal(4)
    assert np.array_equal(first, Key(key.secret).generator(0, "sum 0").standard_normal(4))
    for other in (key.generator(1, "sum 0"), key.generator(0, "sum 1"), Key.new().generator(0, "sum 0")):
        assert not np.isclose(first, other.standard_normal(4)).any()


@pytest.mark.unit
def test_a_key_is_its_owners_alone_and_shows_nothing_of_itself(tmp_path: Path):
    key, path = Key.new(), tmp_path / "checkpoints" / "privacy.key"
    write_key(path, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path) == key
    assert key.secret.hex() not in repr(key) + key.name
    with pytest.raises(FileExistsError):
        write_key(path, Key.new())
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(RunError, match="5 bytes"):
        read_key(path)
    path.unlink()
    with pytest.raises(RunError, match="noise and cohorts"):
        read_key(path)
