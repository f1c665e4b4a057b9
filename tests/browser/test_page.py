"""What a reader does with the page: look at it anywhere, sort, filter, switch layers, print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.browser.synthetic import HOSTILE

LIMIT = 15e6


def column(table: Locator, index: int) -> list[str]:
    """Visible texts of a column."""
    rows = [row for row in table.locator("tbody tr").all() if row.is_visible()]
    return [row.locator("th, td").nth(index).inner_text().splitlines()[0] for row in rows]


def images_table(page: Page) -> Locator:
    page.get_by_text("Scores of each image", exact=True).click()
    return page.get_by_role("table", name=re.compile("^Scores of each image"))


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("opened", [False, True], ids=["as it opens", "all parts open"])
def test_the_page_never_overflows_sideways(report: Path, open_page: Open, width: int, opened: bool) -> None:
    page = open_page(report, width)
    if opened:
        page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Wide tables scroll in their own box.
    assert page.evaluate("[...document.querySelectorAll('table')].every((table) => table.closest('.scroll'))")


def test_all_pictures_can_be_shown(report: Path, open_page: Open) -> None:
    page = open_page(report)
    assert page.locator("img").count() > 30
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_the_first_table_has_intervals_and_the_change(report: Path, open_page: Open) -> None:
    table = open_page(report).get_by_role("table", name="Main scores")
    row = table.locator("tbody tr").first
    expect(row).to_contain_text("cells")
    expect(row.locator("td").nth(2)).to_contain_text(re.compile(r"\d–0\.\d+\s*\+0\.\d+ better\s*\+0\.\d+ to \+0\.\d+"))


def test_the_first_table_is_seen_as_a_whole_on_a_desk(report: Path, open_page: Open) -> None:
    box = open_page(report).locator(".scroll").first
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_a_click_sorts_and_another_one_turns_around(report: Path, open_page: Open) -> None:
    table = images_table(open_page(report))
    head = table.get_by_role("columnheader", name="ap50")
    index = head.evaluate("cell => cell.cellIndex")
    values = column(table, index)
    assert len(values) == 30 and len(set(values)) > 5
    for wanted in ("ascending", "descending"):
        head.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", wanted)
        assert column(table, index) == sorted(values, key=float, reverse=wanted == "descending")
    assert table.locator("th[aria-sort]").count() == 1


def test_numbers_are_sorted_as_numbers_and_dashes_come_last(report: Path, open_page: Open) -> None:
    page = open_page(report)
    page.evaluate("""() => {
        const body = document.querySelector('table.summary').tBodies[0];
        const values = ['9', '-', '10', '1,000', '0:01:40'];
        body.replaceChildren(...values.map((value) => {
            const row = document.createElement('tr');
            row.insertCell().textContent = value;
            return row;
        }));
    }""")
    table = page.get_by_role("table", name="Main scores")
    for expected in (["9", "10", "0:01:40", "1,000", "-"], ["1,000", "0:01:40", "10", "9", "-"]):
        table.get_by_role("button", name="data set").click()
        assert column(table, 0) == expected


def test_the_keyboard_sorts_too(report: Path, open_page: Open) -> None:
    page = open_page(report)
    button = page.get_by_role("table", name="Main scores").get_by_role("button", name="iou")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="iou")).to_have_attribute("aria-sort", "ascending")


def test_the_keyboard_reaches_the_scores_first(report: Path, open_page: Open) -> None:
    page = open_page(report)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the scores")).to_be_focused()


def test_the_filter_leaves_the_rows_with_all_words(report: Path, open_page: Open) -> None:
    page = open_page(report)
    table = images_table(page)
    field = table.locator("xpath=ancestor::details").get_by_role("searchbox")
    field.fill("IMAGE_01 test")
    assert sorted(column(table, 0)) == [f"image_{number:03d}" for number in range(10, 20)]
    expect(table.locator("xpath=ancestor::details").locator("output")).to_have_text("10 of 30")
    field.fill("")
    assert len(column(table, 0)) == 30


def test_each_layer_can_be_switched(report: Path, open_page: Open) -> None:
    page = open_page(report)
    gallery = page.locator(".gallery").first
    for name, label, shown in (
        ("errors", "errors by kind", True),
        ("truth", "annotated outlines", False),
        ("result", "found outlines", True),
        ("probability", "foreground probability", False),
        ("ignored", "ignored areas", True),
    ):
        layer = gallery.locator(f"img.{name}").first
        expect(layer).to_be_visible(visible=shown)
        gallery.get_by_label(label).click()
        expect(layer).to_be_visible(visible=not shown)
    # The other gallery is left alone.
    expect(page.locator("img.entropy").first).to_be_visible()
    page.get_by_label("uncertainty").press("Space")
    expect(page.locator("img.entropy").first).to_be_hidden()


def test_layers_lie_exactly_upon_each_other(report: Path, open_page: Open) -> None:
    stack = open_page(report).locator(".gallery .stack").first
    stack.page.get_by_label("annotated outlines").click()
    visible = [image for image in stack.locator("img").all() if image.is_visible()]
    boxes = {tuple(image.bounding_box().values()) for image in visible}  # type: ignore[union-attr]
    assert len(boxes) == 1


def test_a_picture_can_be_enlarged(report: Path, open_page: Open) -> None:
    view = open_page(report).locator(".gallery .view").first
    before = view.bounding_box()
    view.get_by_role("button").click()
    after = view.bounding_box()
    assert before and after and after["width"] > 2 * before["width"]
    view.get_by_role("button").click()
    reduced = view.bounding_box()
    assert reduced and reduced["width"] == before["width"]


def test_in_the_dark_text_and_charts_are_light(report: Path, open_page: Open) -> None:
    brightness = """(selector, key) => {
        const [r, g, b] = getComputedStyle(document.querySelector(selector))[key].match(/[\\d.]+/g).map(Number);
        return (r + g + b) / 3;
    }"""
    measured = {}
    for scheme in ("light", "dark"):
        page = open_page(report, scheme=scheme)
        script = f"""() => {{
            const of = {brightness};
            return [of('body', 'backgroundColor'), of('body', 'color'), of('svg text', 'fill')];
        }}"""
        measured[scheme] = page.evaluate(script)
    assert measured["light"][0] > 240 and max(measured["light"][1:]) < 60
    assert measured["dark"][0] < 40 and min(measured["dark"][1:]) > 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(report: Path, open_page: Open, scheme: str) -> None:
    """WCAG 2.1, 1.4.3: at least 4.5 to 1."""
    page = open_page(report, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    worst = page.evaluate("""() => {
        const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map(linear)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (node) => {
            for (; node; node = node.parentElement) {
                const colour = numbers(getComputedStyle(node).backgroundColor);
                if (colour.length === 3 || colour[3] > 0.5) return colour;
            }
            return [255, 255, 255];
        };
        const found = [];
        const kinds = 'h1,h2,h3,h4,p,li,a,label,legend,td,th,td span,td b,th span,'
            + 'caption,figcaption,summary,code,pre,button';
        for (const node of document.querySelectorAll(kinds)) {
            if (!node.textContent.trim() || node.closest('svg') || node.classList.contains('swatch')) continue;
            const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
            found.push([(a + 0.05) / (b + 0.05), node.tagName, node.className, node.textContent.slice(0, 40)]);
        }
        return found.sort((x, y) => x[0] - y[0])[0];
    }""")
    assert worst[0] >= 4.5, worst


def test_a_name_with_markup_is_text(report: Path, open_page: Open) -> None:
    page = open_page(report)
    assert page.locator("script").count() == 1 and page.locator("img[src=x], img[onerror]").count() == 0
    assert column(images_table(page), 0).count(HOSTILE) == 1
    page.get_by_text("Configuration", exact=True).click()
    expect(page.locator("pre")).to_contain_text(HOSTILE)


def test_other_scripts_do_not_run(report: Path, browser: object, tmp_path: Path, open_page: Open) -> None:
    """Even if markup came through, it could not run: the page allows its own script alone."""
    attacked = tmp_path / "attacked.html"
    attacked.write_text(report.read_text().replace("<main>", "<main><script>document.title = 'attacked'</script>", 1))
    context = open_page(report).context
    page = context.new_page()
    page.goto(attacked.as_uri())
    assert page.title() == "U-Net report"


def test_without_scripts_all_is_there(report: Path, open_page: Open) -> None:
    page = open_page(report, scripts=False)
    expect(page.get_by_role("table", name="Main scores")).to_be_visible()
    gallery = page.locator(".gallery").first
    gallery.get_by_label("errors by kind").click()
    expect(gallery.locator("img.errors").first).to_be_hidden()


def test_links_of_the_page_lead_somewhere(report: Path, open_page: Open) -> None:
    page = open_page(report)
    for link in page.locator("nav a").all():
        link.click()
        expect(page.locator(str(link.get_attribute("href")))).to_be_in_viewport()


def test_paper_shows_all_parts_and_no_controls(report: Path, open_page: Open) -> None:
    page = open_page(report)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    expect(page.locator("nav")).to_be_hidden()
    expect(page.locator("fieldset").first).to_be_hidden()
    # As wide as A4 without its margins.
    page.set_viewport_size({"width": 720, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_two_hundred_images_stay_below_the_limit(large_report: Path, open_page: Open) -> None:
    assert large_report.stat().st_size < LIMIT
    page = open_page(large_report, 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(column(images_table(page), 0)) == 200
