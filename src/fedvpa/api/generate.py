"""``fedvpa generate``: the aligned policy's answers under a preference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.api.profiles import PROFILE, z_of_profile
from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option
from fedvpa.core.short_repr import short_repr
from fedvpa.data.messages import Prompt, as_texts, with_system
from fedvpa.data.prompt_files import read_prompts
from fedvpa.data.schema import Text
from fedvpa.policy.sampling import check_sampling
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.policy.preference import Preference


@dataclass(frozen=True)
class Answer:
    """A prompt and what the policy answered.

    Attributes:
        prompt: As the policy was asked: a string, or the messages of a conversation, the system's included.
        response: The answer.
    """

    prompt: str | Sequence[Mapping[str, str]]
    response: str


@dataclass(frozen=True, repr=False)
class GenerateResult:
    """Answers under one preference.

    Attributes:
        run: The run directory.
        preference: As it was asked for; ``z`` where it was numbers.
        z: What the policy followed, k numbers; None for a policy without z.
        answers: One for each prompt.
    """

    run: Path
    preference: str | None
    z: Sequence[float] | None
    answers: Sequence[Answer]

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"run": str(self.run), "answers": [asdict(answer) for answer in self.answers]}


def generate(
    run: str | PathLike[str],
    prompts: Prompt | Sequence[Prompt] = (),
    preference: Preference | None = None,
    *,
    messages: str | PathLike[str] | None = None,
    system: str | None = None,
    user: str | None = None,
    columns: Mapping[str, str] | None = None,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> GenerateResult:
    """Answers of the policy of ``run``.

    ``fedvpa.Policy.from_pretrained(run).generate(prompts, preference=…)`` is the same for preferences that need nothing
    but the policy.

    Args:
        run: An aligned run directory.
        prompts: One answer to each: strings, or lists of messages with ``role`` and ``content``; a single prompt may be
            given alone. A string is one message of the user, if the run's data are conversations.
        messages: A JSON or JSONL file of further prompts; see :func:`fedvpa.data.prompt_files.read_prompts`.
        system: The text of a system turn in front of each prompt.
        preference: The name of a group (``helpful``), a user's id, ``profile:NAME`` (a user whom
            :func:`fedvpa.profiles` keeps), ``@pairs.jsonl`` (a new user's labelled pairs), the number of a prototype
            (``0``, ``1``) or one between two (``0.3``: 0.7 of prototype 0 and 0.3 of prototype 1), or z itself; None
            for a policy without z. A group comes before a user, and a user before a prototype; ``group:``, ``user:``
            and ``prototype:`` in front of the name say which is meant.
        user: The user whose pairs to use, where ``@pairs.jsonl`` holds those of several.
        columns: Our name of a column → its name in ``@pairs.jsonl``; see :func:`fedvpa.personalize`.
        temperature: 0 for greedy decoding.
        top_p: Nucleus.
        max_new_tokens: Longest answer; by default that of the candidates.
        seed: Names the draws.
        overrides: Where data and language model are now.

    Raises:
        ConfigError: For an unknown preference or user (the known ones are listed), or one that the policy cannot
            follow; or if there is no prompt.
        DataError: If a prompt cannot be read, or the base model's chat template refuses it.
        RunError: If the run holds no policy.
    """
    texts = _asked(prompts, messages, system)
    check_sampling(temperature, top_p, max_new_tokens)
    folder = RunFolder.open(run)
    from fedvpa.runs.chosen import chosen
    from fedvpa.runs.new_user import NewUser
    from fedvpa.runs.policies import open_aligned

    aligned = open_aligned(folder, overrides)
    asked = str(preference) if isinstance(preference, int | float) else preference
    from_file = isinstance(asked, str) and asked.startswith("@")
    if asked == "@":
        raise ConfigError("No file stands behind the @.", fix="Give @pairs.jsonl.", where=option("preference"))
    if not from_file and (user is not None or columns):
        extra = option("columns" if columns else "user")
        raise ConfigError(
            f"{extra} is about a file of pairs, and none is given.", fix="Give @pairs.jsonl, or leave it out."
        )
    kept = isinstance(asked, str) and asked.startswith(PROFILE)
    wanted = z_of_profile(folder, str(asked), overrides) if kept else asked
    policy, z = chosen(folder, aligned, wanted, NewUser(user, columns, overrides))
    responses = policy.generate(
        texts, preference=z, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed
    )
    answers = [Answer(_shown(text), response) for text, response in zip(texts, responses, strict=True)]
    return GenerateResult(folder.path, asked if asked is None or isinstance(asked, str) else "z", z, answers)


def _asked(prompts: Prompt | Sequence[Prompt], messages: str | PathLike[str] | None, system: str | None) -> list[Text]:
    """The prompts of a call, in order."""
    texts = [] if isinstance(prompts, Sequence) and not len(prompts) else as_texts(prompts)
    if messages is not None:
        texts += read_prompts(Path(messages))
    if not texts:
        raise ConfigError("There is no prompt to answer.", fix=f"Give {option('prompt')} or {option('messages')}.")
    return texts if system is None else [with_system(text, system) for text in texts]


def _shown(text: Text) -> str | list[dict[str, str]]:
    """A prompt as JSON has it."""
    if isinstance(text, str):
        return text
    return [{"role": message.role, "content": message.content} for message in text]
