"""A policy for the Hugging Face hub: adapter, tokenizer and card; nothing of a user, and no path of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from fedvpa.core.errors import ConfigError, ModelError, StorageError
from fedvpa.core.files import empty_folder, new_folder, read_own_text, write_json, write_text
from fedvpa.core.progress import say
from fedvpa.core.version import __version__
from fedvpa.deployment.release import check_places, told, write_policy
from fedvpa.exports.reading import Reading, write_tokenizer
from fedvpa.policy.files import PREFERENCES, read_policy, read_preferences
from fedvpa.policy.origin import locate_base
from fedvpa.policy.preference import known, shareable
from fedvpa.policy.templates import with_base
from fedvpa.runs.card import PRIVACY_HEADING
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import aligned_config, read_policy_metrics

CARD = """\

# A policy aligned with fedvpa ({method})

{about}

{base} Made by fedvpa {version}.

## Use

With fedvpa{follow}:

```python
import fedvpa

policy = fedvpa.Policy.from_pretrained({folder!r})
print(policy.generate("How do I plan a picnic?"{preference}))
```

With PEFT alone{alone}:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({model!r}{revision})
model = PeftModel.from_pretrained(base, {folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
```

{privacy}
{results}"""

RESULTS = """
## Results

Answers to prompts that no training saw, against those of the base policy; the judge was `{judge}`.

| preference | users | win rate | 95% interval, of this policy | prompts |
|---|---|---|---|---|
{rows}
"""


@dataclass(frozen=True)
class HubFolder:
    """What was written.

    Attributes:
        folder: Where.
        files: All files, relative to it.
        policies: The names of the policies: ``""`` for one for all.
        left_out: Preferences by name whose z is made from users' own.
        results: How many measured results the card has.
    """

    folder: Path
    files: tuple[str, ...]
    policies: tuple[str, ...]
    left_out: tuple[str, ...]
    results: int


@dataclass(frozen=True)
class Measured:
    """A win rate against the base policy.

    Attributes:
        preference: Under which it was judged.
        users: ``seen`` or ``unseen``.
        rate: In [0, 1]; a tie counts one half.
        interval: At 95%; None where the data cannot bound it.
        prompts: Different prompts.
    """

    preference: str
    users: str
    rate: float
    interval: tuple[float, float] | None
    prompts: int


def measured_of(metrics: Mapping[str, Any]) -> list[Measured]:
    """What ``policy/metrics.json`` says after ``fedvpa evaluate RUN --policy``; nothing before it."""
    found = []
    for summary in metrics.get("policy_summary", ()):
        for users, one in (("seen", summary), ("unseen", summary["unseen"])):
            for name, own in (one or {"preferences": {}})["preferences"].items():
                if own["win_rate"] is not None:
                    interval = None if own["ci95"] is None else tuple(own["ci95"])
                    found.append(Measured(name, users, own["win_rate"], interval, own["prompts"]))
    return found


def write_hub_folder(run: RunFolder, folder: Path, places: Sequence[str], *, for_hub: bool) -> HubFolder:
    """Write the folder.

    Args:
        run: An aligned run.
        folder: Where to; must be empty or not exist.
        places: Where others have the language models, such as ``policy.model=HUB_ID``.
        for_hub: Whether it will be pushed, so that its base must be one of the hub.

    Raises:
        ConfigError: For an override of anything else.
        RunError: If the run holds no policy, or ``folder`` holds files.
        ModelError: If a language model is not the one that was trained with, or none of the hub where it must be.
        StorageError: If the folder cannot be written.
    """
    check_places(places)
    folder = empty_folder(folder, "an export")
    metrics, config = read_policy_metrics(run), aligned_config(run, places)
    names, measured = tuple(metrics["policies"]), measured_of(metrics)
    if not measured:
        say(
            f"{run} holds no measured results of its policy, so the card has none. "
            f"First: fedvpa evaluate {run} --policy"
        )
    with new_folder(folder) as made:
        for name in names:
            write_policy(run.policy / name, made / name, run.config(places), told(places))
        saved = read_policy(made / names[0])
        if for_hub and saved["origin"] != "hub":
            raise ModelError(
                f"The base of this policy is {saved['model']!r}, which is no model of the hub, so nobody there could "
                "load it.",
                fix="Say which model of the hub it is, if it is one (its content is checked): policy.model=HUB_ID.",
            )
        base = locate_base(with_base(config.policy, config.features), read_policy(run.policy / names[0]))
        write_tokenizer(Reading.saved(saved, base), made)
        shared, left_out = shareable(read_preferences(run.policy), saved.get("prototypes", ()))
        if saved["conditioner"] is not None:
            write_json(made / PREFERENCES, shared)
        card = _card(made, names, saved, shared, metrics, measured)
        write_text(made / "README.md", card)
    files = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
    return HubFolder(folder, files, names, left_out if saved["conditioner"] is not None else (), len(measured))


def check_repository(name: str) -> None:
    """Raise ConfigError for what no repository of the hub can be called."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is no name of a repository: {error}", fix="Give one such as me/policy.") from error


def push_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder, with a commit of its own; makes the repository if it is not there.

    Args:
        folder: From :func:`write_hub_folder`.
        repository: Its id.
        private: Whether a new repository is for its owner alone.

    Returns:
        The repository's address.

    Raises:
        StorageError: If the hub refuses or cannot be reached; the folder stays.
    """
    api = HfApi(library_name="fedvpa", library_version=__version__)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Policy, by fedvpa {__version__}")
    except (HTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        fix = f"Log in (hf auth login) or check the connection; the folder is whole: hf upload {repository} {folder}"
        raise StorageError(repository, reason.rstrip("."), fix=fix) from error
    return str(url)


def _card(
    made: Path,
    names: Sequence[str],
    saved: Mapping[str, Any],
    shared: Mapping[str, Sequence[float]],
    metrics: Mapping[str, Any],
    measured: Sequence[Measured],
) -> str:
    """The model card: what training said about the policy, how it is used, and what was measured."""
    about, _, rest = read_own_text(made / names[0] / "README.md").partition(PRIVACY_HEADING)
    judge = metrics.get("policy_judge", "")
    data = ModelCardData(
        library_name="peft",
        base_model=saved["model"] if saved["origin"] == "hub" else None,
        tags=["fedvpa", "dpo", "lora"],
        model_name=f"fedvpa {metrics['method']}" if measured else None,
        eval_results=[_result(one, judge) for one in measured] or None,
    )
    follows = saved["conditioner"] is not None
    text = CARD.format(
        method=metrics["method"],
        about=about.partition("\n# ")[2].strip().split("\n\n")[1],
        base=_base(saved),
        version=__version__,
        follow=f", which follows z; it knows {known(shared, saved.get('prototypes', ()))}" if follows else "",
        folder=f"FOLDER/{names[0]}" if names[0] else "FOLDER",
        preference=f", preference={next(iter(shared), '0')!r}" if follows else "",
        alone=", which knows no z: under a gated LoRA as if every gate were open" if follows else "",
        model=saved["model"],
        revision=f", revision={saved['revision']!r}" if saved.get("revision") else "",
        privacy=f"{PRIVACY_HEADING}\n\n{rest.rpartition(f'{chr(10)}Use: ')[0].strip()}",
        results=_table(measured, judge) if measured else "",
    )
    return f"---\n{data.to_yaml()}\n---\n{text}"


def _base(saved: Mapping[str, Any]) -> str:
    if saved["origin"] == "hub":
        return f"The base is `{saved['model']}`, at the revision `{saved['revision']}`."
    return f"The base is `{saved['model']}`, with the content `{saved['base']}`; another one is refused."


def _result(one: Measured, judge: str) -> EvalResult:
    """An entry of the card's model-index."""
    return EvalResult(
        task_type="text-generation",
        dataset_type="private",
        dataset_name="prompts held out of training",
        metric_type="win_rate",
        # What tells two results apart stands here: the hub joins results of one task and one data set.
        metric_name=f"win rate against the base, preference {one.preference!r}, {one.users} users, judge {judge!r}",
        metric_value=one.rate,
        metric_config=f"{one.prompts} prompts",
    )


def _table(measured: Sequence[Measured], judge: str) -> str:
    rows = [
        f"| {one.preference} | {one.users} | {one.rate:.2f} | "
        f"{'' if one.interval is None else f'[{one.interval[0]:.2f}, {one.interval[1]:.2f}]'} | {one.prompts} |"
        for one in measured
    ]
    return RESULTS.format(judge=judge, rows="\n".join(rows))
