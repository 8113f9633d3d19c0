"""What a run promises its users, from the key ``privacy`` of its ``metrics.json``, as sentences and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvpa.privacy.canaries import SAID as CANARIES

SIMULATION = (
    "Simulation: seeded noise. Coins and noise follow from the run's seed, and whoever knows the seed can take the "
    "noise away, so this training is private to nobody. ε is what the same training costs with a secret key."
)


def together(found: Mapping[str, Any]) -> str:
    """Both figures of selector and policy together, in a clause; of a policy that clients trained.

    Args:
        found: What a policy's ``metrics.json`` has under ``privacy``.
    """
    both = found["with_selector"]
    return (
        f"selector and policy together, which are of the same users: ε = {both['epsilon_released']:.3g} at δ = "
        f"{both['delta']:.2g}, and ε = {both['epsilon_server']:.3g} for whoever also sees who took part"
    )


READS = "The policy's training read the selector, so that its figures are those of both together."
"""Of a policy whose training the released selector enters."""


def sentences(found: Mapping[str, Any]) -> list[str]:
    """ε in both readings with δ, unit and relation, how it was reached, what it covers and what not.

    Args:
        found: What ``metrics.json`` has under ``privacy``.
    """
    more = " or more" if _in_shares(found) else ""
    said = [
        f"User-level differential privacy: ε = {found['epsilon_released']:.3g} at δ = {found['delta']:.2g} for whoever "
        f"sees what is released and not who took part; ε = {found['epsilon_server']:.3g} for {_against(found)}",
        *_shares(found),
        f"Unit: {found['unit']}. Neighbouring federations: {found['relation']}.",
        f"Reached by clipping each user's update and by Gaussian noise on the sum of each round, with noise multiplier "
        f"{found['noise_multiplier']:.4g}{more}, in {found['rounds']} rounds in each of which a user takes part with "
        f"probability {found['rate']:.3g}.",
        *_moments(found),
        f"Covered: {found['covered']}.",
        f"Not covered: {found['not_covered']}.",
    ]
    if found.get("with_selector"):
        both = together(found)
        said.insert(1, f"{both[0].upper()}{both[1:]}.{f' {READS}' if found['reads_selector'] else ''}")
    said += [f"{CANARIES[0].upper()}{CANARIES[1:]}."] if found.get("canaries") else []
    return [*said, SIMULATION] if found["seeded"] else said


def _moments(found: Mapping[str, Any]) -> list[str]:
    """That features were standardised by users' sums, which both ε count."""
    if found.get("scaling") != "private":
        return []
    return [
        "Before the rounds one sum over all users was released, of means of their features and of the squares, with "
        f"noise multiplier {found['scaling_noise']:.4g}; both ε count it."
    ]


def whoever_sees(found: Mapping[str, Any]) -> str:
    """Against whom ``epsilon_server`` holds, and against whom it does not, in a line."""
    if _in_shares(found):
        return "the server, which sees who took part and has no sum without noise of the nodes"
    return "whoever also sees who took part; neither for the machine that adds the noise"


def repeated(found: Mapping[str, Any]) -> str:
    """That rounds were unmasked more than once, in a clause; empty if none was."""
    more = found.get("unmasked", found["rounds"]) - found["rounds"]
    return f"{more} of the sums belong to rounds that were run again, and are counted" if more else ""


def _in_shares(found: Mapping[str, Any]) -> bool:
    return found.get("noise") == "clients"


def _against(found: Mapping[str, Any]) -> str:
    if _in_shares(found):
        return (
            "the server, which also sees who took part: it was sent integers under masks, and of each round it read "
            "the sum over the nodes that stayed, to which each of them had added noise."
        )
    return "whoever also sees who took part. Neither holds for the machine that added the noise."


def _shares(found: Mapping[str, Any]) -> list[str]:
    """What is assumed where nodes add the noise."""
    if not _in_shares(found):
        return []
    share = found["honest_share"]
    who = "all but one" if share == 1 else f"{share:.0%}"
    assumed = (
        f"Assumed: the server follows the protocol, and of the nodes that had to stay in a round {who} told nobody "
        "their noise. Against the server a user counts as one who took part with nothing, since it sees who takes part."
    )
    again = repeated(found)
    return [assumed, f"{again[0].upper()}{again[1:]}."] if again else [assumed]


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as names and values."""
    clip = found["clip"]
    clips = ", ".join(f"{part} {value:.3g}" for part, value in clip.items()) if isinstance(clip, Mapping) else f"{clip}"
    planted = [(CANARIES, f"{found['canaries']}")] if found.get("canaries") else []
    return [
        *planted,
        ("ε for whoever does not see who took part (epsilon_released)", f"{found['epsilon_released']:.3g}"),
        (
            "ε for the server, which sees who took part (epsilon_server)"
            if _in_shares(found)
            else "ε for whoever sees who took part (epsilon_server)",
            f"{found['epsilon_server']:.3g}",
        ),
        (
            "noise added by",
            "the nodes, before the server reads a sum: both ε hold for it"
            if _in_shares(found)
            else "the server: neither ε holds for it",
        ),
        ("δ", f"{found['delta']:.2g}"),
        *_together(found),
        ("unit", str(found["unit"])),
        ("neighbouring federations", str(found["relation"])),
        ("noise multiplier", f"{found['noise_multiplier']:.4g}"),
        *(
            [("noise multiplier of the sums that features are standardised by", f"{found['scaling_noise']:.4g}")]
            if found.get("scaling") == "private"
            else []
        ),
        ("probability to take part in a round", f"{found['rate']:.3g}"),
        ("rounds released", f"{found['rounds']}" + (f"; {again}" if (again := repeated(found)) else "")),
        ("longest change of one user, at the end", clips),
        ("covered", str(found["covered"])),
        ("not covered", str(found["not_covered"])),
    ]


def _together(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    both = found.get("with_selector")
    if not both:
        return []
    told = [
        ("selector and policy together, epsilon_released", f"{both['epsilon_released']:.3g}"),
        ("selector and policy together, epsilon_server", f"{both['epsilon_server']:.3g}"),
        ("selector and policy together, δ", f"{both['delta']:.2g}"),
    ]
    return [*told, ("the policy's figures", READS)] if found["reads_selector"] else told
