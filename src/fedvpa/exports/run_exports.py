"""The policies of a run, exported: which preferences, into which folders, with which guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedvpa.core.files import empty_folder, new_folder, read_own_text, write_text
from fedvpa.exports import guides
from fedvpa.exports.adapters import check_is_lora, rank_for_vllm, what_servers_lack, write_adapter
from fedvpa.exports.baked import check_bakeable, tokens_of, write_baked
from fedvpa.exports.merged import check_mergeable, write_merged
from fedvpa.exports.profiles import Profile, kind_of, only_policy, profiles_of
from fedvpa.exports.reading import write_template
from fedvpa.policy.files import read_policy
from fedvpa.policy.origin import base_in_words, locate_base
from fedvpa.policy.policy import Policy
from fedvpa.policy.preference import Preference, shareable
from fedvpa.policy.templates import with_base
from fedvpa.runs.card import PRIVACY_HEADING
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_user import NewUser
from fedvpa.runs.policies import Aligned, aligned_config, open_aligned, read_policy_metrics

EXACT = ("policy.precision=float32", "features.device=cpu")
"""How a policy is opened to be merged: sums of weights are rounded once, when they are written."""

README = "README.md"


@dataclass(frozen=True)
class Export:
    """What an export is made of.

    Attributes:
        run: The run.
        folder: Where to, as the user gave it.
        preferences: From :func:`~fedvpa.exports.profiles.named`.
        new: How ``@pairs.jsonl`` is read, and where language models are now.
    """

    run: RunFolder
    folder: Path
    preferences: Mapping[str, Preference]
    new: NewUser


def export_merged(asked: Export) -> dict[str, Path]:
    """Write one plain model, or one for each of several preferences; name → its folder.

    A policy with a soft prefix gives one model for all, and the preferences name what stands in ``profiles.json``.

    Raises:
        ConfigError: For an unknown or missing preference.
        ModelError: If the base is not found, is another one, or is quantised.
        RunError: If the run holds no policy, or the folder holds files.
    """
    folder = empty_folder(asked.folder, "an export")
    _check_bases(asked, check_mergeable)
    aligned = _open(asked)
    policy = only_policy(aligned)
    if kind_of(policy) == "soft_prefix":
        return _export_for_embeddings(asked, aligned, policy, folder)
    profiles = profiles_of(asked.run, aligned, asked.preferences, asked.new)
    alone = len(profiles) == 1
    places = {}
    with new_folder(folder) as made:
        for profile in profiles:
            place = made if alone else made / profile.name
            place.mkdir(exist_ok=True)
            one = _fresh(aligned, profile, alone)
            about = _about(asked.run, profile, one, str(asked.folder if alone else asked.folder / profile.name))
            named = profile.name if asked.preferences else None
            write_merged(one, _latent(profile), place, {})
            write_text(place / README, guides.merged_guide(about, named))
            places[profile.name] = folder if alone else folder / profile.name
    return places


def export_adapters(asked: Export) -> dict[str, Path]:
    """Write a PEFT adapter for each preference; name → its folder. Raises as above, and for z that no LoRA holds."""
    folder = empty_folder(asked.folder, "an export")
    _check_kinds(asked, lambda saved: check_is_lora(saved["kind"] if saved else None))
    aligned = _open(asked)
    profiles = profiles_of(asked.run, aligned, asked.preferences, asked.new)
    with new_folder(folder) as made:
        for profile in profiles:
            one = _fresh(aligned, profile, len(profiles) == 1)
            (made / profile.name).mkdir()
            write_adapter(one, _latent(profile), made / profile.name)
        write_template(one.tokenizer.encoder.renderer.template, made)
        names = [profile.name for profile in profiles]
        about = _about(asked.run, profiles[0], one, str(asked.folder))
        write_text(made / README, guides.adapters_guide(about, names, rank_for_vllm(one), what_servers_lack(one)))
    return {name: folder / name for name in names}


def export_baked(asked: Export) -> dict[str, Path]:
    """Write one model whose vocabulary has a profile for each preference; name → the folder of all.

    Raises:
        ConfigError: As above, and if tokens cannot stand for what z does.
        ModelError: As above, and if the model would say a profile token.
        RunError: As above.
    """
    folder = empty_folder(asked.folder, "an export")
    _check_bases(asked, check_mergeable)
    aligned = _open(asked)
    policy = only_policy(aligned)
    conditioner = check_bakeable(policy.conditioner)
    profiles = profiles_of(asked.run, aligned, asked.preferences, asked.new)
    latents = {profile.name: profile.z for profile in profiles if profile.z is not None}
    about = _about(asked.run, profiles[0], policy, str(asked.folder))
    with new_folder(folder) as made:
        write_baked(policy, latents, made)
        spelled = {name: tokens_of(name, conditioner.tokens) for name in latents}
        write_text(made / README, guides.baked_guide(about, spelled))
    return dict.fromkeys(latents, folder)


def _export_for_embeddings(asked: Export, aligned: Aligned, policy: Policy, folder: Path) -> dict[str, Path]:
    conditioner = policy.conditioner
    profiles: Mapping[str, Sequence[float]] = shareable(policy.preferences, policy.prototypes)[0]
    if asked.preferences:
        several = profiles_of(asked.run, aligned, asked.preferences, asked.new)
        profiles = {one.name: one.z for one in several if one.z is not None}
    name = next(iter(aligned.policies))
    about = _about(asked.run, Profile("", name, None), policy, str(asked.folder))
    heads, places = policy.layout.heads, {one: folder for one in profiles} or {"policy": folder}
    with new_folder(folder) as made:
        write_merged(policy, None, made, profiles)
        if conditioner is not None:
            guide = guides.embeds_guide(about, list(profiles), conditioner.placement, conditioner.tokens, heads)
            write_text(made / README, guide)
    return places


def _open(asked: Export) -> Aligned:
    return open_aligned(asked.run, (*asked.new.overrides, *EXACT))


def _fresh(aligned: Aligned, profile: Profile, alone: bool) -> Policy:
    """A policy that an export may use up: the one that is open if no other profile needs it."""
    policy = aligned.policies[profile.policy]
    return policy if alone or policy.again is None else policy.again().eval()


def _latent(profile: Profile) -> Tensor | None:
    return None if profile.z is None else torch.tensor(list(profile.z))


def _check_bases(asked: Export, check: Callable[[str | None, Path], None]) -> None:
    """Look at the base of each policy before anything large is read."""
    config = aligned_config(asked.run, asked.new.overrides)
    here = with_base(config.policy, config.features)
    for name in read_policy_metrics(asked.run)["policies"]:
        source = locate_base(here, read_policy(asked.run.policy / name))
        check(source.loading.quantization, source.folder)


def _check_kinds(asked: Export, check: Callable[[Mapping[str, str] | None], None]) -> None:
    """Look at how z enters each policy before anything large is read."""
    for name in read_policy_metrics(asked.run)["policies"]:
        check(read_policy(asked.run.policy / name)["conditioner"])


def _about(run: RunFolder, profile: Profile, policy: Policy, folder: str) -> guides.About:
    tokenizer = policy.tokenizer
    return guides.About(
        folder=folder,
        base=base_in_words(policy.source),
        stops=[str(tokenizer.base.convert_ids_to_tokens(token)) for token in tokenizer.stops.tokens],
        texts=[end for _, end in tokenizer.stops.texts],
        temperature=policy.sampling.temperature,
        chat=bool(tokenizer.base.chat_template),
        privacy=privacy_of(run, profile.policy),
    )


def privacy_of(run: RunFolder, name: str) -> str:
    """What the card of a policy says left the users' devices; empty where it has no card."""
    card = run.policy / name / README
    if not card.is_file():
        return ""
    return read_own_text(card).partition(f"{PRIVACY_HEADING}\n")[2].rpartition("\nUse: ")[0].strip()
