"""The documentation: pages that follow from the code, the order of the site, and its links."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from docs import commands, configuration
from docs.mkdocs_hooks import LOADED, PAGES, ROOT, anchor, for_site, links, place_in_repository, place_on_site
from unet_core.config.options import Config

HOW = "run 'make config'"
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / page for page in PAGES)])


def test_the_page_of_the_options_and_their_schema_are_up_to_date() -> None:
    assert configuration.OUTPUT.read_text(encoding="utf-8") == configuration.page(), HOW
    assert json.loads(configuration.SCHEMA.read_text(encoding="utf-8")) == configuration.schema(), HOW


def test_the_page_of_the_commands_is_up_to_date() -> None:
    assert commands.OUTPUT.read_text(encoding="utf-8") == commands.page(), HOW


def test_each_command_says_how_it_is_called() -> None:
    page = commands.OUTPUT.read_text(encoding="utf-8")
    for name in commands.COMMANDS:
        assert f"    usage: python -m unet_core {name} [-h]" in page


def test_the_page_of_the_options_has_each_with_type_limits_default_and_meaning() -> None:
    page = configuration.page()
    for row in (
        "| `scale` | number at least 1 and at most 4 | `1` | scaling between 1/scale and scale |",
        "| `dropout` | number at least 0 and below 1 | `0.5` | dropout at the end of the contracting path |",
        "| `fill` | `none`, `planes`, `volume` | `none` | ",
        "| `images` | text, or list: text | needed | ",
        "| `classes` | list of at least 1 and at most 254: text | `[cell]` | ",
    ):
        assert f"\n{row}" in page
    sections = [name for name in Config.model_fields if name not in ("results", "datasets", "models")]
    assert [name for name in sections if f"\n## {name}\n" not in page] == []
    assert all("||" not in line and "|  |" not in line.replace("section |  |", "") for line in page.splitlines())


def test_the_schema_allows_configurations_that_run_and_marks_mistakes() -> None:
    schema = configuration.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    allows = jsonschema.Draft202012Validator(schema).is_valid
    for path in ("config.yaml", "benchmarks/real.yaml"):
        assert allows(yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))
    right: dict[str, object] = {"datasets": {"cells": {"images": "a.tif"}}}
    assert allows(right)
    for wrong in ({"trian": {}}, {"train": {"batch": 0}}, {"train": {"optimiser": "sdg"}}, {"datasets": {"a b": {}}}):
        assert not allows(right | wrong)


def named_in(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in named_in(part)]


def test_the_site_has_each_page_once_and_no_other() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(named_in(site["nav"])) == sorted(place_on_site(str(path.relative_to(ROOT))) for path in DOCUMENTS)


def headings(path: Path) -> set[str]:
    """Anchors of a page; code has none."""
    lines = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S).splitlines()
    return {anchor(line.lstrip("#").replace("`", "")) for line in lines if re.match("#+ ", line)}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        name, mark, part = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_relative_to(ROOT) and file.exists(), target
        assert not mark or part in headings(file), f"{target}: no such heading"


def test_links_of_the_repository_become_links_of_the_site() -> None:
    assert for_site("[a](docs/a.md#b) ![p](docs/p.png) [c](config.yaml) [s](#part)", "README.md") == (
        "[a](a.md#b) ![p](p.png) [c](config.yaml) [s](#part)"
    )
    assert for_site("[h](https://x.y/docs/a.md) [m](mailto:a@b.c)", "README.md") == (
        "[h](https://x.y/docs/a.md) [m](mailto:a@b.c)"
    )
    assert for_site("[r](../README.md#more) [e](../envs/unet.yaml) [c](cluster.md)", "docs/install.md") == (
        "[r](index.md#more) [e](envs/unet.yaml) [c](cluster.md)"
    )
    assert for_site("[c](../docs/cluster.md) [s](slurm/config.yaml)", "profiles/README.md") == (
        "[c](../cluster.md) [s](slurm/config.yaml)"
    )
    for path in DOCUMENTS:
        name = str(path.relative_to(ROOT))
        assert place_in_repository(place_on_site(name)) == name


def test_code_has_no_links_and_anchors_are_those_of_forges() -> None:
    assert links("a `[x](y.md)` [b](c.md)\n\n    [d](e.md)\n\n```\n[f](g.md)\n```\n[h](i.md)") == ["c.md", "i.md"]
    assert anchor("Where is ...?") == "where-is-" and anchor("train.network") == "trainnetwork"
    assert anchor("Look at `them`, please") == "look-at-them-please"


@pytest.mark.parametrize(
    ("html", "elsewhere"),
    [
        ('<script src="https://unpkg.com/a.js">', ["https://unpkg.com/a.js"]),
        ("<link rel=stylesheet href=//fonts.example/css>", ["//fonts.example/css"]),
        ('<img alt="" src="http://a.b/c.png">', ["http://a.b/c.png"]),
        ('<link rel="canonical" href="https://pages.example/unet/">', []),
        ('<a href="https://napari.org">napari</a><script src="assets/a.js"></script><link href="../b.css">', []),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(html: str, elsewhere: list[str]) -> None:
    assert LOADED.findall(html) == elsewhere


def test_the_workflow_can_be_cited_and_is_found_by_the_catalog() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert cited["version"] == re.search(r'^version = "(.+)"$', pyproject, re.M)[1]  # type: ignore[index]
    assert yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme and "workflow" in readme
