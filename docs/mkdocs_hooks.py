"""Hooks of MkDocs: README.md is the front page, and links that work in the repository work on the site.

The pages are written for readers of the repository, with links as ``../config.yaml`` and anchors as forges make them.
`mkdocs.yml` names this file; ``make docs`` builds the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
# A link or an image; what is linked, without a title.
LINK = re.compile(r"(\]\()([^)\s]+)(?=\))")
# What a page of the site would load from elsewhere; its canonical address is no such thing.
LOADED = re.compile(
    r"<(?:script|img|iframe|link(?![^>]*\brel=[\"']?canonical))\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)",
    re.I,
)
# Pages of the repository beside docs/. Other files that a page links to come along as they are.
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "profiles/README.md")
NOT_LINKS = re.compile(r"^(?: {4}[^\n]*|```.*?^```)$|`[^`\n]*`", re.M | re.S)


def links(text: str) -> list[str]:
    """Targets of the relative links of a text in Markdown, in their order; code has none."""
    return [found[2] for found in LINK.finditer(NOT_LINKS.sub("", text)) if is_relative(found[2])]


def is_relative(target: str) -> bool:
    """Whether a link leads to the repository."""
    parts = urlsplit(target)
    return not (parts.scheme or parts.netloc or target.startswith("/"))


def anchor(title: str, separator: str = "-") -> str:
    """Anchor of a heading, as forges make it: lower case, spaces as dashes, no other marks."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", separator)


def place_on_site(path: str) -> str:
    """Where a file of the repository lies among the sources of the site."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def place_in_repository(path: str) -> str:
    """The way back from `place_on_site`."""
    if path == "index.md":
        return "README.md"
    return path if (ROOT / path).is_file() and not (ROOT / "docs" / path).is_file() else f"docs/{path}"


def for_site(text: str, path: str) -> str:
    """A text of the repository with its relative links as they must be on the site.

    Parameters
    ----------
    text : str
        Markdown.
    path : str
        Its file, relative to the root of the repository.
    """
    here = posixpath.dirname(path)
    there = posixpath.dirname(place_on_site(path)) or "."

    def moved(match: re.Match[str]) -> str:
        name, mark, part = match[2].partition("#")
        if not name or not is_relative(match[2]):
            return match[0]
        target = place_on_site(posixpath.normpath(posixpath.join(here, name)))
        return match[1] + posixpath.relpath(target, there) + mark + part

    return LINK.sub(moved, text)


def on_config(config: Any) -> Any:
    """Make anchors as forges do."""
    config["mdx_configs"].setdefault("toc", {})["slugify"] = anchor
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages beside docs/, and the files beside it to which a page links."""
    from mkdocs.structure.files import File

    pages = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    linked = {
        posixpath.normpath(posixpath.join(posixpath.dirname(page), target.partition("#")[0]))
        for page in pages
        for target in links((ROOT / page).read_text(encoding="utf-8"))
        if not target.startswith("#")
    }
    for path in sorted({*PAGES, *linked}):
        if not path.startswith("docs/") and (ROOT / path).is_file():
            files.append(File.generated(config, place_on_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let the links of a page lead to where their files are on the site."""
    return for_site(markdown, place_in_repository(page.file.src_uri))


def on_post_build(config: Any) -> None:
    """Refuse a site whose pages load something from elsewhere."""
    from mkdocs.exceptions import PluginError

    pages = sorted(Path(config["site_dir"]).rglob("*.html"))
    found = {url: page for page in pages for url in LOADED.findall(page.read_text(encoding="utf-8"))}
    if found:
        raise PluginError("\n".join(f"{page} loads {url}: pages must work offline" for url, page in found.items()))
