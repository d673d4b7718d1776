import json

import pytest

from r2genkit.files import replacing, write_json, write_text


def test_content_appears_whole_and_nothing_else_stays(tmp_path):
    path = tmp_path / "new/folder/a.txt"
    write_text(path, "ä")
    write_text(path, "b")
    assert path.read_text(encoding="utf-8") == "b"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_block_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})

    def half_written():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"k": "é", "n": [1]}, indent=1)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "é" in text and len(text.splitlines()) > 3 and text.endswith("\n")
