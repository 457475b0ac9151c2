"""Links between the documentation's pages lead somewhere: to a file, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    """A page without its code, where brackets and parentheses are Python's."""
    return re.sub(
        r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere; those to the web are not followed."""
    found = []
    for link in LINK.findall(without_code(text)):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        web = re.match(r"https?:", link)
        if not web and not (target.exists() and (not anchor or anchor in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page, page.read_text(encoding="utf-8"))


def test_a_broken_link_is_seen() -> None:
    text = "[a](#no-such-heading) [b](no_such_file.md) [c](#architecture) `[d](none)`"
    page = ROOT / "docs" / "architecture.md"
    assert broken(page, text) == ["#no-such-heading", "no_such_file.md"]
