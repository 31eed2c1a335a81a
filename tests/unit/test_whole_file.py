import pytest

from spike_pipelines.adapters.whole_file import write_whole


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "made" / "file.json"
    write_whole(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "before"
    assert list(path.parent.glob("*.json")) == [path]
