"""The server of a deployment whose clients train a language model: it has the base model, and no pair.

What leaves a node: user ids, numbers of pairs, the content of its language model as a hash, and in each round what the
method's clients send.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Mapping
from typing import Any

from flwr.serverapp import Grid

from fedvpa.algorithms.client.text_client import AdapterSetting
from fedvpa.algorithms.server.rejections import Rejections
from fedvpa.alignment.federated_job import FederatedJob, fresh_policy, text_engine
from fedvpa.alignment.job import check_collapse
from fedvpa.alignment.language_look import look_line
from fedvpa.alignment.stage1 import ONE
from fedvpa.core.errors import RunError
from fedvpa.core.files import read_own_lines, write_json
from fedvpa.core.identity import Parts, differences
from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.deployment.taking_part import metrics, read_alike, say_who
from fedvpa.deployment.terms import Terms
from fedvpa.deployment.text_node import base_source
from fedvpa.engines.flower.roster import Roster, gather
from fedvpa.engines.flower.secure_server import secured
from fedvpa.engines.flower.server import GridCohort
from fedvpa.engines.secure_aggregation import check_nodes
from fedvpa.policy.files import PREFERENCES
from fedvpa.runs.config import RunConfig
from fedvpa.runs.environment import environment
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.identity import CONTENT, checkpoint_parts
from fedvpa.runs.policies import Inputs, train_in_run
from fedvpa.runs.policy_checkpoints import checkpoints, stopped_at
from fedvpa.runs.policy_task import task_of_config

GO_ON = "flwr run APP SUPERLINK"
"""What goes on after the server was stopped; it does not know under what names it was started."""


class DeployedJob(FederatedJob):
    """Rounds between which further nodes may join."""

    def run(self) -> Generator[dict[str, Any], None, None]:
        """See :class:`~fedvpa.core.loop.Job`."""
        for line in super().run():
            yield line
            say(f"round {self.done} of {self.total}: {len(line['cohort'])} trained")
            if isinstance(self.clients, Roster):
                self.clients.refresh(set(self.clients.grid.get_node_ids()))


def serve_texts(grid: Grid, config: RunConfig, method: str, run: RunFolder, terms: Terms) -> None:
    """Run all rounds on a grid, from the last checkpoint of the run if there is one; leave the policy behind.

    Args:
        grid: Flower's.
        config: The run.
        method: Its name in ``POLICY_METHODS``.
        run: The server's run directory.
        terms: On what terms.

    Raises:
        ModelError: If the base model is not on the server.
        RunError: If ``run`` holds a run of another configuration or method.
        FedvpaError: If too few nodes come, or too few clients answer.
        TrainingError: If the training has diverged.
        AlignmentError: If the policy has left the language of its base, after everything was written.
    """
    roster = gather(grid, terms.nodes, terms.deadline, terms.quorum, base_source(config).content())
    say_who(roster)
    check_nodes(config.policy.clients.secure_aggregation, len(roster.introductions))
    config = read_alike(config, roster.reads)
    parts = checkpoint_parts(config, method=method, data="", selector="", users="")
    resume = _begin(run, config, parts)
    task = task_of_config(config)
    policy = fresh_policy(task)
    roster.setting = AdapterSetting.of(policy)
    codec = config.policy.clients.codec
    plain = GridCohort(grid, roster.hosts, False, terms.deadline, terms.quorum, codec, on_poll=roster.refresh)
    cohort = secured(plain, text_engine(config.policy, None))
    job = DeployedJob.deployed(method, task, policy, roster, cohort)
    notes = train_in_run(run, job, Inputs(config, parts, len(roster.client_ids)), GO_ON, resume=resume)
    write_json(run.policy / PREFERENCES, {})
    write_json(run.policy / "metrics.json", policy_metrics(method, notes, roster))
    history = read_own_lines(run.policy / "history.jsonl")
    rejections = Rejections.of(history)
    if rejections.rejected:
        say(str(rejections))
    again = shlex.join(["fedvpa", "export", "flower", "APP", "--method", method, "--config", str(run.config_file)])
    write_json(run.path / "metrics.json", metrics(method, history, rejections, roster) | {"command": again})
    say(f"policy: {run.policy}; {look_line(notes)}")
    check_collapse({ONE: notes}, method, str(run))


def policy_metrics(method: str, notes: Mapping[str, Any], roster: Roster) -> dict[str, Any]:
    """What ``policy/metrics.json`` holds: what ``align`` writes, and who took part."""
    told = {
        "clients": len(roster.client_ids),
        "nodes": len(roster.introductions),
        "users_left_out": roster.left_out,
    }
    version = VERSIONS["policy metrics"]
    return {"schema_version": version, "method": method, "policies": {ONE: {**notes, **told}}, "data": None}


def _begin(run: RunFolder, config: RunConfig, parts: Parts) -> bool:
    """Whether there is a checkpoint to go on from; if not, the run directory is made."""
    if checkpoints(run):
        stopped = stopped_at(run)
        if changed := list(differences(stopped.parts, parts, CONTENT)):
            raise RunError(
                f"holds a policy that was made with {', '.join(changed)}.", fix="Choose another out.", where=str(run)
            )
        return True
    if run.checkpoint.is_file() or run.selector.is_dir():
        raise RunError("holds a run that trained a selector.", fix="Choose another out.", where=str(run))
    run.begin(config, environment(config.seed).to_dict())
    return False
