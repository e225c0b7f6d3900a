"""What is written for others is there whole or not, and why not is said."""

import pytest

from interp.errors import PathError
from interp.outputs import file_to_write, put


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/a.csv", r"^'.*nowhere' is no folder, so 'a.csv' cannot be written there; make it first$"),
        ("folder", r"^path '.*folder' is a folder; expected the path of a file to write$"),
    ],
)
def test_a_place_where_nothing_can_be_written(tmp_path, path, message):
    (tmp_path / "folder").mkdir()
    with pytest.raises(PathError, match=message):
        file_to_write(tmp_path / path)


@pytest.mark.parametrize("path", [None, 3, "", b"a.csv"])
def test_what_is_no_path(path):
    with pytest.raises(
        PathError, match=rf"^--out is {path!r} of type {type(path).__name__}; expected the path of a file to write$"
    ):
        file_to_write(path, "--out")


def test_a_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = put(tmp_path / "a.csv", b"first")
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(PathError, match=r"^'.*a.csv' cannot be written: No space left on device$"):
        put(path, b"second")
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_bytes() == b"first"


def full(*given):
    raise OSError(28, "No space left on device")
