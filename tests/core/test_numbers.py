"""No key of a configuration takes a number that float32 or sampling cannot carry."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel

from fedvpa.core import numbers
from fedvpa.core.errors import ConfigError
from fedvpa.core.numbers import Between
from fedvpa.data.sources.world import WorldKeys
from fedvpa.runs.config import RunConfig, read_config

HUGE, TINY = "1.0e+300", "1.0e-300"


def kinds(annotation: object) -> Iterator[object]:
    """The plain types of an annotation, without ``Annotated`` and ``None``."""
    if get_origin(annotation) is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from kinds(part)
    else:
        yield annotation


def keys_of(number: type, section: type[BaseModel], *path: str) -> Iterator[str]:
    """The dotted keys whose values are such numbers."""
    for name, field in section.model_fields.items():
        for kind in kinds(field.annotation):
            if kind is number:
                yield ".".join((*path, name))
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys_of(number, kind, *path, name)


KEYS = sorted(set(keys_of(float, RunConfig)))
WHOLE = sorted(set(keys_of(int, RunConfig)))
DIVIDES = ("lr", "temperature", "beta", "scale", "alpha", "sigma", "clip_norm", "normal_weight", "prior_rate")


@pytest.mark.unit
@pytest.mark.parametrize("key", KEYS)
def test_every_number_of_a_run_is_bounded_and_finite(key: str):
    for value in (HUGE, f"-{HUGE}", ".inf", "-.inf", ".nan"):
        with pytest.raises(ConfigError, match=f"'{key}'"):
            read_config(None, (*needed(key), f"{key}={value}"))


@pytest.mark.unit
@pytest.mark.parametrize("key", [key for key in KEYS if any(word in key.rpartition(".")[2] for word in DIVIDES)])
def test_what_multiplies_or_divides_is_not_so_small_that_it_vanishes(key: str):
    with pytest.raises(ConfigError, match=f"'{key}'"):
        read_config(None, (*needed(key), f"{key}={TINY}"))


def needed(key: str) -> tuple[str, ...]:
    """What must be set for a key to be read at all."""
    return {
        "partition.alpha": ("partition.kind=dirichlet",),
        "partition.sigma": ("partition.kind=group", "partition.sizes=log-normal"),
    }.get(key, ())


@pytest.mark.reference
def test_the_bounds_square_within_float32():
    bounds = [
        check.func
        for kind in vars(numbers).values()
        if get_origin(kind) is Annotated
        for check in get_args(kind)[1:]
        if isinstance(getattr(check, "func", None), Between)
    ]
    assert len(bounds) >= 9
    for bound in bounds:
        values = np.float32([bound.least, bound.most])
        with np.errstate(over="raise", under="raise"):
            squared = np.exp(values) if bound.least < 0 else values**2
        assert np.isfinite(squared).all()
        assert (squared > 0).all()


@pytest.mark.unit
def test_a_refusal_says_what_happens_and_what_to_give():
    with pytest.raises(ConfigError) as refused:
        read_config(None, ("policy.lr=1e30",))
    assert str(refused.value) == (
        "configuration key 'policy.lr': 1e+30 cannot be used: steps of such a size overflow or vanish in float32. "
        "Give a number from 1e-12 to 1e+12."
    )
    with pytest.raises(ConfigError, match=r"Give a number from 0\.01 to 100, or 0 for the most probable token\.$"):
        read_config(None, ("policy.judging.temperature=1e-9",))
    assert read_config(None, ("policy.judging.temperature=0",)).policy.judging.temperature == 0
    with pytest.raises(ConfigError, match=r"less than 1 \(given: 20\)\. A share is a fraction: 20% is 0\.2\.$"):
        read_config(None, ("partition.test_fraction=20",))
    with pytest.raises(ConfigError, match=r"'partition\.shares\.a'.*1e-300 cannot be used"):
        read_config(None, ("partition.kind=group", f"partition.shares.a={TINY}"))
    with pytest.raises(ConfigError, match=r"'temperature'.*1e-09 cannot be used"):
        WorldKeys.parse({"temperature": 1e-9})


@pytest.mark.unit
def test_a_size_that_fits_into_no_memory_is_refused():
    sizes = ("selector.latent", "selector.trunk_width", "biscuit.selectors", "policy.lora_rank", "policy.prefix_tokens")
    for key in sizes:
        with pytest.raises(ConfigError, match=f"'{key}'.*less than or equal to 65536"):
            read_config(None, (f"{key}=1000000000",))


@pytest.mark.unit
@pytest.mark.parametrize("key", WHOLE)
def test_every_whole_number_fits_into_64_bits(key: str):
    for value in (2**63, -(2**63) - 1, 10**30):
        with pytest.raises(ConfigError, match=f"'{key}'"):
            read_config(None, (*needed(key), f"{key}={value}"))


OTHERS_TOO = {
    "features.layer": "(True|False) names no layers",
    "selector.rotation": "(False is no rotation|a number is wanted, and true is none)",
}
"""What is said of a truth value where more than a number may be given."""


@pytest.mark.unit
@pytest.mark.parametrize("key", [*KEYS, *WHOLE])
def test_a_truth_value_is_no_number(key: str):
    said = OTHERS_TOO.get(key, "a number is wanted, and (true|false) is none")
    for value in ("on", "no", "True"):
        with pytest.raises(ConfigError, match=f"'{key}'.* {said}"):
            read_config(None, (*needed(key), f"{key}={value}"))


@pytest.mark.unit
def test_truth_values_among_numbers_are_found_and_others_stay_what_they_are():
    with pytest.raises(ConfigError, match=r"'user_shares': a number is wanted, and false is none"):
        WorldKeys.parse({"user_shares": [0.5, False]})
    assert read_config(None, ("partition.drop_small=on",)).partition.drop_small is True
    assert read_config(None, ("partition.drop_small=0",)).partition.drop_small is False
    arguments = read_config(None, ("features.template_arguments={enable_thinking: off}",)).features.template_arguments
    assert arguments == {"enable_thinking": False}


@pytest.mark.unit
def test_draws_that_fit_into_no_memory_are_refused():
    for key in ("local.steps", "policy.feddpo.steps", "biscuit.lora.steps"):
        with pytest.raises(ConfigError, match=f"'{key}'.*less than or equal to 1000000"):
            read_config(None, (f"{key}=1000000000",))
    with pytest.raises(ConfigError, match=r"'engine\.workers'.*less than or equal to 1024"):
        read_config(None, ("engine.workers=100000",))


@pytest.mark.unit
def test_a_seed_of_more_than_64_bits_and_a_slip_of_the_keyboard_are_refused():
    assert read_config(None, (f"seed={2**63 - 1}",)).seed == 2**63 - 1
    for override in (f"seed={2**63}", "seed=-1", "partition.clients=1000000000000", "partition.unseen=1000000000000"):
        with pytest.raises(ConfigError, match=f"'{override.partition('=')[0]}'"):
            read_config(None, (override,))
    for key in ("users", "pairs_per_user", "seed"):
        with pytest.raises(ConfigError, match=f"'{key}'"):
            WorldKeys.parse({key: 10**30})
