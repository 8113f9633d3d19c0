"""``fedvpa doctor``: what is installed, and whether it works."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.core.options import option

if TYPE_CHECKING:
    from fedvpa.runs.environment import Environment

OPTIONAL = ("flwr", "ray", "openai", "gguf", "fastapi", "uvicorn", "bitsandbytes", "peft", "trl", "accelerate")


@dataclass(frozen=True)
class Certificates:
    """What a folder of certificates is good for.

    Attributes:
        expires: File → the day on which the first certificate in it ends, as ``YYYY-MM-DD``.
        hosts: The names and addresses that the server's certificate is valid for.
    """

    expires: Mapping[str, str]
    hosts: Sequence[str]


@dataclass(frozen=True)
class DoctorResult:
    """What is here, and what does not work.

    Attributes:
        environment: Versions and hardware.
        feature_cache: Where features are kept.
        free_disk_gib: Free space there.
        optional: Optional package → version; None where it is not installed.
        problems: What does not work, and what to do. A port in use is none: it may be Flower's.
        ports: Program of Flower → whether its port is free; None without Flower.
        certificates: None if they were not asked for.
        superlink: ``reachable`` or ``unreachable``; None if it was not asked for.
        clock_ahead_s: How far this machine's clock is ahead of the SuperLink's, in seconds, negative if it is behind;
            exact to half a second and half the answer's time. None if it was not asked for, or no time came back.
    """

    environment: Environment
    feature_cache: Path
    free_disk_gib: float
    optional: Mapping[str, str | None]
    problems: Sequence[str]
    ports: Mapping[str, str] | None = None
    certificates: Certificates | None = None
    superlink: str | None = None
    clock_ahead_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether everything works that was asked for or that fedvpa needs."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what was not asked for is left out."""
        certificates = self.certificates
        asked = {
            "ports": None if self.ports is None else dict(self.ports),
            "certificates": certificates and {"expires": dict(certificates.expires), "hosts": list(certificates.hosts)},
            "superlink": self.superlink,
            "clock_ahead_s": self.clock_ahead_s,
        }
        return {
            **self.environment.to_dict(),
            "feature_cache": str(self.feature_cache),
            "free_disk_gib": self.free_disk_gib,
            "optional": dict(self.optional),
            **{name: value for name, value in asked.items() if value is not None},
            "problems": list(self.problems),
            "ok": self.ok,
        }


def doctor(
    *,
    certificates: str | PathLike[str] | None = None,
    host: str | None = None,
    superlink: str | None = None,
) -> DoctorResult:
    """Versions, hardware, cache, optional packages, Flower's ports, and a forward pass of the bundled language model.

    Args:
        certificates: A folder of certificates and keys to check too.
        host: The name or address that the server's certificate has to be valid for.
        superlink: ``HOST:PORT`` of a SuperLink to connect to, with TLS if ``certificates`` is given; its clock is
            compared with this machine's.

    Raises:
        ConfigError: If ``superlink`` is no address, ``host`` is given without ``certificates``, or Flower is missing.
    """
    if host is not None and certificates is None:
        raise ConfigError(
            f"{option('host')} is checked against certificates.", fix=f"Give {option('certificates')} too."
        )
    from fedvpa.deployment.network import ports
    from fedvpa.features.config import FeatureConfig
    from fedvpa.runs.environment import environment, installed

    folder = None if certificates is None else Path(certificates)
    versions = installed(OPTIONAL)
    checked, bad_certificates = _certificates(folder, host)
    reached, unreachable = _superlink(superlink, folder)
    ahead, off = (None, ()) if superlink is None or reached == "unreachable" else _clock(superlink)
    cache = FeatureConfig().cache_root()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    return DoctorResult(
        environment=environment(),
        feature_cache=cache,
        free_disk_gib=round(shutil.disk_usage(existing).free / 2**30, 1),
        optional={name: versions.get(name) for name in OPTIONAL},
        problems=(*bad_certificates, *unreachable, *off, *_model_problems(), *_flower_problems(versions)),
        ports=ports() if "flwr" in versions else None,
        certificates=checked,
        superlink=reached,
        clock_ahead_s=ahead,
    )


def _model_problems() -> list[str]:
    """Whether the bundled language model gives features."""
    import numpy as np

    from fedvpa.data.schema import Pair, PairTable
    from fedvpa.features.backbone import load_backbone
    from fedvpa.features.config import FeatureConfig
    from fedvpa.features.extract import extract
    from fedvpa.models.folder import BUNDLED

    config = FeatureConfig(model=BUNDLED)
    try:
        pair = Pair("how do i plan a picnic ?", "bring a rug .", "no .")
        store = extract(PairTable((pair,)), load_backbone(config), config)
    except (FedvpaError, OSError, RuntimeError) as error:
        return [f"The bundled language model does not run: {error}"]
    if np.isfinite(np.asarray(store.chosen, dtype=np.float32)).all():
        return []
    return ["The bundled language model gives features that are not finite: reinstall fedvpa."]


def _flower_problems(versions: Mapping[str, str]) -> list[str]:
    """Whether the Flower that is installed, if one is, can be used."""
    from fedvpa.engines.flower.simulation import FLOWER_VERSIONS

    problems, flower = [], versions.get("flwr")
    if flower is not None and ".".join(flower.split(".")[:2]) not in FLOWER_VERSIONS:
        accepted = " or ".join(f"{version}.*" for version in FLOWER_VERSIONS)
        problems.append(
            f"flwr {flower} is installed, and engine.name=flower needs {accepted}: pip install 'fedvpa[flower]'."
        )
    if flower is not None and "ray" not in versions:
        problems.append("flwr is installed without its simulation: pip install 'fedvpa[flower]'.")
    return problems


def _certificates(folder: Path | None, host: str | None) -> tuple[Certificates | None, Sequence[str]]:
    """What a folder of certificates is good for, and what is wrong with it."""
    if folder is None:
        return None, ()
    from fedvpa.engines.flower.simulation import require_flower

    require_flower()
    from fedvpa.deployment.certificates import check_certificates

    checked = check_certificates(folder, host)
    return Certificates(checked.expires, checked.hosts), checked.problems


def _superlink(address: str | None, certificates: Path | None) -> tuple[str | None, Sequence[str]]:
    """Whether a SuperLink answers; not tried without the CA's certificate where certificates were given."""
    authority = None if certificates is None else certificates / "ca.crt"
    if address is None or (authority is not None and not authority.is_file()):
        return None, ()
    from fedvpa.deployment.network import reach

    problem = reach(address, authority)
    return ("reachable", ()) if problem is None else ("unreachable", (problem,))


def _clock(address: str) -> tuple[float | None, Sequence[str]]:
    """How far this machine's clock is ahead of a SuperLink's, and what is wrong with that."""
    from fedvpa.deployment.network import clock_difference, clock_problem

    ahead = clock_difference(address)
    problem = None if ahead is None else clock_problem(address, ahead)
    return None if ahead is None else round(ahead, 1), () if problem is None else (problem,)
