"""The pages in a real browser: what is typed and pressed, and what appears."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import PIL.Image
import PIL.ImageStat
import pytest

from pipeline.outcome import verify
from tests.ui.conftest import Served
from ui.morph import EXAMPLE
from ui.runs import Runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

SECONDS = 1000  # Playwright counts in milliseconds
PROMPT = "a red apple on a sky blue background"
MAN, WOMAN = (keyframe.prompt for keyframe in EXAMPLE)


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


# Morphs


@pytest.fixture
def morph(visit: Visit) -> Page:
    """The Morph page, with numbers that are quickly made."""
    open_morph(visit.page)
    for label, number in (("Frames", 5), ("Steps", 2), ("Width", 64), ("Height", 64)):
        field(visit.page, label).fill(str(number))
    visit.page.get_by_label("even speed").uncheck()
    return visit.page


def open_morph(page: Page) -> None:
    page.get_by_role("tab", name="Morph").click()
    page.locator("#keyframe-1").wait_for()


def field(page: Page, label: str) -> Locator:
    return page.locator("#morph-controls").get_by_label(label, exact=True)


def prompts(page: Page) -> list[str]:
    rows = page.locator(".gc-keyframe").all()
    return [row.get_by_label("Prompt", exact=True).input_value() for row in rows]


def test_keyframes_become_a_film(visit: Visit, morph: Page, served: Served, tmp_path: Path) -> None:
    morph.locator("#make").click()
    morph.locator("#morph-status .gc-done").wait_for()
    morph.locator("#film video").wait_for()
    morph.screenshot(path=tmp_path / "morph.png", full_page=True)

    assert_film_plays(morph)
    morph.locator("#report img").wait_for()
    told = morph.locator("#morph-details").inner_text()
    (id,) = [line for line in told.splitlines() if re.fullmatch(r"\d{8}-\d{6}-\w{6}", line)]
    stored = Runs(served.folder / "morphs").open(id)
    assert list(verify(stored.folder)) == []
    assert_slider_shows_frames(morph, stored.frame(4))
    command = morph.locator("#morph-command textarea").input_value()
    assert command.startswith(f"python -m scripts.morph --from '{MAN}' --to '{WOMAN}' ")
    assert visit.strangers() == []
    assert visit.complaints == []


def assert_film_plays(page: Page) -> None:
    playing = "v => v.readyState >= 2 && v.videoWidth === 64 && v.loop"
    page.wait_for_function(f"({playing})(document.querySelector('#film video'))")


def assert_slider_shows_frames(page: Page, file: Path | None) -> None:
    assert file is not None
    page.locator("#scrub input[type=number]").fill("4")
    page.locator("#caption", has_text="frame 4 · position 1.0000").wait_for()
    assert str(page.locator("#frame img").get_attribute("src")).endswith(file.name)


def test_rows_are_added_moved_and_taken_away(morph: Page) -> None:
    morph.locator("#add-keyframe").click()
    third = morph.locator("#keyframe-3")
    third.get_by_label("Prompt", exact=True).fill("a princess")
    third.locator(".gc-up").click()
    morph.wait_for_function("document.querySelector('#keyframe-2 textarea').value === 'a princess'")
    assert prompts(morph) == [MAN, "a princess", WOMAN]

    morph.locator("#keyframe-1 .gc-remove").click()
    third.wait_for(state="detached")
    assert prompts(morph) == ["a princess", WOMAN]


def test_a_keyframe_s_picture_goes_with_its_words(morph: Page) -> None:
    row = morph.locator("#keyframe-1")
    row.locator(".gc-draw").click()
    row.locator("img.gc-thumb").wait_for()
    row.locator(".gc-down").click()
    morph.locator("#keyframe-2 img.gc-thumb").wait_for()
    assert row.locator("img.gc-thumb").count() == 0, "it has moved"

    moved = morph.locator("#keyframe-2")
    moved.get_by_label("Prompt", exact=True).fill("an old man")
    moved.locator("img.gc-thumb").wait_for(state="detached")


def test_a_preview_in_seconds(morph: Page) -> None:
    morph.locator("#preview").click()
    morph.locator("#morph-status", has_text="5 frames from").wait_for()
    assert morph.locator("#strip img").count() == 9


def test_a_morph_goes_on_when_its_tab_closes(visit: Visit, morph: Page, served: Served) -> None:
    """T24, through the page: found again by the same browser, and by its id from another."""
    field(morph, "Frames").fill("7")
    morph.locator("#make").click()
    morph.locator("#morph-status .gc-busy").wait_for()
    morph.wait_for_function("localStorage.getItem('greatcircle-morph') !== null")
    runs = Runs(served.folder / "morphs")
    context = morph.context
    morph.close()

    end = time.monotonic() + 60
    while not (found := [run for run in runs.open_all(9) if run.num_frames == 7 and run.report]):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert list(verify(found[0].folder)) == []

    for page in (context.new_page(), visit_as_another(context)):
        page.goto(served.url)
        open_morph(page)
        if page.context is not context:
            page.locator("#runs").get_by_text("Runs").click()
            page.locator("#run-id input").fill(found[0].id)
            page.locator("#run-id input").press("Tab")
            page.locator("#open-run").click()
        page.locator("#morph-details", has_text=found[0].id).wait_for()
        page.locator("#film video").wait_for()


def visit_as_another(context: BrowserContext) -> Page:
    assert context.browser is not None
    return context.browser.new_page()


def test_a_morph_is_stopped_by_the_keyboard_and_gone_on_with(morph: Page) -> None:
    field(morph, "Frames").fill("30")
    field(morph, "Steps").fill("40")
    morph.keyboard.press("Control+Enter")
    morph.locator("#morph-status", has_text=re.compile("step [1-9]")).wait_for()
    morph.keyboard.press("Escape")
    morph.locator("#morph-status", has_text="stopped: kept").wait_for()
    first = morph.locator("#morph-details").inner_text()

    morph.keyboard.press("Control+Enter")
    morph.locator("#morph-status", has_text=re.compile("step [1-9]")).wait_for()
    assert re.findall(r"\d{8}-\d{6}-\w{6}", morph.locator("#morph-details").inner_text()) == (
        re.findall(r"\d{8}-\d{6}-\w{6}", first)
    )
    morph.keyboard.press("Escape")
    morph.locator("#morph-status", has_text="stopped: kept").wait_for()


def test_bad_input_is_said_and_stays(morph: Page) -> None:
    field(morph, "Frames").fill("1")
    morph.locator("#make").click()
    line = "num_frames = 1: must be between 2 and 100000"
    morph.get_by_test_id("toast-body").filter(has_text=line).wait_for()


def test_the_morph_page_fits_a_phone(morph: Page) -> None:
    morph.set_viewport_size({"width": 390, "height": 844})
    prompt = morph.locator("#keyframe-1").get_by_label("Prompt", exact=True).bounding_box()

    assert morph.evaluate("document.documentElement.scrollWidth") <= 390
    assert prompt
    assert prompt["width"] > 200


def test_a_model_that_cannot_be_loaded_is_said(page: Page) -> None:
    page.locator("#model-field").get_by_text("Model", exact=True).first.click()
    page.get_by_label("Clip skip").fill("99")
    page.locator("#load").click()
    line = "clip_skip = 99: must be between 0 and 12"
    page.get_by_test_id("toast-body").filter(has_text=line).wait_for()


# Round trips


def test_a_picture_goes_there_and_back_and_is_disturbed(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.get_by_role("tab", name="Round trip").click()
    page.get_by_label("Square of").fill("64")
    page.get_by_label("Trips").fill("2")

    page.locator("#trip-sample").get_by_label("letters").check()
    page.locator("#trip-status .gc-done").wait_for()
    assert page.locator("#trip-slider img[src$='.png']").count() == 2
    assert "64 × 64" in page.locator("#trip-found").inner_text()
    assert page.locator("#repeated img").count() == 3

    page.locator("#channels").get_by_label("3").check()
    page.locator("#disturb-status .gc-done").wait_for()
    page.locator("#mix").click()
    page.locator("#mix-status .gc-done").wait_for()
    page.screenshot(path=tmp_path / "roundtrip.png", full_page=True)

    file = tmp_path / "own.png"
    PIL.Image.new("RGB", (40, 30), "teal").save(file)
    page.get_by_label("Square of").fill("")
    page.locator("#trip-image input[type=file]").set_input_files(file)
    page.locator("#trip-found", has_text="40 × 24").wait_for()
    assert page.locator("#trip-sample input:checked").count() == 0
    page.locator("#mixed img").first.wait_for(state="detached")

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visit.strangers() == []
    assert visit.complaints == []


def test_an_upload_that_is_no_picture_is_said_to_be_none(page: Page, tmp_path: Path) -> None:
    """By our own guard: nothing of the framework has opened it before."""
    file = tmp_path / "notes.png"
    file.write_text("not a picture")
    page.get_by_role("tab", name="Round trip").click()
    page.locator("#trip-image input[type=file]").set_input_files(file)
    page.locator("#trip-status .gc-failed", has_text="notes.png: ").wait_for()
    page.get_by_test_id("toast-body").filter(has_text="notes.png: ").wait_for()
