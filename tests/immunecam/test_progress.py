"""Bars are for people: on stderr, and nothing in a name is taken for markup."""

from __future__ import annotations

import pytest

from immunecam.commands.progress import bar, bars, counter, named_bars, one_bar


def test_one_bar_says_what_is_done_now(capsys):
    with one_bar() as tell:
        tell("[bold] run/1: PGD", 3, 7)
    out, err = capsys.readouterr()
    assert out == ""
    assert "[bold] run/1: PGD" in err
    assert "3/7" in err


def test_each_name_gets_a_bar_of_its_own(capsys):
    with bars() as progress:
        move = named_bars(progress)
        move("one", 1, 2)
        move("two", 5, 9)
        move("one", 2, 2)
        bar(progress, "three")(0, 4)
        assert [(task.description, task.completed, task.total) for task in progress.tasks] == [
            ("one", 2, 2),
            ("two", 5, 9),
            ("three", 0, 4),
        ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("make", [lambda: bars(hidden=True), counter])
def test_what_is_hidden_or_goes_away_leaves_nothing_on_stdout(make, capsys):
    with make() as progress:
        progress.add_task("[x]", total=1, state="")
    assert capsys.readouterr().out == ""
