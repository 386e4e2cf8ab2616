"""What is kept between runs: made once, and anew when it can't be trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifier import keeping


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "exflow"


def numbers(made_from: str, made: list[int]) -> int:
    """What is remembered; made: gets an entry whenever it had to be made."""

    def make() -> int:
        made.append(len(made))
        return made[-1]

    return keeping.remembered("numbers", made_from, make)


def test_what_was_kept_is_taken_as_long_as_it_was_made_from_the_same() -> None:
    made: list[int] = []
    assert [numbers(each, made) for each in "aabba"] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a pickle", b"\x80\x05]\x94.", b"cno.such.module\nname\n."])
def test_a_file_that_is_none_of_ours_is_made_anew(home: Path, content: bytes) -> None:
    made: list[int] = []
    numbers("a", made)
    [file] = home.iterdir()
    file.write_bytes(content)
    assert [numbers("a", made) for _ in range(2)] == [1, 1]


def test_where_nothing_can_be_kept_it_is_made_each_time(home: Path) -> None:
    home.parent.mkdir()
    home.write_text("a file where the folder should be")
    made: list[int] = []
    assert [numbers("a", made) for _ in range(2)] == [0, 1]


def test_nothing_is_kept_of_a_failure(home: Path) -> None:
    def fail() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        keeping.remembered("numbers", "a", fail)
    assert not home.exists()


def test_marks_tell_where_parts_end() -> None:
    assert len({keeping.mark(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""])}) == 4
