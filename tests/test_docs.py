"""The documentation says what is: drawings match the tables, links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RUN = {
    "tutorial.md": 6,
    "howto-launch.md": 9,
    "howto-tasks.md": 6,
    "howto-metrics.md": 1,
    "howto-large-results.md": 2,
    "howto-no-network.md": 2,
}
"""Pages whose listings are run, with the least number of commands in each."""


def test_the_state_diagrams_are_drawn_from_the_tables_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("zcell_docs_diagrams", ROOT / "docs" / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    diagrams = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diagrams)
    page = (ROOT / "docs" / "protocol.md").read_text()
    assert diagrams.redrawn(page) == page, "run: python docs/diagrams.py"
    assert page.count("stateDiagram-v2") == len(diagrams.MACHINES)


def headings(page: Path) -> set[str]:
    """The names under which the headings of `page` are linked."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_every_link_between_pages_leads_to_a_file_and_a_heading() -> None:
    assert PAGES
    for page in PAGES:
        for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            if "://" in target or target.startswith("mailto:"):
                continue
            place = page.parent / target if target else page
            assert place.exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"
            assert not heading or heading in headings(place), f"{page.relative_to(ROOT)} links to {target}#{heading}"


def test_the_readme_links_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)", (ROOT / "README.md").read_text()))
    assert {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")} == linked


def test_the_numbers_of_the_message_kinds_on_the_page_are_those_of_the_code() -> None:
    from zcell.protocol.envelope import Kind

    page = (ROOT / "docs" / "protocol.md").read_text()
    for kind in Kind:
        listed = re.search(rf"\| {kind.name} \| {int(kind)} \|", page) or re.search(rf"\b{kind.name} {int(kind)}\b", page)
        paired = kind in (Kind.PING, Kind.PONG) and "| PING, PONG | 21, 22 |" in page
        assert listed or paired, f"{kind.name} = {int(kind)} is not on the page"


def listings(page: str) -> Iterator[tuple[str, str]]:
    """("file", name and text) and ("console", text) of a page, in order."""
    for language, text in re.findall(r"```(python|console)\n(.*?)```", page, re.DOTALL):
        yield ("file" if language == "python" else "console"), text


@pytest.mark.parametrize("page", RUN)
def test_the_listings_of_a_page_do_what_it_says(page: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ZCELL_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
    }
    ran = 0
    for kind, text in listings((ROOT / "docs" / page).read_text()):
        if kind == "file":
            name = re.match(r"# file: (\S+)\n", text)
            assert name is not None, "a listing without its file's name"
            (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name[1]).write_text(text)
            continue
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90
            )
            assert done.stdout == expected, f"$ {command}\n{done.stdout}\nexpected:\n{expected}\n{done.stderr}"
            ran += 1
    assert ran >= RUN[page]
