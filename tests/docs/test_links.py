"""The links of all pages lead somewhere, on GitHub and on the site. Needs no mkdocs."""

import re

import pytest

from tests.docs.markdown import ROOT, anchors, links, pages

EVERY = sorted({*pages(), *ROOT.glob("docs/results/*.md")})


@pytest.mark.parametrize("page", EVERY, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
        if (ROOT / "docs") in page.parents:
            assert (ROOT / "docs") in target.parents, f"{link} is not on the site"


def test_every_page_is_in_the_navigation_and_in_the_list_of_the_home_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"([\w/-]+\.md)$", text, re.MULTILINE))
    assert {page.name for page in ROOT.glob("docs/*.md")} <= listed
    home = {link.partition("#")[0] for link in links(ROOT / "docs" / "index.md")}
    assert {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"} <= home
