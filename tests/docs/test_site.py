"""The documentation as a site: it builds strictly, can be searched, asks nothing of other hosts, and has every command, key and code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from dsqlcdc.cli.app import COMMANDS
from tests.house.reading import codes, sources

from .reading import REFERENCE, ROOT, named, rows

ERRORS = ROOT / "docs" / "errors"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """docs/site.py, which is a script beside the pages."""
    spec = importlib.util.spec_from_file_location("dsqlcdc_docs_site", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(site: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("site") / "html"
    assert site.build(out) == 0
    return out


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_site_builds_strictly_and_can_be_searched(built: Path) -> None:
    for page in (
        "index",
        "search",
        "README",
        "commands",
        "config",
        "docs/guarantees",
        "docs/errors/aws",
        "docs/runbook/gap",
        "examples/README",
    ):
        assert (built / f"{page}.html").exists(), page
    index = text_of(built / "searchindex.js")
    for word in ("tombston", "checkpoint", "e301", "lateness"):  # the search's own stems
        assert word in index


@pytest.mark.slow
def test_the_site_asks_nothing_of_other_hosts(built: Path) -> None:
    """Links may lead out; nothing is fetched from there."""
    fetched = re.compile(
        r"""<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=["'](?:https?:)?//|(?:@import|url\()\s*["']?(?:https?:)?//"""
    )
    files = [path for path in built.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 50
    assert [str(path) for path in files if fetched.search(text_of(path))] == []
    assert fetched.search('<script async src="https://cdn.example/x.js">')  # the control
    assert fetched.search("@import url(//fonts.example/a.css)")


@pytest.mark.slow
def test_every_command_has_its_section(site: ModuleType, built: Path) -> None:
    page = text_of(built / "commands.html")
    words = [" ".join(each) for each in site.command_words()]
    assert {each.split()[0] for each in words} == set(COMMANDS)
    assert [each for each in words if f'id="{each.replace(" ", "-")}"' not in page or f"Usage: dsqlcdc {each}" not in page] == []


@pytest.mark.slow
def test_every_config_key_has_its_entry_with_a_meaning(site: ModuleType, built: Path) -> None:
    page = text_of(built / "config.html")
    keys = {key: (takes, meaning) for key, takes, _, meaning in site.entries()}
    assert {named(key)[0] for key, _, _ in rows(REFERENCE, "Config keys")} <= set(keys)
    assert [key for key, (takes, meaning) in keys.items() if not takes or len(meaning) < 3] == []
    assert [key for key in keys if f">{key.replace('<', '&lt;').replace('>', '&gt;')}<" not in page] == []


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nowhere.md", "docs/gaps.md#nothing", "#nothing", "deploy/iam/nothing.json"])
def test_a_link_that_leads_nowhere_fails_the_build(site: ModuleType, link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control. Of a site of few pages, so that it is quick."""
    menus = ("examples/README.md", "docs/runbook/README.md", "docs/errors/index.md")
    pages = ("docs/index.md", "docs/gaps.md", "docs/errors/config.md", *menus)
    monkeypatch.setattr(site, "PAGES", (*pages, "deploy/iam/init.json"))
    monkeypatch.setattr(site, "MENUS", {"All": ["page"]})
    bare = "---\norphan: true\n---\n# Title\n"
    monkeypatch.setattr(site, "commands", lambda: bare)
    monkeypatch.setattr(site, "config", lambda: bare)
    whole = dict.fromkeys(("index.md", *pages[1:]), bare)
    whole["index.md"] += "\n```{toctree}\npage\n```\n"
    good = "# Page\n\n[a](docs/gaps.md) [b](docs/gaps.md#title) [c](deploy/iam/init.json) [d](#page)\n"
    assert site.build(tmp_path / "good", pages={**whole, "page.md": good}) == 0
    assert site.build(tmp_path / "bad", pages={**whole, "page.md": f"{good}\n[e]({link})\n"}) != 0


# errors ------------------------------------------------------------------------------------------------------------------------------


def entries() -> dict[str, str]:
    """The entry of each code."""
    found: dict[str, str] = {}
    for path in sorted(ERRORS.glob("*.md")):
        for code, text in re.findall(r"^## (E\d{3})\n(.*?)(?=^## |\Z)", text_of(path), re.MULTILINE | re.DOTALL):
            assert code not in found, code
            found[code] = text
    return found


def test_every_error_code_has_its_entry_and_every_entry_is_a_code() -> None:
    assert set(entries()) == {use.code for use in codes(sources())}


def test_every_entry_says_what_it_means_how_to_see_it_and_what_to_do() -> None:
    form = re.compile(r"\n\*\*[^*\n]+\.\*\*\n\n- Means: [^\n]{10,}\n- See: [^\n]{5,}\n- Do: [^\n]{5,}\n*")
    assert {code: text for code, text in entries().items() if not form.fullmatch(text)} == {}


def test_the_table_of_areas_covers_every_code() -> None:
    spans = [
        (low, high) for _, cell in rows(ERRORS / "index.md", "Errors by code") for low, high in re.findall(r"(E\d{3})(?:–(E\d{3}))?", cell)
    ]
    assert [code for code in entries() if not any(low <= code <= (high or low) for low, high in spans)] == []
    for area, cell in rows(ERRORS / "index.md", "Errors by code"):
        page = ERRORS / re.findall(r"\((\w+\.md)\)", area)[0]
        for code in re.findall(r"E\d{3}", cell):
            assert f"## {code}\n" in text_of(page), (page.name, code)
