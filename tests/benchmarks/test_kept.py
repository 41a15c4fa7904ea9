"""What took time is kept with what it is of, and found anew where the file is of something else, or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from immunecam.benchmarks.kept import kept


def test_it_is_found_once_for_the_same(tmp_path: Path):
    file = tmp_path / "work" / "a.json"
    assert kept(file, (1, "x"), lambda: {"score": 1}) == {"score": 1}
    assert kept(file, [1, "x"], lambda: {"score": 2}) == {"score": 1}
    assert kept(file, [2, "x"], lambda: {"score": 2}) == {"score": 2}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"of": 1}', "\xff"])
def test_a_damaged_file_is_found_anew(tmp_path: Path, text: str):
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    assert kept(file, 1, lambda: [3]) == [3]
    assert kept(file, 1, lambda: [4]) == [3]
