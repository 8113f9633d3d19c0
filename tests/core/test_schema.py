import pytest

from fedvpa.core.errors import ModelError, RunError
from fedvpa.core.schema import VERSIONS, check_version


@pytest.mark.unit
def test_the_version_of_this_release_is_read_as_number_and_as_text():
    for kind, version in VERSIONS.items():
        check_version(kind, version, where="file", fix="")
        check_version(kind, str(version), where="file", fix="")


@pytest.mark.unit
def test_another_version_names_file_both_versions_and_what_to_do():
    with pytest.raises(RunError, match=r"file: has schema version 1; this fedvpa reads 3\. Align again\."):
        check_version("policy", 1, where="file", fix="Align again.")
    with pytest.raises(ModelError, match="has schema version unknown"):
        check_version("features", None, where="file", fix="", error=ModelError)
