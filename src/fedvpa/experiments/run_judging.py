"""The policies of one run, judged and compared with their base policy."""

from __future__ import annotations

from fedvpa.core.files import write_json
from fedvpa.core.progress import say
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.judges.planning import check_plan, plan, probe
from fedvpa.experiments.judge_pairs import check_judge_pairs, learned_reward_of, pairs_of_run
from fedvpa.experiments.judging import VERDICTS, is_judged, judge_policies, open_candidate, read_judged
from fedvpa.experiments.policies_compared import compare_judged, say_bias
from fedvpa.experiments.results import PoliciesComparison
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import read_policy_metrics


def judge_run(run: RunFolder, config: RunConfig) -> tuple[str, PoliciesComparison]:
    """Judge the policies of a run as a comparison of one cell; the judge's name and the result, which is kept.

    The judge is tried before answers are sampled for it.

    Raises:
        InputError: If the judge cannot judge them.
        JudgeError: If it is out of order, or too many verdicts are missing.
    """
    rules = config.policy.judging
    judge = make_judge(config.judge_name, rules.settings, run.path / VERDICTS, rules.max_calls)
    if learned_reward_of(judge) is not None:
        check_judge_pairs(judge, pairs_of_run(run, config))
    candidate = open_candidate(run, config, along=True)
    if not is_judged(run, config, along=True):
        whole, steps = candidate.contests()
        duels = sum(map(len, (whole, *steps))) * candidate.count
        estimate = plan(judge, duels)
        if estimate is not None:
            say(f"judge {judge.name}: at most {duels:,} duels in both orders; {estimate}")
            check_plan(estimate, rules.max_calls)
        probe(judge, candidate.served.judged_under, candidate.prompts[0])
        judge_policies(candidate, judge)
    compared = compare_judged([(read_judged(run), _seconds(run))])
    say_bias(compared)
    metrics = read_policy_metrics(run) | {"policy_judge": judge.name} | compared.to_dict()
    write_json(run.policy / "metrics.json", metrics)
    return judge.name, compared


def _seconds(run: RunFolder) -> float:
    """The wall-clock time of making the policies of a run."""
    return sum(float(notes.get("seconds", 0.0)) for notes in read_policy_metrics(run)["policies"].values())
