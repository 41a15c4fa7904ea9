"""What commands that measure for hours share."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from immunecam.commands.measuring import check_page, part_of, say_part, write_pages_of
from immunecam.errors import UsageError


@pytest.mark.parametrize(("text", "part"), [("1/1", (1, 1)), ("2/4", (2, 4)), (None, None)])
def test_parts(text, part):
    assert part_of(text) == part


@pytest.mark.parametrize("text", ["", "0/4", "5/4", "1/0", "1", "a/b", "1/4/2", "-1/4"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UsageError, match=r"the part is .* but it must be I/N with I from 1 to N"):
        part_of(text)


def test_a_part_says_how_to_go_on():
    out = io.StringIO()
    say_part(Console(file=out, markup=False), "1/2", Path("[a] work"))
    assert out.getvalue().rstrip().endswith("without --part and with --merge [a] work")


def test_a_page_leaves_a_name_for_its_plots():
    check_page(None)
    check_page(Path("page.md"))
    with pytest.raises(UsageError, match=r"give a file such as page\.md"):
        check_page(Path("page"))


def test_pages_of_a_report_need_a_name():
    written = []
    with pytest.raises(UsageError, match="--page-of needs"):
        write_pages_of(Path("r.json"), None, None, load=dict, write=lambda *_: written.append(1), console=Console())
    assert not written
    out = io.StringIO()
    write_pages_of(
        Path("r.json"),
        Path("p.md"),
        None,
        load=lambda path: {"of": path},
        write=lambda *given: written.append(given),
        console=Console(file=out),
    )
    assert written == [({"of": Path("r.json")}, Path("p.md"), None)]
    assert out.getvalue() == "wrote p.md\n"
