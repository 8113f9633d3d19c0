"""What a run leaves behind is enough: every verb works after the data that it was trained on are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from command_line import fedvpa
from fedvpa.api.align import align
from fedvpa.api.evaluate import EvaluateResult, evaluate
from fedvpa.api.forget import forget
from fedvpa.api.generate import generate
from fedvpa.api.personalize import personalize
from fedvpa.api.report import report
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, DataError, RunError
from fedvpa.data.schema import Pair, PairTable
from fedvpa.runs.config import column_overrides, read_config
from fedvpa.runs.context import context_pairs
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_pairs import scaling_of
from fedvpa.runs.prepare import prepare_pairs
from fedvpa.runs.users import load_users
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector
from fedvpa.world.prompts import prompts
from own_table import COLUMNS, MAPS, SETTINGS, pairs_of, write_rows
from run_fixtures import TINY_POLICY

SHORT = {"max_new_tokens": 7}
PROMPT = "how do i plan a picnic ?"
POLICY = (*TINY_POLICY, "policy.steps=1", "policy.evaluate_every=1", "policy.candidates.samples=3")


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that gives public prompts."""
    path = tmp_path_factory.mktemp("public") / "prompts.txt"
    path.write_text("".join(f"{prompt.text}\n" for prompt in prompts("train")[:60]), encoding="utf-8")
    return f"policy.candidates.prompt_file={path}"


