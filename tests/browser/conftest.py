"""The report page in a real browser: `make browser-test` starts these; without UNET_BROWSER they are not collected."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.synthetic import write_results

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium without a window, or the one that UNET_CHROMIUM names."""
    executable = os.environ.get("UNET_CHROMIUM") or shutil.which("chromium")
    assert executable, "no chromium; run `make browser-test`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up run."""
    return write_results(tmp_path_factory.mktemp("report"), images=30, side=96)


@pytest.fixture(scope="session")
def large_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up run on 200 noisy images, which compress badly."""
    return write_results(tmp_path_factory.mktemp("large"), images=200, side=700, previews=50)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a page, and asks in the end that nothing was wrong and nothing fetched."""
    troubles: list[str] = []
    pages: list[Page] = []

    def opened(path: Path, width: int = 1280, scheme: str = "light", scripts: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 850},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=scripts,
        )
        page = context.new_page()
        page.on(
            "console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url),
        )
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.context.close()
    assert not troubles
