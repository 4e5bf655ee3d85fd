import pytest

from mixcd.words.files import replace_file


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "a.json"
    for text in ("one", "two"):
        with replace_file(path) as unfinished:
            unfinished.write_text(text)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, fault):
    path = tmp_path / "a.json"
    path.write_text("before")

    def write():
        with replace_file(path) as unfinished:
            unfinished.write_text("half")
            raise fault

    with pytest.raises(type(fault)):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
