"""What a run promises its users, from the key ``privacy`` of its ``metrics.json``, as sentences and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvpa.privacy.canaries import SAID as CANARIES

SIMULATION = (
    "Simulation: seeded noise. Coins and noise follow from the run's seed, and whoever knows the seed can take the "
    "noise away, so this training is private to nobody. ε is what the same training costs with a secret key."
)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """ε in both readings with δ, unit and relation, how it was reached, what it covers and what not.

    Args:
        found: What ``metrics.json`` has under ``privacy``.
    """
    said = [
        f"User-level differential privacy: ε = {found['epsilon_released']:.3g} at δ = {found['delta']:.2g} for whoever "
        f"sees what is released and not who took part; ε = {found['epsilon_server']:.3g} for whoever also sees who "
        "took part. Neither holds for the machine that added the noise.",
        f"Unit: {found['unit']}. Neighbouring federations: {found['relation']}.",
        f"Reached by clipping each user's update and by Gaussian noise on the sum of each round, with noise multiplier "
        f"{found['noise_multiplier']:.4g}, in {found['rounds']} rounds in each of which a user takes part with "
        f"probability {found['rate']:.3g}.",
        f"Covered: {found['covered']}.",
        f"Not covered: {found['not_covered']}.",
    ]
    said += [f"{CANARIES[0].upper()}{CANARIES[1:]}."] if found.get("canaries") else []
    return [*said, SIMULATION] if found["seeded"] else said


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as names and values."""
    clip = found["clip"]
    clips = ", ".join(f"{part} {value:.3g}" for part, value in clip.items()) if isinstance(clip, Mapping) else f"{clip}"
    planted = [(CANARIES, f"{found['canaries']}")] if found.get("canaries") else []
    return [
        *planted,
        ("ε for whoever does not see who took part (epsilon_released)", f"{found['epsilon_released']:.3g}"),
        ("ε for whoever sees who took part (epsilon_server)", f"{found['epsilon_server']:.3g}"),
        ("δ", f"{found['delta']:.2g}"),
        ("unit", str(found["unit"])),
        ("neighbouring federations", str(found["relation"])),
        ("noise multiplier", f"{found['noise_multiplier']:.4g}"),
        ("probability to take part in a round", f"{found['rate']:.3g}"),
        ("rounds released", f"{found['rounds']}"),
        ("longest change of one user, at the end", clips),
        ("covered", str(found["covered"])),
        ("not covered", str(found["not_covered"])),
    ]
