import pytest

from fedvpa.core.unicode import is_storable, storable, unusable

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain", "plain"),
        ("é 用户 🙂 \0 \x1b", "é 用户 🙂 \0 \x1b"),
        ("a\ud83d", "a\ufffd"),
        ("caf\udce9", "caf\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("x\ud83d\ude00y", "x🙂y".replace("🙂", "\U0001f600")),
    ],
)
def test_half_surrogate_pairs_are_replaced_and_nothing_else_is(text, kept):
    assert storable(text) == kept
    assert is_storable(text) is (text == kept)
    assert storable(text).encode("utf-8").decode("utf-8") == kept


def test_configuration_values_and_paths_hold_neither_half_a_pair_nor_a_nul():
    assert (unusable("é\n"), bool(unusable("\ud83d")), bool(unusable("a\0"))) == ("", True, True)
