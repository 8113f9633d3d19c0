import pytest

from fedvpa.core.errors import DataError
from fedvpa.styles.config import SimulationConfig
from fedvpa.styles.prompts import split_prompts

pytestmark = pytest.mark.unit

PROMPTS = [f"prompt {number}" for number in range(50)]


def config(**given):
    return SimulationConfig.parse({"pairs": 20, **given})


def test_no_prompt_has_two_parts_and_their_order_in_the_file_decides_nothing():
    parts = split_prompts(PROMPTS, config(), "file")
    assert [len(own) for own in (parts.pairs, parts.align, parts.judge)] == [30, 15, 5]
    assert sorted([*parts.pairs, *parts.align, *parts.judge]) == sorted(PROMPTS)
    assert split_prompts(PROMPTS[::-1], config(), "file") == parts
    assert split_prompts(PROMPTS, config(seed=1), "file") != parts


def test_some_prompts_can_be_asked_for():
    parts = split_prompts(PROMPTS, config(pair_prompts=7), "file")
    assert [len(own) for own in (parts.pairs, parts.align, parts.judge)] == [7, 32, 11]
    parts = split_prompts(PROMPTS, config(pair_prompts=48), "file")
    assert [len(own) for own in (parts.pairs, parts.align, parts.judge)] == [48, 1, 1]


@pytest.mark.parametrize(
    ("count", "given", "message"),
    [
        (1, {}, r"file: holds 1 different prompt, .*Give 10 or more"),
        (0, {}, "holds 0 different prompts"),
        (50, {"pair_prompts": 49}, "Make pairs of 48 at most"),
        (
            50,
            {"pairs": 181},
            r"30 of which make pairs\. With 4 samples.* 180 different pairs, and is to label 181.* need 31",
        ),
        (50, {"pairs": 100, "samples": 2}, "need 100 prompts"),
    ],
)
def test_too_few_prompts_say_what_is_needed(count, given, message):
    with pytest.raises(DataError, match=message):
        split_prompts(PROMPTS[:count], config(**given), "file")
