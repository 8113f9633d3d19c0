"""Variants of a method, read from a file: settings on top of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError
from fedvpa.experiments.variants import read_variants
from fedvpa.runs.config import RunConfig

pytestmark = pytest.mark.unit

VARIANTS = Path(__file__).resolve().parents[2] / "configs" / "variants"


def written(folder: Path, text: str) -> Path:
    path = folder / "variants.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_dotted_and_nested_settings_are_laid_on_the_configuration(tiny: RunConfig, tmp_path: Path):
    path = written(
        tmp_path,
        '"− mixture": {variational.prior: normal}\n'
        "published: {variational: {refinement: off}, variational.gumbel: false, server.rounds: 7}\n",
    )
    found = read_variants(path, tiny)
    assert list(found) == ["− mixture", "published"]
    one, other = found.values()
    assert one == tiny.model_copy(update={"variational": tiny.variational.model_copy(update={"prior": "normal"})})
    changed = {"refinement": "off", "gumbel": False}
    assert other.variational == tiny.variational.model_copy(update=changed)
    assert other.server == tiny.server.model_copy(update={"rounds": 7})
    assert other.local == tiny.local


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no variant"),
        ("[a, b]", "names no variant"),
        ("a: [", "is not YAML"),
        ("a: {}", "variant 'a': has no settings"),
        ("a:b: {server.rounds: 3}", "variant 'a:b'.*called so"),
        ("oracle: {server.rounds: 3}", "name of another row"),
        ("a: {server.round: 3}", "server.round.*rounds"),
        ("a: {variational.prior: flat}", "variational.prior"),
        ("a: {partition.clients: 3}", "changes the section 'partition'"),
        ("a: {seed: 3}", "changes the section 'seed'"),
        ("a: {server.rounds: 5}", "the configuration itself"),
    ],
)
def test_what_cannot_be_a_row_is_refused_with_file_and_name(text: str, message: str, tiny: RunConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"variants\.yaml.*{message}|{message}"):
        read_variants(written(tmp_path, text), tiny)


def test_a_missing_file_is_named(tiny: RunConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*cannot be read"):
        read_variants(tmp_path / "nowhere.yaml", tiny)


@pytest.mark.parametrize("path", sorted(VARIANTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_that_are_shipped_are_variants_of_the_method_that_names_them(path: Path):
    found = read_variants(path, RunConfig(method=path.stem.partition(".")[0]))
    for name, config in found.items():
        assert make(config.method, config.method_config).name, name
