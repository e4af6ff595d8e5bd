"""Debian's Chromium, headless, before a running service."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from debian_tools import debian_tool
from random_images import GREY_CONFIG, write_images
from service.test_live import Live, finish, start

REPOSITORY = Path(__file__).parents[2]
DESKTOP, PHONE = (1280, 800), (390, 844)
_SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@dataclass
class Window:
    """A page of a browser, and what it complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def shown(self, expression: str = "shown") -> Any:
        """A JavaScript expression over what the page shows."""
        return self.page.evaluate(f"import('/page/main.js').then(({{ shown }}) => {expression})")

    def wait(self, expression: str, timeout_s: float = 15) -> None:
        """Until an expression over what the page shows is true."""
        until = time.monotonic() + timeout_s
        while not self.shown(f"Boolean({expression})"):
            assert time.monotonic() < until, f"{expression} must become true, {self.shown()}"
            self.page.wait_for_timeout(20)

    def wait_for_text(self, selector: str, text: str) -> None:
        self.page.locator(selector, has_text=text).wait_for(timeout=15_000)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def pause(self) -> None:
        """Stop the replay, and wait until what was on its way is drawn."""
        self.page.click("#play")
        self.page.wait_for_timeout(300)

    def pixels(self, selector: str = "#skeleton") -> bytes:
        return self.page.locator(selector).screenshot()


# Not of the session: as long as Playwright runs, this thread has a running event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = debian_tool("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=_SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Window]]:
    """Opens pages; closed after the test."""
    contexts = []

    def opened(url: str, size: tuple[int, int] = DESKTOP, **options: Any) -> Window:
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, accept_downloads=True, **options)
        contexts.append(context)
        window = Window(context.new_page())
        window.page.on(
            "console",
            lambda said: said.type in {"error", "warning"} and window.complaints.append(said.text),
        )
        window.page.on("pageerror", lambda error: window.complaints.append(str(error)))
        window.page.goto(url)
        return window

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped pose model, and an image model with random weights."""
    root = tmp_path_factory.mktemp("packages")
    (root / "mars").symlink_to(REPOSITORY / "models" / "mars")
    write_images(root, "grey", "1", GREY_CONFIG)
    return root


@pytest.fixture(scope="session")
def service(packages: Path) -> Iterator[Live]:
    live = start(packages, max_body_bytes=4_000_000)
    yield live
    finish(live)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
