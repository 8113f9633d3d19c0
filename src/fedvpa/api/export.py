"""``fedvpa export``: what other programs run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.files import user_path
from fedvpa.core.options import option
from fedvpa.runs.config import RunConfig


@dataclass(frozen=True)
class ExportedApp:
    """The app folder of a federation; ``flwr run`` accepts it.

    Attributes:
        app: The folder.
    """

    app: Path

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"app": str(self.app)}


@dataclass(frozen=True)
class ExportedRelease:
    """What nodes need to serve their users.

    Attributes:
        release: The folder; ``personalize``, ``generate`` and ``evaluate`` open it as they open a run.
        files: All that is in it.
        policies: The names of its policies: ``""`` for one for all; empty if the run has none.
        left_out: Preferences that the run knows by name and the release does not, since their z is made from users'.
    """

    release: Path
    files: Sequence[str]
    policies: Sequence[str]
    left_out: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "release": str(self.release),
            "files": list(self.files),
            "policies": list(self.policies),
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True)
class ExportedCandidates:
    """A table of pairs for users to label.

    Attributes:
        file: The table.
        pairs: How many it has.
        disputed: How many of them two preferences of the run order in different ways; they come first.
    """

    file: Path
    pairs: int
    disputed: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"file": str(self.file), "pairs": self.pairs, "disputed": self.disputed}


@dataclass(frozen=True)
class ExportedNodeKey:
    """The key pair of a node.

    Attributes:
        private: The private key's file, which stays where it is.
        public: The public key's, for the operator of the server.
        fingerprint: Of the public key, as ``ssh-keygen -lf`` prints it.
    """

    private: Path
    public: Path
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"private": str(self.private), "public": str(self.public), "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class ExportedKeys:
    """Certificates and keys of a federation's server.

    Attributes:
        keys: Their folder.
        authority: The folder of the CA's own key, for none of them.
    """

    keys: Path
    authority: Path

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"keys": str(self.keys), "authority": str(self.authority)}


def export_flower(
    config: RunConfig,
    folder: str | PathLike[str],
    *,
    out: str | PathLike[str] = "runs/flower",
    nodes: int = 2,
    deadline: float = 600.0,
    quorum: float = 0.5,
    method: str | None = None,
) -> ExportedApp:
    """Write an app folder for ``flwr run``.

    Args:
        config: The run. ``data.path`` is each node's own affair and is left out; users are clients.
        folder: Where to; must be empty or not exist.
        out: The run directory on the server's machine.
        nodes: Nodes that the server waits for, at least 1.
        deadline: Seconds that it waits, for them and in each round, at least 1. Chosen by us.
        quorum: Share of the clients asked that must answer, and of the nodes that must be able to take part; in
            (0, 1]. Chosen by us.
        method: One whose clients train a language model (``POLICY_METHODS``), such as ``feddpo``: each node has the
            base model, and the server is left with a policy. By default the method of the run, which trains a selector.

    Raises:
        ConfigError: If Flower is not installed, the configuration cannot be deployed, or a number is out of bounds.
        RunError: If ``folder`` holds files.
    """
    from fedvpa.algorithms.registry import METHODS
    from fedvpa.deployment.app import write_app
    from fedvpa.deployment.terms import Terms

    terms = Terms.parse({"nodes": nodes, "deadline": deadline, "quorum": quorum})
    app = user_path(folder)
    if method in METHODS:
        config, method = config.with_method(str(method)), None
    write_app(config, app, out=Path(out), terms=terms, policy_method=method or "")
    return ExportedApp(app)


def export_keys(folder: str | PathLike[str], *, host: str, nodes: int = 0) -> ExportedKeys:
    """Make a CA, and the server's key and certificate.

    Args:
        folder: Where to; must be empty or not exist.
        host: The name or address under which nodes reach the server; the certificate is valid for it alone.
        nodes: For how many nodes to make key pairs too, for a try on one machine. Elsewhere each node makes its own,
            with :func:`export_node_key`, so that no private key travels.

    Raises:
        ConfigError: If Flower is not installed, ``host`` is no name or address, or there are too many nodes.
        RunError: If ``folder`` or ``<folder>-ca``, for the CA's own key, holds files.
    """
    from fedvpa.engines.flower.simulation import require_flower

    require_flower()
    from fedvpa.deployment.keys import make_keys

    keys = user_path(folder)
    return ExportedKeys(keys, make_keys(keys, host=host, nodes=nodes))


def export_node_key(folder: str | PathLike[str], *, name: str = "node") -> ExportedNodeKey:
    """Make the key pair of a node, on that node: the private key stays, and the public one goes to the server.

    Args:
        folder: Where to; other files may be there.
        name: What to call it: ``<name>.key`` and ``<name>.pub``.

    Raises:
        ConfigError: If Flower is not installed, or ``name`` cannot name the files.
        RunError: If there is such a key already: it is never replaced.
    """
    from fedvpa.engines.flower.simulation import require_flower

    require_flower()
    from fedvpa.deployment.keys import make_node_key

    made = make_node_key(user_path(folder), name)
    return ExportedNodeKey(made.private, made.public, made.fingerprint)


def export_release(
    run: str | PathLike[str], folder: str | PathLike[str], *, overrides: Sequence[str] = ()
) -> ExportedRelease:
    """Write what a node needs to serve its users: the selector and the policy of a run, and nothing of a user.

    Args:
        run: A run directory: of a deployment's server, or of a simulation.
        folder: Where to; must be empty or not exist.
        overrides: Where nodes have the language models, such as ``features.model=HUB_ID``; by default where they are
            here. A node that has them elsewhere says so when it uses the release.

    Raises:
        ConfigError: For another override, or a method that has no selector for all.
        RunError: If the run holds no trained selector or an unfinished policy, another program writes to it, or
            ``folder`` holds files.
        ModelError: If a language model that was named is not the one that was trained with.
    """
    from fedvpa.deployment.release import write_release
    from fedvpa.runs.folder import RunFolder

    source = RunFolder.open(run)
    with source.locked():
        made = write_release(source, user_path(folder), overrides)
    return ExportedRelease(made.folder, made.files, made.policies, made.left_out)


def export_candidates(
    run: str | PathLike[str],
    file: str | PathLike[str],
    *,
    pairs: int = 100,
    user: str | None = None,
    overrides: Sequence[str] = (),
) -> ExportedCandidates:
    """Write pairs of the base policy's own responses as a table, for users to label what the policy says.

    A selector that was trained on other texts may not order these. The table has ``prompt``, ``response_a``,
    ``response_b`` and an empty ``winner``, for ``A``, ``B`` or ``tie``; with that filled in it is a table of pairs like
    any other: ``--map chosen=response_a --map rejected=response_b --map winner=winner``.

    Args:
        run: A run directory with a trained selector, which chooses of each prompt the pair that preferences disagree on
            most. The prompts are those that a policy may train on.
        file: Where to: ``.jsonl``, or ``.csv`` with conversations as JSON. It must not exist.
        pairs: How many prompts, each with one pair; fewer where there are not so many.
        user: Who will label them, for a column ``user_id``.
        overrides: Such as ``policy.candidates.prompt_file=FILE``.

    Raises:
        ConfigError: If the file has another ending, or ``pairs`` is no number of pairs.
        RunError: If the run holds no trained selector, or the file exists.
        ModelError: If a language model cannot be loaded.
    """
    from fedvpa.alignment.prompts import public_prompts
    from fedvpa.alignment.questions import questions
    from fedvpa.data.question_table import check_table, write_questions
    from fedvpa.runs.folder import RunFolder
    from fedvpa.runs.released import released
    from fedvpa.runs.stage1 import open_stage1

    path = user_path(file)
    check_table(path)
    if pairs < 1:
        raise ConfigError(f"{option('pairs', str(pairs))} is no number of pairs.", fix="Give at least 1.")
    source = RunFolder.open(run)
    config = source.config(overrides)
    stage = released(open_stage1(source, config), config)
    asked = questions(stage, public_prompts(stage)[0][:pairs])
    write_questions(path, [(one.prompt, one.first, one.second) for one in asked], user)
    return ExportedCandidates(path, len(asked), sum(one.disagreement > 0 for one in asked))
