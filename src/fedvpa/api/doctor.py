"""``fedvpa doctor``: what is installed, and whether it works."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.data.schema import Pair, PairTable
from fedvpa.deployment.network import ports, reach
from fedvpa.engines.flower.simulation import FLOWER_VERSIONS, require_flower
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract
from fedvpa.runs.environment import environment

OPTIONAL = ("flwr", "ray", "openai", "peft", "trl", "accelerate")


def doctor(
    *, certificates: Path | None = None, host: str | None = None, superlink: str | None = None
) -> dict[str, Any]:
    """Versions, hardware, cache, optional packages, Flower's ports, and a forward pass of the bundled language model.

    Args:
        certificates: A folder of certificates and keys to check too.
        host: The name or address that the server's certificate has to be valid for.
        superlink: ``HOST:PORT`` of a SuperLink to connect to, with TLS if ``certificates`` is given.

    Returns:
        What was found. ``ok`` is false if something that was asked for or that fedvpa needs does not work;
        ``problems`` says what, and what to do. A port in use is none: it may be Flower's.

    Raises:
        ConfigError: If ``superlink`` is no address, ``host`` is given without ``certificates``, or Flower is missing.
    """
    problems: list[str] = []
    federation = _federation(certificates, host, superlink, problems)
    config = FeatureConfig()
    cache = config.cache_root()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    try:
        pair = Pair("how do i plan a picnic ?", "bring a rug .", "no .")
        store = extract(PairTable((pair,)), load_backbone(config), config)
        if not torch.isfinite(torch.as_tensor(store.chosen.astype("float32"))).all():
            problems.append("The bundled language model gives features that are not finite: reinstall fedvpa.")
    except (FedvpaError, OSError, RuntimeError) as error:
        problems.append(f"The bundled language model does not run: {error}")
    flower = _version("flwr")
    if flower is not None and ".".join(flower.split(".")[:2]) not in FLOWER_VERSIONS:
        accepted = " or ".join(f"{version}.*" for version in FLOWER_VERSIONS)
        problems.append(
            f"flwr {flower} is installed, and engine.name=flower needs {accepted}: pip install 'fedvpa[flower]'."
        )
    if flower is not None and _version("ray") is None:
        problems.append("flwr is installed without its simulation: pip install 'fedvpa[flower]'.")
    return {
        **environment(),
        "feature_cache": str(cache),
        "free_disk_gib": round(shutil.disk_usage(existing).free / 2**30, 1),
        "optional": {name: _version(name) for name in OPTIONAL},
        **federation,
        "problems": problems,
        "ok": not problems,
    }


def _federation(
    certificates: Path | None, host: str | None, superlink: str | None, problems: list[str]
) -> dict[str, Any]:
    """Ports, certificates and the way to the SuperLink, as far as they were asked for."""
    if host is not None and certificates is None:
        raise ConfigError("--host is checked against certificates.", fix="Give --certificates too.")
    found: dict[str, Any] = {"ports": ports()} if _version("flwr") else {}
    if certificates is not None:
        require_flower()
        from fedvpa.deployment.certificates import check_certificates

        checked = check_certificates(certificates, host)
        problems += checked.problems
        found["certificates"] = {"expires": checked.expires, "hosts": list(checked.hosts)}
    if superlink is not None:
        authority = certificates / "ca.crt" if certificates is not None else None
        if authority is not None and not authority.is_file():
            return found
        problem = reach(superlink, authority)
        problems += [problem] if problem else []
        found["superlink"] = "unreachable" if problem else "reachable"
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
