import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load, load_reserved
from fedvpa.data.reserve import REASON, divide, is_reserved, pair_identity, words
from fedvpa.data.schema import Message, Pair, PairTable

pytestmark = pytest.mark.unit

TRANSCRIPT = "\n\nHuman: How do I  bake?\n\nAssistant: With flour.\n\nHuman: And then?\n\nAssistant:"
MESSAGES = (Message("user", "How do I bake?"), Message("assistant", "With flour."), Message("user", "And then?"))


def test_a_text_says_the_same_however_it_is_written():
    assert words(TRANSCRIPT) == words(MESSAGES) == "how do i bake? with flour. and then?"
    assert words("Human: How do I bake?\n\nAssistant: With flour.\n\nHuman: And then?") == words(TRANSCRIPT)
    assert words("The human: a sketch") == "the human: a sketch"  # within a line it is no speaker
    assert words("caf\u0065\u0301") == words("caf\u00e9")


def test_a_pair_is_known_again_whoever_labelled_it_and_however():
    first = Pair(TRANSCRIPT, " Knead it.", "Wait.", user_id="a", group="x")
    assert pair_identity(Pair(MESSAGES, "wait.", "Knead  it.", user_id="b", group="y")) == pair_identity(first)
    assert pair_identity(Pair(MESSAGES, "wait.", "Knead.")) != pair_identity(first)
    assert pair_identity(Pair("How do I bake?", " Knead it.", "Wait.")) != pair_identity(first)


def test_prompts_are_left_aside_as_a_whole_and_in_the_share_asked_for():
    pairs = tuple(Pair(f"p{n % 499}", f"c{n}", f"r{n}", place=f"f:{n}") for n in range(997))
    used, aside = divide(PairTable(pairs), 0.3)
    assert {pair.prompt for pair in used.pairs}.isdisjoint(pair.prompt for pair in aside.pairs)
    assert sorted((*used.pairs, *aside.pairs), key=lambda pair: pair.place) == sorted(pairs, key=lambda p: p.place)
    assert len(aside) / len(pairs) == pytest.approx(0.3, abs=0.04)
    assert used.report.skipped == {REASON: len(aside)}
    assert not aside.report.findings
    more = {pair.prompt for pair in divide(PairTable(pairs), 0.5)[1].pairs}
    assert more > {pair.prompt for pair in aside.pairs}
    assert is_reserved(TRANSCRIPT, 0.5) == is_reserved(MESSAGES, 0.5)


def test_the_world_leaves_aside_what_its_runs_do_not_get():
    whole = DataConfig(users=3, pairs_per_user=13)
    part = whole.model_copy(update={"reserved": 0.4})
    used, aside = load(part).pairs, load_reserved(part).pairs
    assert set(used) | set(aside) == set(load(whole).pairs)
    assert not set(used) & set(aside)
    with pytest.raises(DataError, match=r"data\.reserved=0 leaves no pair aside"):
        load_reserved(whole)


def test_the_key_is_a_share_and_is_not_written_where_it_is_not_set():
    assert "reserved" not in DataConfig().model_dump()
    assert DataConfig(reserved=0.2).model_dump()["reserved"] == 0.2
    with pytest.raises(ConfigError, match=r"A share is a fraction: 30% is 0\.3"):
        DataConfig.parse({"reserved": 30})
