import pytest

from fedvpa.runs.config import RunConfig
from fedvpa.runs.unread import say_unread, unread

pytestmark = pytest.mark.unit


def test_settings_without_effect_are_said(capsys):
    given = {"selector": {"latent": 5, "rotation": 7}, "variational": {"kl_weight": 0.5}, "local": {"steps": 5}}
    config = RunConfig.parse({"method": "fedeb", **given})
    assert unread(config) == ["variational.kl_weight", "selector.latent"]
    say_unread(config)
    assert "method=fedeb does not read variational.kl_weight, selector.latent" in capsys.readouterr().err


def test_what_a_method_reads_and_what_is_a_default_is_not_said():
    given = {"selector": {"latent": 5}, "variational": {"kl_weight": 0.5}}
    assert not unread(RunConfig.parse({"method": "fedvpa_gp", **given}))
    assert not unread(RunConfig.parse({"method": "fedeb", "selector": {"latent": 32, "normalise": "none"}}))
