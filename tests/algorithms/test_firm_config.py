"""What FIRM's configuration refuses, each in one message."""

from __future__ import annotations

from typing import Any

import pytest

from fedvpa.algorithms.firm_config import FirmConfig, preference_of, single_objective
from fedvpa.core.errors import ConfigError
from fedvpa.runs.config import read_config

TWO = ("world:helpful", "world:harmless")


@pytest.mark.unit
def test_a_preference_is_a_list_or_shares_between_commas():
    for text in ("firm.preference=0.7,0.3", "firm.preference=[0.7, 0.3]", "firm.preference= 0.7 , 0.3"):
        assert read_config(None, [text]).firm.preference == (0.7, 0.3)
    config = read_config(None, ["firm.objectives=world:helpful,world:harmless", "firm.preference=1,0"]).firm
    assert (config.objectives, config.preference) == (TWO, (1.0, 0.0))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("firm.preference=0.7,0.4", "add up to 1.1"),
        ("firm.preference=1.5,-0.5", "has a negative share"),
        ("firm.preference=0.7;0.3", "valid number"),
        ("firm.rho=-1", "from 1e-12 to 1000000, or 0"),
        ("firm.objectives=world:helpful", "1 objective (world:helpful) leaves nothing to weigh"),
        ("firm.objectives=world:helpful,world:helpful", "named twice"),
        ("firm.objectives=helpful,harmless", "is no objective"),
        ("firm.completions=1", "greater than or equal to 2"),
        ("firm.clip=0", "greater than 0"),
        ("firm.averaging=svd", "'avg' or 'ffa'"),
        ("firm.preferences=1,0", "Did you mean 'preference'?"),
    ],
)
def test_wrong_values_are_one_message_with_their_key(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        read_config(None, [override])
    assert message in str(caught.value)
    assert "'firm." in str(caught.value)


@pytest.mark.unit
def test_the_preference_has_a_share_for_each_objective():
    assert preference_of(FirmConfig(), TWO) == (0.5, 0.5)
    assert preference_of(FirmConfig(preference=(0.2, 0.8)), TWO) == (0.2, 0.8)
    with pytest.raises(ConfigError, match="2 shares, and there are 3 objectives: a, b, c"):
        preference_of(FirmConfig(preference=(0.2, 0.8)), "abc")
    for few in ((), ("only",)):
        with pytest.raises(ConfigError, match=r"firm\.objectives.*several objectives"):
            preference_of(FirmConfig(), few)


@pytest.mark.unit
def test_single_needs_to_know_its_objective():
    assert single_objective((0.2, 0.8), TWO) == 1
    with pytest.raises(ConfigError, match=r"share it\. For world:helpful, give firm\.preference=1,0"):
        single_objective((0.5, 0.5), TWO)


@pytest.mark.unit
def test_a_configuration_comes_back_from_its_file(tmp_path: Any):
    from fedvpa.runs.config import dump

    config = read_config(None, ["firm.objectives=world:helpful,world:harmless", "firm.preference=0.7,0.3"])
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml").firm == config.firm