@pytest.fixture(scope="module")
def aligned(own_run: Path, public: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, aligned on public prompts after its data were deleted."""
    run = shutil.copytree(own_run, tmp_path_factory.mktemp("aligned") / "run")
    align(run, overrides=(*POLICY, public))
    return run


@pytest.mark.end_to_end
def test_an_own_table_without_groups_goes_all_the_way(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_rows(data / "pairs.jsonl", pairs_of(40, 7, 5))
    new = write_rows(tmp_path / "new.jsonl", pairs_of(2, 9, 77), **{"user-0": "ann", "user-1": "ben"})
    maps = [word for entry in MAPS for word in ("--map", entry)]

    def done(*arguments: object) -> str:
        code, out, err = fedvpa(*arguments)
        assert code == 0, err
        return out

    done("train", "data.source=table", f"data.path={data / 'pairs.jsonl'}", *maps, *SETTINGS, "--out", run)
    done("align", run, *POLICY)
    done("evaluate", run, "--pairs", new)
    done("report", run)
    shutil.rmtree(data)
    answer = done(
        "generate", run, "--prompt", PROMPT, "--preference", f"@{new}", "--user", "ann", "--max-new-tokens", 7
    )
    assert answer.strip()


@pytest.mark.end_to_end
def test_serving_needs_no_data(aligned: Path, tmp_path: Path) -> None:
    own = load_users(aligned / "clients" / "users.safetensors")
    new = write_rows(tmp_path / "new.jsonl", pairs_of(1, 9, 77))
    found = personalize(aligned, new)
    assert found.pairs == 9
    for preference, z in (
        (own.seen.ids[4], own.seen.z[4].tolist()),
        (own.unseen.ids[1], own.unseen.z[1].tolist()),
        (f"@{new}", found.mean),
        ("1", Selector.from_pretrained(aligned).prototypes[1].tolist()),
    ):
        assert generate(aligned, PROMPT, preference, **SHORT).z == pytest.approx(z)
    with pytest.raises(ConfigError, match=r"no preference and no user 'nobody'.*rototypes: 0, 1.*users: user-"):
        generate(aligned, PROMPT, "nobody", **SHORT)
    assert json.loads((aligned / "policy" / "preferences.json").read_text()) == {}
    assert report(aligned).page.is_file()


@pytest.mark.end_to_end
def test_serving_goes_on_after_a_user_was_forgotten(aligned: Path, public: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(aligned, tmp_path / "run"))
    gone, other = "user-17", "user-23"
    before = generate(run, [PROMPT], other, **SHORT)
    forget(run, user=gone)
    assert generate(run, [PROMPT], other, **SHORT) == before
    with pytest.raises(ConfigError, match="There is no preference and no user 'user-17'"):
        generate(run, [PROMPT], gone, **SHORT)
    report(run)
    assert not [file for file in run.rglob("*") if file.is_file() and gone.encode() in file.read_bytes()]
    with pytest.raises(RunError, match=r"pairs of other users.*so going on would mix two runs"):
        align(run, overrides=[*POLICY, public], resume=True)


@pytest.mark.end_to_end
def test_aligning_on_users_prompts_says_what_is_missing_and_the_two_ways_on(own_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(own_run, tmp_path / "run")
    ways = r"not there any more.*Say where they are now: data\.path=PATH; or give public prompts.*prompt_file=FILE"
    with pytest.raises(RunError, match=ways):
        align(run, overrides=POLICY)
    for overrides, method in (((*POLICY, "policy.candidates.source=pairs"), None), (POLICY, "feddpo")):
        with pytest.raises(RunError, match=r"data\.path=PATH\.$"):
            align(run, overrides=overrides, method=method)
    assert not (run / "policy").exists()


@pytest.mark.end_to_end
def test_data_that_have_moved_are_found_and_others_are_refused(own_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(own_run, tmp_path / "run")
    moved = write_rows(tmp_path / "moved.jsonl", pairs_of(40, 7, 5))
    align(run, overrides=(*POLICY, f"data.path={moved}"))
    write_rows(moved, pairs_of(40, 7, 6))
    with pytest.raises(RunError, match="trained on other pairs"):
        align(run, overrides=(*POLICY, f"data.path={moved}"), overwrite=True)


def scored(run: Path, pairs: list[Pair], posterior: Posterior) -> float:
    """The share of pairs that a posterior orders as they are labelled."""
    folder = RunFolder.open(run)
    selector = Selector.from_pretrained(run)
    _, features = prepare_pairs(folder.config().features, PairTable(tuple(pairs)), scaling_of(selector, folder))
    return float((selector.margins(posterior, features) > 0).float().mean())


@pytest.mark.end_to_end
def test_users_whom_the_run_knows_are_scored_with_their_own_z(own_run: Path, tmp_path: Path) -> None:
    own = load_users(own_run / "clients" / "users.safetensors")
    names = (own.seen.ids[2], own.unseen.ids[0])
    fresh = pairs_of(2, 11, 78)
    found = evaluate(own_run, write_rows(tmp_path / "new.jsonl", fresh, **{"user-0": names[0], "user-1": names[1]}))
    assert (found.by, found.users, found.pairs, found.context_pairs, found.new) == ("user", 2, 22, 0, None)
    wanted = [
        scored(own_run, [pair for pair in fresh if pair.user_id == f"user-{row}"], posterior)
        for row, posterior in enumerate((own.seen.posterior[2], own.unseen.posterior[0]))
    ]
    assert found.accuracy == pytest.approx(sum(wanted) / 2)


@pytest.mark.end_to_end
def test_the_z_of_a_new_user_never_comes_from_the_pairs_that_are_scored(own_run: Path, tmp_path: Path) -> None:
    fresh = pairs_of(1, 12, 79)
    context = context_pairs(fresh, "zoe")
    assert 4 <= context.sum() <= 8

    def turned(pair: Pair) -> Pair:
        return Pair(pair.prompt, pair.rejected, pair.chosen, pair.user_id)

    def accuracy(pairs: list[Pair]) -> EvaluateResult:
        return evaluate(own_run, write_rows(tmp_path / "new.jsonl", pairs, **{"user-0": "zoe"}))

    found = accuracy(fresh)
    assert (found.context_pairs, found.pairs, found.known) == (context.sum(), 12 - context.sum(), None)
    selector, folder = Selector.from_pretrained(own_run), RunFolder.open(own_run)
    table = PairTable(tuple(pair for pair, first in zip(fresh, context, strict=True) if first))
    posterior = selector.infer(prepare_pairs(folder.config().features, table, scaling_of(selector, folder))[1])
    rest = [pair for pair, first in zip(fresh, context, strict=True) if not first]
    assert found.accuracy == pytest.approx(scored(own_run, rest, posterior))
    other = accuracy([pair if first else turned(pair) for pair, first in zip(fresh, context, strict=True)])
    assert other.accuracy == pytest.approx(1 - found.accuracy)


@pytest.mark.unit
def test_the_context_of_a_new_user_parts_no_prompt_and_leaves_something_to_score() -> None:
    def pairs(*names: str) -> list[Pair]:
        return [Pair(name, f"yes {row}", f"no {row}") for row, name in enumerate(names)]

    for names in ("aabbccdd", "aaaaaab", "ab", "abcdefghijklm"):
        context = context_pairs(pairs(*names), "zoe")
        assert 0 < context.sum() < len(names)
        assert {(name, bool(first)) for name, first in zip(names, context, strict=True)} == set(
            dict(zip(names, map(bool, context), strict=True)).items()
        )
    assert context_pairs(pairs(*"abcdefghijklm"), "zoe").sum() in (6, 7)
    assert 0 < context_pairs(pairs(*"aaaa"), "zoe").sum() < 4, "one prompt: pairs are parted"
    for few in (pairs("a"), pairs("a")[:1] * 3):
        assert not context_pairs(few, "zoe").any()


@pytest.mark.end_to_end
def test_pairs_that_the_run_was_trained_on_are_told_without_its_data(own_run: Path, tmp_path: Path) -> None:
    old, fresh = pairs_of(40, 7, 5), pairs_of(1, 9, 80)
    turned = Pair(old[0].prompt, old[0].rejected, old[0].chosen, old[0].user_id)
    lone = Pair("how do i bake bread ?", "sure , gladly .", "no , sorry .", "somebody")
    found = evaluate(own_run, write_rows(tmp_path / "new.jsonl", [*old[:5], turned, *fresh, lone], **{"user-0": "zoe"}))
    assert list(found.skipped.values()) == [6, 1]
    assert found.pairs + found.context_pairs == 9


@pytest.mark.end_to_end
def test_columns_of_new_files_have_names_of_their_own(own_run: Path, tmp_path: Path, capsys) -> None:
    fresh = pairs_of(2, 9, 81)
    other = {"user_id": "who", "prompt": "ask", "chosen": "up", "rejected": "down"}
    standard = {name: name for name in COLUMNS}
    files = [
        write_rows(tmp_path / f"{row}.jsonl", fresh, columns) for row, columns in enumerate((COLUMNS, other, standard))
    ]
    first, second, third = (
        evaluate(own_run, path, columns=given) for path, given in zip(files, ({}, other, {}), strict=True)
    )
    assert first.accuracy == second.accuracy == third.accuracy
    said = [line for line in capsys.readouterr().err.splitlines() if "columns of the run" in line]
    named = "prompt=question, user_id=worker, chosen=better, rejected=worse"
    assert said == [f"{files[0]} is read with the columns of the run: {named}"]
    z = [
        personalize(own_run, path, user="user-1", columns=given).mean
        for path, given in zip(files, ({}, other, {}), strict=True)
    ]
    assert z[0] == z[1] == z[2]
    with pytest.raises(ConfigError, match=r"columns names 'users', which is no column of pairs.*'user_id'"):
        personalize(own_run, files[1], columns={"users": "who"})


@pytest.mark.end_to_end
def test_the_command_line_takes_columns_and_speaks_of_flags(aligned: Path, tmp_path: Path) -> None:
    other = {"user_id": "who", "prompt": "ask", "chosen": "up", "rejected": "down"}
    new = write_rows(tmp_path / "new.jsonl", pairs_of(2, 9, 81), other)
    maps = [word for ours, theirs in other.items() for word in ("--map", f"{ours}={theirs}")]
    code, out, err = fedvpa("evaluate", aligned, "--pairs", new, *maps, "--json")
    assert (code, json.loads(out)["users"]) == (0, 2), err
    code, out, err = fedvpa("personalize", aligned, "--pairs", new, *maps, "--user", "user-0", "--json")
    assert (code, json.loads(out)["pairs"]) == (0, 9), err
    generating = ("generate", aligned, "--prompt", PROMPT, "--max-new-tokens", 3, "--preference")
    assert fedvpa(*generating, f"@{new}", *maps, "--user", "user-0")[0] == 0
    for arguments, said in (
        (("personalize", aligned, "--pairs", new, *maps), "--user 'user-0'"),
        (("personalize", aligned, "--pairs", new), "--map chosen=COLUMN"),
        (("personalize", aligned, "--pairs", new, "--map", "user_id"), "Write --map user_id=COLUMN"),
        (("evaluate", aligned, "--pairs", new, *maps, "--by", "group"), "--map group=COLUMN"),
        (("evaluate", aligned, "--pairs", new, *maps, "--by", "usr"), "--by usr is no way"),
        ((*generating, "0", "--user", "user-0"), "--user is about a file of pairs"),
        ((*generating, "0", "--top-p", "0"), "--top-p 0.0 keeps no share"),
    ):
        code, _, err = fedvpa(*arguments)
        assert code == 2
        assert said in err


@pytest.mark.end_to_end
def test_a_file_without_users_is_one_new_user_and_says_so(own_run: Path, tmp_path: Path, capsys) -> None:
    columns = {name: name for name in ("prompt", "chosen", "rejected")}
    found = evaluate(own_run, write_rows(tmp_path / "new.jsonl", pairs_of(1, 9, 82), columns))
    assert (found.users, found.ci95) == (1, None)
    assert (
        'pairs are taken for those of one new user; name their column: columns={"user_id": "COLUMN"}'
        in capsys.readouterr().err
    )


def strip_held(run: Path) -> None:
    """Leave the users' file as the previous release wrote it."""
    path = run / "clients" / "users.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["fedvpa"])
    del header["held_groups"]
    tensors = {name: leaf for name, leaf in load_file(path).items() if not name.startswith("held.")}
    save_file(tensors, path, {"fedvpa": json.dumps(header)})


@pytest.mark.end_to_end
def test_a_run_of_the_previous_release_says_what_it_lacks(aligned: Path, tmp_path: Path, capsys) -> None:
    run = shutil.copytree(aligned, tmp_path / "run")
    strip_held(run)
    saved = json.loads((run / "policy" / "policy.json").read_text())
    del saved["prototypes"]
    (run / "policy" / "policy.json").write_text(json.dumps(saved))
    old, fresh = pairs_of(40, 7, 5), pairs_of(1, 9, 83)
    new = write_rows(tmp_path / "new.jsonl", [*old[:5], *fresh], **{"user-0": "zoe"})
    found = evaluate(run, new)
    assert "cannot say which pairs it was trained on: it was written by an earlier release" in capsys.readouterr().err
    assert found.pairs + found.context_pairs == 14
    moved = write_rows(tmp_path / "moved.jsonl", old)
    assert list(evaluate(run, new, overrides=[f"data.path={moved}"]).skipped.values()) == [5]
    assert generate(run, PROMPT, "0", **SHORT).z == pytest.approx(Selector.from_pretrained(run).prototypes[0].tolist())


@pytest.mark.unit
def test_a_run_keeps_no_text_of_its_users(own_run: Path) -> None:
    words = {word for pair in pairs_of(40, 7, 5) for word in (str(pair.chosen), str(pair.prompt))}
    kept = b"".join(path.read_bytes() for path in own_run.rglob("*") if path.is_file())
    assert not [word for word in words if word.encode() in kept]


@pytest.mark.end_to_end
def test_a_labelling_tools_export_is_read_as_the_runs_own_was(tmp_path: Path) -> None:
    """Who won stands in a column of its own; turned rows say the same."""

    def export(path: Path, pairs: list[Pair], winner: str = "winner") -> Path:
        lines = [f"worker,prompt,response_a,response_b,{winner}"]
        for row, pair in enumerate(pairs):
            sides = (pair.chosen, pair.rejected) if row % 2 else (pair.rejected, pair.chosen)
            lines.append(",".join(f'"{text}"' for text in (pair.user_id, pair.prompt, *sides, "BA"[row % 2])))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    data, fresh = export(tmp_path / "data.csv", pairs_of(6, 7, 5)), pairs_of(1, 9, 84)
    maps = ["user_id=worker", "chosen=response_a", "rejected=response_b", "winner=winner"]
    run = tmp_path / "run"
    train(read_config(None, ("data.source=table", f"data.path={data}", *column_overrides(maps), *SETTINGS)), run)
    plain = {name: name for name in COLUMNS}
    z = personalize(run, write_rows(tmp_path / "new.jsonl", fresh, plain)).mean
    assert personalize(run, export(tmp_path / "new.csv", fresh)).mean == z
    other = export(tmp_path / "other.csv", fresh, "verdict")
    with pytest.raises(DataError, match=r"no column 'chosen'"):
        personalize(run, other)
    columns = {"chosen": "response_a", "rejected": "response_b", "winner": "verdict"}
    assert personalize(run, other, columns=columns).mean == z
