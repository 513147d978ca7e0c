"""The page in a real browser: a prompt is typed, the button pressed, a picture appears."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import PIL.Image
import PIL.ImageStat
import pytest

from tests.ui.conftest import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SECONDS = 1000  # Playwright counts in milliseconds
PROMPT = "a red apple on a sky blue background"


@dataclass
class Visit:
    """A page, what it asked of whom, and what it complained of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", lambda r: self._note(f"{r.status} {r.url}", r.status >= 400))
        self.page.on("console", lambda m: self._note(m.text, m.type == "error"))
        self.page.on("pageerror", lambda error: self._note(str(error), True))

    def _note(self, complaint: str, is_one: bool) -> None:
        if is_one:
            self.complaints.append(complaint)

    def strangers(self) -> list[str]:
        """What was asked of anyone but this machine."""
        split = {url: urlsplit(url) for url in self.asked}
        web = {"http", "https", "ws", "wss"}
        return [u for u, s in split.items() if s.scheme in web and s.hostname != "127.0.0.1"]


@pytest.fixture
def visit(served: Served, browser: Browser) -> Iterator[Visit]:
    """The page, open, with its model at hand."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(60 * SECONDS)
    visit = Visit(context.new_page())
    visit.listen()
    visit.page.goto(served.url)
    visit.page.locator(".gc-ready").wait_for()
    yield visit
    context.close()


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def test_a_prompt_becomes_a_picture(visit: Visit, served: Served, tmp_path: Path) -> None:
    page, before = visit.page, set(served.folder.iterdir())

    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Generate").click()
    page.locator(".gc-done").wait_for()
    page.locator("#picture img[src$='.png']").wait_for()
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    (file,) = set(served.folder.iterdir()) - before
    assert_picture_is_not_blank(page)
    assert_download_is(file, page)
    assert_settings_are_told(page)
    assert visit.strangers() == []
    assert visit.complaints == []


def assert_picture_is_not_blank(page: Page) -> None:
    screenshot = page.locator("#picture img").screenshot()
    levels = PIL.ImageStat.Stat(PIL.Image.open(io.BytesIO(screenshot)).convert("RGB"))
    assert max(levels.stddev) > 10, "of 255: less is one colour"


def assert_download_is(file: Path, page: Page) -> None:
    with page.expect_download() as download:
        page.locator("#picture").get_by_label("Download").click()
    assert download.value.suggested_filename == file.name
    assert Path(download.value.path()).read_bytes() == file.read_bytes()


def assert_settings_are_told(page: Page) -> None:
    seed = page.get_by_label("Seed").input_value()
    assert f"seed\n{seed}" in page.locator("#details").inner_text()
    command = page.locator("#command textarea").input_value()
    assert command.startswith(f"python -m scripts.generate '{PROMPT}' --seed {seed} ")


def test_the_keyboard_starts_and_stops(page: Page, served: Served) -> None:
    before = set(served.folder.iterdir())
    page.get_by_label("Steps").fill("1000")
    page.get_by_label("Prompt", exact=True).fill("a pear")
    page.keyboard.press("Control+Enter")
    page.locator("#status", has_text=re.compile("step [1-9]")).wait_for()

    page.keyboard.press("Escape")

    page.locator("#status", has_text="stopped: nothing was finished").wait_for()
    assert set(served.folder.iterdir()) == before


def test_bad_input_is_said_in_the_words_of_the_spec(page: Page) -> None:
    line = "num_inference_steps = 0: must be between 1 and 1000"
    page.get_by_label("Steps").fill("0")
    page.keyboard.press("Control+Enter")
    page.locator("#status", has_text=line).wait_for()
    page.get_by_test_id("toast-body").filter(has_text=line).wait_for()


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    controls = page.locator("#controls").bounding_box()
    results = page.locator("#results").bounding_box()

    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert controls
    assert results
    assert controls["width"] > 340
    assert results["y"] >= controls["y"] + controls["height"], "one below the other"
