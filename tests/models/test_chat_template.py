"""Chat templates: the pinned day, their arguments, and the fingerprint of what they render."""

from __future__ import annotations

import datetime

import pytest
from transformers.utils import chat_template_utils

from chat_models import TEMPLATES, byte_level
from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.data.schema import Message
from fedvpa.features.config import FeatureConfig
from fedvpa.models.chat_template import ChatTemplate, template_fingerprint
from fedvpa.policy.config import PolicyConfig

ASKED = (Message("user", "Hi"),)


@pytest.mark.unit
@pytest.mark.parametrize("day", [datetime.datetime(2026, 11, 27), datetime.datetime(2031, 1, 2)])
def test_a_template_believes_in_one_day(monkeypatch, day):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return day

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    written = ChatTemplate(byte_level("dated")).write(ASKED, opened=True)
    assert written.startswith("<|im_start|>system\nToday is 26 Jul 2024<|im_end|>\n<|im_start|>user\nHi")


@pytest.mark.unit
@pytest.mark.parametrize("form", ["%d %b %Y", "%A, %-d %B %y", "%Y-%m-%d %H:%M:%S", "%j %p %%", "no code"])
def test_the_clock_writes_what_strftime_writes(form):
    tokenizer = byte_level("dated")
    tokenizer.chat_template = "{{ strftime_now('" + form + "') }}"
    noon = datetime.datetime(2025, 3, 4, 12)
    written = ChatTemplate(tokenizer, {"today": "2025-03-04"}).write(ASKED, opened=True)
    assert written == noon.strftime(form)


@pytest.mark.unit
def test_the_clock_changes_no_white_space_of_a_template():
    for text in ("\n{{ 'a' }}", "  {% if true %}a{% endif %}", "a\n\nb", "{%- if true %} a{% endif %}"):
        tokenizer = byte_level("chatml")
        tokenizer.chat_template = text
        plain = ChatTemplate(tokenizer).write(ASKED, opened=True)
        tokenizer.chat_template = text + "{% if false %}{{ strftime_now('%Y') }}{% endif %}"
        assert ChatTemplate(tokenizer).write(ASKED, opened=True) == plain


@pytest.mark.unit
def test_whatever_changes_what_a_template_renders_changes_its_fingerprint():
    known = template_fingerprint(byte_level("dated"))
    assert template_fingerprint(byte_level("dated"), {"today": "2024-07-26"}) == known
    others = [
        template_fingerprint(byte_level("dated"), {"today": "2024-07-27"}),
        template_fingerprint(byte_level("chatml")),
        template_fingerprint(byte_level("think")),
        template_fingerprint(byte_level("think"), {"enable_thinking": False}),
        template_fingerprint(byte_level("turns")),
        template_fingerprint(byte_level("deaf")),
        template_fingerprint(byte_level(None)),
        template_fingerprint(byte_level(None, bos=True)),
    ]
    assert len({known, *others}) == 1 + len(others)
    merged = byte_level("dated")
    merged.chat_template = TEMPLATES["dated"].replace("system", "System")
    assert template_fingerprint(merged) != known


@pytest.mark.unit
def test_a_template_that_draws_lots_is_refused():
    tokenizer = byte_level("chatml")
    tokenizer.chat_template = "{{ range(9999) | random }}" + TEMPLATES["chatml"]
    with pytest.raises(ModelError, match="writes the same conversation differently each time"):
        template_fingerprint(tokenizer)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"today": "26 Jul 2024"}, "which is no day"),
        ({"messages": []}, "given by fedvpa itself"),
        ({"add_generation_prompt": False}, "given by fedvpa itself"),
        ({"thing": object()}, "cannot be kept"),
    ],
)
def test_arguments_that_cannot_be_given_are_refused_at_once(arguments, words):
    for section in (FeatureConfig, PolicyConfig):
        with pytest.raises(ConfigError, match=words):
            section.parse({"template_arguments": arguments})
    if "thing" not in arguments:
        with pytest.raises(ConfigError, match=words):
            ChatTemplate(byte_level("dated"), arguments).write(ASKED, opened=True)


@pytest.mark.unit
def test_a_date_of_yaml_is_a_day():
    config = FeatureConfig.parse({"template_arguments": {"today": datetime.date(2025, 3, 4)}})
    assert config.template_arguments == {"today": "2025-03-04"}


@pytest.mark.equivalence
@pytest.mark.parametrize("name", ["chatml", "dated", "think", "turns"])
def test_a_served_template_writes_by_itself_what_ours_writes_with_its_arguments(name):
    tokenizer, stock = byte_level(name), byte_level(name)
    arguments = {
        "today": "2025-03-04",
        "enable_thinking": False,
        "note": 'a "null" \n é',
        "nothing": None,
        "list": [1, None],
    }
    ours = ChatTemplate(tokenizer, arguments)
    stock.chat_template = ours.served()
    if name == "chatml":
        stock.chat_template += "{{ note }}{{ nothing }}{{ list }}"
    asked = [{"role": "user", "content": "Hi"}]
    written = stock.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert written == ours.write(ASKED, opened=True) + ('a "null" \n éNone[1, None]' if name == "chatml" else "")
    if name == "think":
        other = stock.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        assert other == written + "<think>\n", "an argument of the template is a default"
    assert ChatTemplate(byte_level(None)).served() is None
