import base64

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.evaluation.report.accuracy_figures import gap_figure
from fedvpa.evaluation.report.style import YARDSTICK_STYLES, figure_bytes, figure_uri, save_figure, series_styles

pytestmark = pytest.mark.unit


def test_every_series_has_its_own_colour_and_marker_and_keeps_it():
    names = ["global", "local", "fedvpa_gp", "fedvpl", "oracle", "fedbiscuit", "lore", "mine"]
    styles = series_styles(names)
    assert len({colour for colour, _ in styles.values()}) == len(names)
    assert len({colour for colour, _ in YARDSTICK_STYLES.values()}) == len(YARDSTICK_STYLES)
    assert styles["fedvpa_gp"] == series_styles(["fedvpa_gp"])["fedvpa_gp"]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_saving_gives_the_same_bytes_each_time_and_embeds_them(compared, tmp_path, suffix, start):
    path = tmp_path / f"gap.{suffix}"
    save_figure(gap_figure(compared), path)
    content = path.read_bytes()
    assert content.startswith(start)
    again = gap_figure(compared)
    assert figure_bytes(again, suffix) == content
    assert base64.b64decode(figure_uri(again, suffix).partition(",")[2]) == content


def test_an_unknown_format_is_refused_and_nothing_is_written(compared, tmp_path):
    with pytest.raises(ConfigError, match="'gif'"):
        save_figure(gap_figure(compared), tmp_path / "gap.gif")
    assert list(tmp_path.iterdir()) == []
