"""Plugin packages as pip leaves them behind, without pip: modules, and a .dist-info folder with entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent


def install(site: Path, name: str, points: Mapping[str, Mapping[str, str]], code: str = "") -> Path:
    """Put a package into ``site``, which the test then has on its path.

    Args:
        site: The folder.
        name: Of the distribution and of its only module.
        points: Group → name → ``module:attribute``.
        code: The module.
    """
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, entries in points.items():
        lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / f"{name}.py").write_text(dedent(code))
    return site
