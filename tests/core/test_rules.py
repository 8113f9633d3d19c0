import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.core.rules import RulesConfig


@pytest.mark.unit
@pytest.mark.parametrize("key", ["clip_norm", "max_weight"])
def test_a_limit_is_a_number_or_found_or_none(key: str):
    for given, kept in (("auto", "auto"), (None, None), (3, 3.0), (0.5, 0.5), ("5e-2", 0.05)):
        assert getattr(RulesConfig.parse({key: given}), key) == kept
    for given, message in (("often", "'often' is no limit"), (0, "0 cannot be used"), (1e9, r"1e\+09 cannot be used")):
        with pytest.raises(ConfigError, match=f"{key}.*{message}"):
            RulesConfig.parse({key: given}, "server")
