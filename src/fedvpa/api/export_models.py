"""``fedvpa export merged | adapters | baked | hub``: a policy in the forms that other programs run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedvpa.api.profiles import PROFILE, z_of_profile
from fedvpa.core.files import user_path
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.exports.run_exports import Export
    from fedvpa.policy.preference import Preference

    Preferences = Sequence[Preference] | Mapping[str, Preference]

Form = Literal["merged", "adapters", "baked"]


@dataclass(frozen=True)
class ExportedPolicy:
    """A policy as other programs run it.

    Attributes:
        folder: Where; its README.md says how servers take it.
        form: ``merged``, ``adapters`` or ``baked``.
        profiles: Name of each preference → the folder that answers under it; ``policy`` for a policy without z.
    """

    folder: Path
    form: Form
    profiles: Mapping[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        places = {name: str(place) for name, place in self.profiles.items()}
        return {"folder": str(self.folder), "form": self.form, "profiles": places}


@dataclass(frozen=True)
class ExportedHub:
    """What the hub is given.

    Attributes:
        folder: Where it lies here.
        files: All that is in it.
        policies: The names of its policies: ``""`` for one for all.
        left_out: Preferences that the run knows by name and the folder does not, since their z is made from users'.
        results: How many measured results the card has.
        url: Where it was pushed to; None if it was not.
    """

    folder: Path
    files: Sequence[str]
    policies: Sequence[str]
    left_out: Sequence[str]
    results: int
    url: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.folder),
            "files": list(self.files),
            "policies": list(self.policies),
            "left_out": list(self.left_out),
            "results": self.results,
            "url": self.url,
        }


def export_merged(
    run: str | PathLike[str],
    folder: str | PathLike[str],
    preferences: Preferences = (),
    *,
    user: str | None = None,
    columns: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> ExportedPolicy:
    """Write a policy as a plain Hugging Face model, with tokenizer, chat template and generation settings.

    A policy whose z is in its LoRA or in all embeddings gives a model for each preference: in ``folder``, or in
    ``folder/NAME`` if there are several. One whose z is a soft prefix gives one model for all, with
    ``z_conditioner.safetensors``, and callers give embeddings of the prompt. Merging is done in float32 on the CPU,
    which needs four bytes of memory for each weight; what is written has the precision in which the base is stored.

    Args:
        run: An aligned run directory.
        folder: Where to; must be empty or not exist.
        preferences: As of :func:`fedvpa.generate`, several; or name → preference. None for a policy without z.
        user: The user whose pairs to use, where ``@pairs.jsonl`` holds those of several.
        columns: Our name of a column → its name in ``@pairs.jsonl``.
        overrides: Where data and language models are now.

    Raises:
        ConfigError: For a preference that is unknown, missing, or that the policy cannot follow.
        ModelError: If the base is not found, is another one, or is quantised; or if the stock tokenizer of transformers
            would give other tokens than the policy was trained on.
        RunError: If the run holds no policy, or ``folder`` holds files.
        StorageError: If the folder cannot be written.
    """
    from fedvpa.exports import run_exports

    asked = _asked(run, folder, preferences, user, columns, overrides)
    return ExportedPolicy(asked.folder, "merged", run_exports.export_merged(asked))


def export_adapters(
    run: str | PathLike[str],
    folder: str | PathLike[str],
    preferences: Preferences = (),
    *,
    user: str | None = None,
    columns: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> ExportedPolicy:
    """Write an ordinary PEFT adapter for each preference, in ``folder/NAME``: what vLLM's ``--lora-modules`` takes.

    Arguments and errors are those of :func:`export_merged`; the base may be quantised. A ConfigError also says that
    under this conditioning no LoRA holds z, and which export fits.
    """
    from fedvpa.exports import run_exports

    asked = _asked(run, folder, preferences, user, columns, overrides)
    return ExportedPolicy(asked.folder, "adapters", run_exports.export_adapters(asked))


def export_baked(
    run: str | PathLike[str],
    folder: str | PathLike[str],
    preferences: Preferences = (),
    *,
    user: str | None = None,
    columns: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> ExportedPolicy:
    """Write one plain model with a profile for each preference in its vocabulary, for any server.

    For policies with an inserted soft prefix, as those of releases up to 0.4. The chat template has a variable
    ``profile``. Arguments and errors are those of :func:`export_merged`. A ConfigError also says that tokens cannot
    stand for what z does under this conditioning, and which export fits; a ModelError, that the model would say one.
    """
    from fedvpa.exports import run_exports

    asked = _asked(run, folder, preferences, user, columns, overrides)
    return ExportedPolicy(asked.folder, "baked", run_exports.export_baked(asked))


def export_hub(
    run: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    push: str | None = None,
    public: bool = False,
    overrides: Sequence[str] = (),
) -> ExportedHub:
    """Write what the Hugging Face hub is given: adapter, tokenizer and a card, and nothing of a user.

    ``fedvpa.Policy.from_pretrained`` and PEFT open the folder. The card has the base by hub id and revision, results
    that were measured, and what left users' devices, with ε and δ where the run has them.

    Args:
        run: An aligned run directory.
        folder: Where to; must be empty or not exist.
        push: A repository of the hub to make, if it is not there, and to upload the folder to, such as ``me/policy``.
            Who pushes has to be logged in (``hf auth login``).
        public: Whether a new repository can be read by everybody.
        overrides: Where others have the language models, such as ``policy.model=HUB_ID``; checked by content.

    Raises:
        ConfigError: For another override, or a name that no repository can have.
        ModelError: If a language model that was named is not the one that was trained with, or, to push, the base is
            none of the hub.
        RunError: If the run holds no policy, another program writes to it, or ``folder`` holds files.
        StorageError: If the folder cannot be written, or the hub refuses it.
    """
    from fedvpa.exports.hub import check_repository, push_folder, write_hub_folder

    if push is not None:
        check_repository(push)
    source, place = RunFolder.open(run), user_path(folder)
    with source.locked():
        made = write_hub_folder(source, place, overrides, for_hub=push is not None)
    url = None if push is None else push_folder(made.folder, push, private=not public)
    return ExportedHub(made.folder, made.files, made.policies, made.left_out, made.results, url)


def _asked(
    run: str | PathLike[str],
    folder: str | PathLike[str],
    preferences: Preferences,
    user: str | None,
    columns: Mapping[str, str] | None,
    overrides: Sequence[str],
) -> Export:
    from fedvpa.exports.profiles import named
    from fedvpa.exports.run_exports import Export
    from fedvpa.runs.new_user import NewUser

    source = RunFolder.open(run)
    given = {
        name.removeprefix(PROFILE): z_of_profile(source, one, overrides)
        if isinstance(one, str) and one.startswith(PROFILE)
        else one
        for name, one in named(preferences).items()
    }
    return Export(source, user_path(folder), given, NewUser(user, columns, overrides))
