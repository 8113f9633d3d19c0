"""``fedvpa personalize --interactive``: a new user's latent from answers to questions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.api.profiles import profiles
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import user_path
from fedvpa.core.options import option
from fedvpa.core.short_repr import short_repr

if TYPE_CHECKING:
    from fedvpa.serving.pool import Question
    from fedvpa.serving.profiles import Profile


@dataclass(frozen=True, repr=False)
class TeachResult:
    """What a user was asked.

    Attributes:
        run: The run directory.
        answered: How many questions were answered this time.
        profile: What is known of the user now.
        kept: The profile's name, or the file of pairs.
    """

    run: Path
    answered: int
    profile: Profile
    kept: str

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": str(self.run),
            "answered": self.answered,
            "profile": self.profile.to_dict(),
            "kept": self.kept,
        }


def teach(
    run: str | PathLike[str],
    ask: Callable[[Question, Profile], str],
    *,
    profile: str | None = None,
    out: str | PathLike[str] | None = None,
    pool: str | PathLike[str] | None = None,
    questions: int | None = None,
    overrides: Sequence[str] = (),
) -> TeachResult:
    """Ask a user which of two responses they like better, each time about the pair that says most about their z.

    Every answer is kept before the next question, so that whatever ends it loses none.

    Args:
        run: A run directory with a trained selector, or a release.
        ask: (the question, what is known of the user so far) → ``A``, ``B``, ``tie``, ``skip`` or ``quit``.
        profile: Keep the answers in this profile of the run; it is made if it is not there, else gone on with.
        out: Keep them in this file instead, as JSON lines that ``personalize`` reads; it must not exist.
        pool: A table of pairs to ask about; see :func:`fedvpa.profiles`.
        questions: How many answers are wanted; None to go on until ``quit`` or all pairs were asked.
        overrides: Where the language model is now.

    Raises:
        ConfigError: Unless one of ``profile`` and ``out`` is given; and as :func:`fedvpa.profiles`.
        RunError: If ``out`` exists.
        DataError: If there are no pairs to ask, or an answer is none of the five.
    """
    if (profile is None) == (out is None):
        raise ConfigError(
            f"The answers are kept in a profile or in a file, and {'neither' if out is None else 'both'} is given.",
            fix=f"Give {option('profile', 'NAME')} or {option('out', 'FILE')}.",
        )
    file = None if out is None else user_path(out)
    if file is not None and file.exists():
        raise RunError("exists already, perhaps with labels in it.", fix="Give another file.", where=str(file))
    from fedvpa.serving.teaching import teach as ask_all
    from fedvpa.serving.teaching import write_judged

    with ExitStack() as inside:
        folder = None if file is None else inside.enter_context(tempfile.TemporaryDirectory())
        store = None if folder is None else Path(folder) / "profiles.sqlite3"
        kept = inside.enter_context(profiles(run, store=store, pool=pool, overrides=overrides))
        name = profile if profile is not None else "answers"
        if name not in kept.names():
            kept.create(name)

        def keep() -> None:
            if file is not None:
                write_judged(file, kept.export(name))

        answered = ask_all(kept, name, ask, most=questions, after=keep)
        return TeachResult(Path(run), answered, kept.get(name), name if file is None else str(file))
