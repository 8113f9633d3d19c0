"""``fedvpa audit``: attacks on a finished run, beside what it claims."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.schema import VERSIONS
from fedvpa.core.short_repr import short_repr
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.privacy.audit import Separation
    from fedvpa.runs.audit import AttributeRow, CanaryAudit
    from fedvpa.runs.config import RunConfig

PLANT = "train a run with canaries to audit its ε: privacy.canaries=200 beside privacy.epsilon=3, or beside \
privacy.noise_multiplier=1e-6 to see what they show without noise"
"""How to get what the bound on ε needs."""


@dataclass(frozen=True, repr=False)
class AuditResult:
    """What attacks on a run found.

    Attributes:
        run: The run directory.
        method: Its method.
        users: How many trained.
        rounds: How many rounds were trained again to record messages.
        canaries: The lower bounds on ε; None where no canaries were planted.
        attributes: How well users' true groups are guessed, by who looks on.
        membership: How well users who trained are told from others, by one who has the released model and their pairs;
            None where there are no others.
        notes: What was not done, and why.
    """

    run: Path
    method: str
    users: int
    rounds: int
    canaries: CanaryAudit | None
    attributes: tuple[AttributeRow, ...]
    membership: Separation | None
    notes: tuple[str, ...]

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """What ``audit.json`` holds."""
        return {"schema_version": VERSIONS["audit"], **asdict(self), "run": str(self.run)}


def audit(run: str | PathLike[str], *, rounds: int | None = None) -> AuditResult:
    """Attack a finished run and write ``audit.json`` into it.

    The bounds on ε are read from the run's checkpoint and key, where canaries were planted. For the rest the training
    is run again in memory, to record what is sent: that takes about as long as the training took.

    Args:
        run: The run directory.
        rounds: Train at most so many rounds again; all of the run's by default.

    Raises:
        ConfigError: For ``rounds`` below 1.
        RunError: If it is no finished run, its users are on other machines, or its data, key or checkpoint are gone.
    """
    folder = RunFolder.open(run)
    if rounds is not None and rounds < 1:
        raise ConfigError(f"{rounds} rounds: nothing would be sent.", fix="Give 1 or more.", where="rounds")
    metrics = folder.metrics()
    if not metrics:
        command = shlex.join(["fedvpa", "train", "--resume", str(folder)])
        raise RunError("its training is not finished.", fix=f"Finish it: {command}", where=str(folder))
    if not folder.clients.is_dir():
        raise RunError(
            "its users are on other machines, so that their training cannot be run again here.",
            fix="Audit a simulation with the same settings.",
            where=str(folder),
        )
    folder.check_whole("its training cannot be run again to be attacked")
    from fedvpa.core.files import write_json
    from fedvpa.runs.audit import audit_canaries, audit_messages, audit_model, replay
    from fedvpa.runs.fit import with_rounds
    from fedvpa.runs.prepare import prepare
    from fedvpa.runs.stage1 import check_data_path

    config = folder.config()
    check_data_path(folder, config, "")
    canaries = audit_canaries(folder, config, metrics) if config.privacy.canaries else None
    prepared = prepare(config)
    federation = prepared.federation
    shorter = config if rounds is None else with_rounds(config, min(rounds, config.server.rounds))
    replayed = replay(shorter, federation)
    model, membership = audit_model(replayed, federation, config.seed)
    result = AuditResult(
        run=folder.path,
        method=config.method,
        users=len(federation.client_ids),
        rounds=len(replayed.recorder.broadcasts),
        canaries=canaries,
        attributes=(*audit_messages(replayed, federation, config.seed), *model),
        membership=membership,
        notes=tuple(notes(config, federation.groups)),
    )
    with folder.locked():
        write_json(folder.audit, result.to_dict())
    return result


def notes(config: RunConfig, groups: tuple[str, ...]) -> list[str]:
    """What an audit of such a run does not do, or does on something else than what was sent.

    Args:
        config: The run.
        groups: The true groups of its users.
    """
    found = []
    if not config.privacy.canaries:
        found.append(f"No canaries were planted, so there is no bound on ε: {PLANT}.")
    if len(groups) < 2:
        found.append("The users have no two true groups, so that no attacker can be asked for them.")
    if config.engine.name == "flower":
        found.append(
            "Messages were recorded from the same training on the engine vectorised, and not from Flower's traffic."
        )
    if config.privacy.in_shares:
        found.append(
            "Nodes add the noise of this run (privacy.noise=clients). Here sums were written down before any noise, so "
            "the server has less than its row was guessed from."
        )
    return found
