"""The README's chapter on audit and docs/audit.md, line by line, in one shell: from nothing to `audit verify: whole`, and beyond."""

from __future__ import annotations

from pathlib import Path

import pytest

from .reading import README, ROOT, blocks
from .walking import Clone, script_of, unsaid

PAGE = ROOT / "docs" / "audit.md"
CHAPTER = script_of(block.text for block in blocks(README, "bash") if block.heading == "Audit")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_chapter_of_the_readme_and_the_page_behind_it_can_be_followed_line_by_line(tmp_path: Path) -> None:
    """Blocks of `bash`, in order; nothing is there before but the clone: the chapter starts its own embedded AWS."""
    told = Clone(tmp_path, {}).walk(CHAPTER + script_of(block.text for block in blocks(PAGE, "bash")), timeout=850)
    assert "Traceback" not in told


def test_what_a_document_says_is_printed_is_looked_for_in_its_order() -> None:
    """Control."""
    script = "a   # → read 106 = 106 …\nb   # a comment\nc  # every byte. → whole\n"
    assert unsaid(script, "read 7 = 7 delivered\nwhole\n") == ""
    assert unsaid(script, "whole\nread 7 = 7 delivered\n") == "whole"
    assert unsaid(script, "read 7 of 7 delivered\nwhole\n") == "read 106 = 106 …"


def test_every_command_of_the_page_is_run_or_says_why_not() -> None:
    """`sh` blocks are run by nobody: the page has none but those that change a real account, under a sentence that says so."""
    assert CHAPTER.count("dsqlcdc ") >= 4
    text = PAGE.read_text(encoding="utf-8")
    for block in blocks(PAGE, "sh"):
        before = text.partition(block.text)[0].rstrip().removesuffix("```sh").rstrip().splitlines()[-1]
        assert "Not run here" in before, block.text
