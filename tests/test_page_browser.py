"""The page in a real browser: the slider, the keys, the zoom, a thousand pictures, print, and that nothing is fetched.

Skipped where there is no Chromium with its driver, or no selenium.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import box, texture

from pconv_cli.page import Entry, Failure, Folder, Grid, Page, Place, Sheet, View

selenium = pytest.importorskip("selenium", reason="no selenium: pip install 'pconv[test]'")

from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium with chromedriver on this machine"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1200,900",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
EVIL = "<img src=x onerror=\"document.title='taken'\"></script>"
Browser = Any
Open = Callable[[Page], Browser]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "report", overwrite=False)


@pytest.fixture
def opened(chromium: Browser, folder: Folder) -> Iterator[Open]:
    """Write a page and open it from disk; whatever the browser complains of fails the test."""

    def opened(page: Page) -> Browser:
        path = folder.write(page, {}, "")
        chromium.get("about:blank")
        chromium.get_log("performance")
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
        chromium.get(path.as_uri())
        return chromium

    yield opened
    assert chromium.get_log("browser") == []


def entry(folder: Folder, number: int = 1, name: str = "a.png", size: tuple[int, int] = (300, 200)) -> Entry:
    before, after = texture(*size, seed=1), texture(*size, seed=2)
    views = (folder.view(number, "before", "before", before), folder.view(number, "after", "after", after))
    mask = folder.layer(number, "mask", box(*size, 100, 50, 150, 90))
    small = (folder.thumbnail(number, "small-a", "before", before), folder.thumbnail(number, "small-b", "after", after))
    sheet = Sheet("whole picture", *size, 1.0, views, mask)
    return Entry(name, facts=(("seam", "1.2"),), order={"seam": 1.2}, thumbnails=small, sheets=(sheet,))


def page(*entries: Entry, **more: Any) -> Page:
    orders = (("seam", "worst seams first"), ("damage", "most damaged first"))
    return Page("Report", "box 7", "today", "All is well.", (("pictures", "1"),), heading="Pictures", orders=orders,
                entries=entries, **more)  # fmt: skip


def view(browser: Browser, number: int = 0) -> None:
    browser.find_elements(By.CSS_SELECTOR, ".open")[number].click()


def slider(browser: Browser) -> Any:
    return browser.find_element(By.ID, "slider")


def edge(browser: Browser) -> float:
    """Where what is left ends, as a share of the picture's width: what the user sees of the slider."""
    script = """
    const frame = document.getElementById('frame'), top = document.getElementById('top');
    const cut = parseFloat(getComputedStyle(top).clipPath.split(' ')[1] ?? '0');  // of inset(0px) all is seen
    return 1 - cut / frame.clientWidth"""
    return float(browser.execute_script(script))


def pressed(browser: Browser, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


# ---------------------------------------------------------------- slider, keys, zoom


def test_the_slider_moves_by_the_arrow_keys_and_has_the_focus_at_once(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder)))
    view(browser)
    assert browser.switch_to.active_element == slider(browser)
    assert edge(browser) == pytest.approx(0.5, abs=0.01)
    pressed(browser, *[Keys.ARROW_RIGHT] * 10)
    assert edge(browser) == pytest.approx(0.6, abs=0.01)
    pressed(browser, Keys.HOME)
    assert edge(browser) == pytest.approx(0, abs=0.01)
    pressed(browser, Keys.END)
    assert edge(browser) == pytest.approx(1, abs=0.01)


def test_the_slider_moves_by_the_mouse_on_the_picture_and_on_itself(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder)))
    view(browser)
    frame = browser.find_element(By.ID, "frame")
    width = frame.size["width"]
    drag = ActionChains(browser).move_to_element_with_offset(frame, 0, 20).click_and_hold()
    drag.move_by_offset(round(width / 4), 5).release().perform()
    assert edge(browser) == pytest.approx(0.75, abs=0.02)
    ActionChains(browser).move_by_offset(-200, 0).perform()
    assert edge(browser) == pytest.approx(0.75, abs=0.02), "it follows a button that is held, and no other mouse"
    bar = slider(browser)
    ActionChains(browser).move_to_element_with_offset(bar, -bar.size["width"] // 4, 0).click().perform()
    assert edge(browser) == pytest.approx(0.25, abs=0.03)


def test_zoom_1_to_1_shows_a_pixel_of_the_picture_as_one_of_the_screen(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder, size=(3000, 2000))))
    view(browser)
    wide = "return document.getElementById('frame').clientWidth * devicePixelRatio"
    assert browser.execute_script(wide) < 1200
    pressed(browser, "z")
    assert browser.execute_script(wide) == 3000
    assert browser.execute_script(
        "const s = document.getElementById('stage'); return s.scrollLeft > 0 && s.scrollTop > 0"
    )
    left, right = browser.execute_script("return visible()")
    assert edge(browser) * 3000 == pytest.approx((left + right) / 2, abs=20), "the slider goes over what can be seen"
    browser.find_element(By.CSS_SELECTOR, "[data-zoom='4']").click()
    assert browser.execute_script(wide) == 12000
    assert (
        browser.execute_script("return getComputedStyle(document.getElementById('top')).imageRendering") == "pixelated"
    )
    pressed(browser, "z")
    assert browser.execute_script(wide) < 1200


def test_the_mask_is_a_layer_that_can_be_switched(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder)))
    view(browser)
    over, button = browser.find_element(By.ID, "over"), browser.find_element(By.ID, "mask")
    assert not over.is_displayed() and button.get_attribute("aria-pressed") == "false"
    pressed(browser, "m")
    assert over.is_displayed() and button.get_attribute("aria-pressed") == "true"
    assert browser.execute_script("return document.getElementById('over').naturalWidth") == 300
    button.click()
    assert not over.is_displayed()


def test_keys_go_to_the_next_picture_and_escape_back_to_where_one_was(opened: Open, folder: Folder) -> None:
    entries = [replace(entry(folder, number, f"{number}.png"), order={"seam": -number}) for number in (1, 2, 3)]
    browser = opened(page(*entries))
    view(browser)
    title = browser.find_element(By.ID, "what")
    assert title.text == "1.png" and not browser.find_element(By.ID, "previous").is_enabled()
    pressed(browser, "n", "n")
    assert title.text == "3.png" and not browser.find_element(By.ID, "next").is_enabled()
    pressed(browser, "p")
    assert title.text == "2.png"
    pressed(browser, Keys.ESCAPE)
    assert not browser.find_element(By.ID, "viewer").is_displayed()
    assert browser.switch_to.active_element.text.startswith("2.png")


def test_everything_can_be_reached_and_opened_by_the_keyboard_alone(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder)))
    pressed(browser, Keys.TAB, Keys.TAB, Keys.TAB)  # order, find, the picture
    assert "open" in browser.switch_to.active_element.get_attribute("class")
    pressed(browser, Keys.ENTER)
    assert browser.find_element(By.ID, "viewer").is_displayed()


def test_places_are_shown_at_1_to_1_where_they_are(opened: Open, folder: Folder) -> None:
    whole = entry(folder, size=(2000, 1500))
    sheet = replace(whole.sheets[0], places=(Place("seam 2 at 1800, 1200", (1600, 1000, 400, 400)),))
    crop = Sheet("damage at 9, 9", 300, 200, 1.0, entry(folder, 2).sheets[0].views)
    browser = opened(page(replace(whole, sheets=(sheet, crop))))
    view(browser)
    buttons = browser.find_elements(By.CSS_SELECTOR, "#places button")
    assert [button.text for button in buttons] == ["whole picture", "seam 2 at 1800, 1200", "damage at 9, 9"]
    buttons[1].click()
    left, right = browser.execute_script("return visible()")
    assert (
        left <= 1600 and right >= 1990 and browser.execute_script("return frame.clientWidth * devicePixelRatio") == 2000
    )
    buttons[2].click()
    assert browser.execute_script("return frame.clientWidth * devicePixelRatio") == 300
    assert not browser.find_element(By.ID, "mask").is_displayed()


def test_of_several_states_any_two_can_be_compared(opened: Open, folder: Folder) -> None:
    one = entry(folder)
    third = folder.view(1, "third", "Telea", texture(300, 200, seed=3))
    browser = opened(page(replace(one, sheets=(replace(one.sheets[0], views=(*one.sheets[0].views, third)),))))
    view(browser)
    browser.execute_script("const r = at('right'); r.value = '2'; r.dispatchEvent(new Event('change'))")
    assert browser.find_element(By.ID, "under").get_attribute("src").endswith(third.file)
    assert browser.find_element(By.ID, "tagright").text == "Telea"
    assert "Telea" in slider(browser).get_attribute("aria-label")


# ---------------------------------------------------------------- the list


def names(browser: Browser) -> list[str]:
    return [one.get_attribute("textContent").strip() for one in browser.find_elements(By.CSS_SELECTOR, ".name")]


def test_the_list_is_in_the_order_asked_for_and_what_has_no_figure_stands_last(opened: Open) -> None:
    entries = [
        Entry("calm", order={"seam": 1, "damage": 3}), Entry("bare"), Entry("torn", order={"seam": 9, "damage": 1})
    ]  # fmt: skip
    browser = opened(page(*entries))
    assert names(browser) == ["torn", "calm", "bare"]
    choose = "const o = at('order'); o.value = arguments[0]; o.dispatchEvent(new Event('change'))"
    browser.execute_script(choose, "damage")
    assert names(browser) == ["calm", "torn", "bare"]
    browser.execute_script(choose, "")
    assert names(browser) == ["calm", "bare", "torn"]
    browser.find_element(By.ID, "find").send_keys("OR")
    assert names(browser) == ["torn"] and browser.find_element(By.ID, "shown").text == "1 of 3 shown"


def test_failures_and_warnings_stand_above_the_pictures(opened: Open, folder: Folder) -> None:
    said = page(entry(folder), failures=(Failure("b.png", "in/b.png", "broken"),), warnings=("a mask is odd",),
                grids=(Grid("Means", ("method", "dB"), (("ns", "20.1"),), ((0, 1),)),))  # fmt: skip
    browser = opened(said)
    tops = [browser.find_element(By.ID, name).rect["y"] for name in ("failed", "warned", "measured", "pictures")]
    assert tops == sorted(tops) and len(set(tops)) == 4
    assert browser.find_element(By.CSS_SELECTOR, "#measured .best").text == "20.1"


def test_a_thousand_pictures_are_listed_and_only_those_in_view_are_loaded(opened: Open, folder: Folder) -> None:
    small = [folder.thumbnail(n, "small", "before", texture(60, 40, seed=n)) for n in range(1, 1001)]
    sheet = Sheet("whole picture", 60, 40, 1.0, (small[0], small[0]))
    entries = [
        Entry(f"{n}.png", order={"seam": n}, thumbnails=(one, View("after", one.file)), sheets=(sheet,))
        for n, one in enumerate(small, 1)
    ]
    browser = opened(page(*entries))
    loaded = "return [...document.images].filter(image => image.loading === 'lazy' && image.naturalWidth).length"
    assert browser.execute_script("return document.querySelectorAll('.list > li').length") == 1000
    assert names(browser)[0] == "1000.png"
    first = browser.execute_script(loaded)
    assert 0 < first < 400
    browser.execute_script("document.querySelector('.list > li:last-child').scrollIntoView()")
    last = "const i = document.querySelector('.list > li:last-child img'); return i.complete && i.naturalWidth"
    deadline = time.monotonic() + 60
    while not browser.execute_script(last):
        assert time.monotonic() < deadline, "what comes into view is never loaded"
        time.sleep(0.05)
    assert browser.execute_script(loaded) < 1000
    view(browser, 999)
    assert browser.find_element(By.ID, "what").text == "1.png"


# ---------------------------------------------------------------- safety, print


def test_nothing_is_fetched_but_the_images_of_the_report(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder)))
    view(browser)
    pressed(browser, "m", "z")
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    home = folder.path.as_uri()
    assert f"{home}/index.html" in asked and f"{home}/images/00001-mask.png" in asked
    assert all(url.startswith((f"{home}/", "data:")) for url in asked), asked


def test_names_are_text_whatever_is_in_them(opened: Open, folder: Folder) -> None:
    said = page(replace(entry(folder), name=EVIL, notices=(EVIL,)), failures=(Failure(EVIL, EVIL, EVIL),))
    browser = opened(replace(said, title=EVIL, lead=EVIL))
    view(browser)
    assert browser.find_element(By.ID, "what").text == EVIL
    assert browser.title.startswith(EVIL) and not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")


def test_in_print_both_states_stand_side_by_side_above_a_place_to_sign(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder)))
    assert not browser.find_element(By.CLASS_NAME, "signature").is_displayed()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.find_element(By.CLASS_NAME, "signature").is_displayed()
    assert not browser.find_element(By.CLASS_NAME, "tools").is_displayed()
    one, other = (image.rect for image in browser.find_elements(By.CSS_SELECTOR, ".pair img"))
    assert one["y"] == other["y"] and other["x"] >= one["x"] + one["width"]
    assert browser.find_element(By.CLASS_NAME, "signature").rect["y"] > one["y"]
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert len(pdf["data"]) > 10_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_scheme_of_the_system(opened: Open, folder: Folder, scheme: str) -> None:
    browser = opened(page(entry(folder)))
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    colour = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    paper = np.array([int(part) for part in colour[4:-1].split(",")])
    assert (paper > 200).all() if scheme == "light" else (paper < 60).all()


def test_every_control_has_a_name_and_every_image_says_what_it_is(opened: Open, folder: Folder) -> None:
    browser = opened(page(entry(folder)))
    view(browser)
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "slider", "searchbox", "combobox", "image", "dialog"}
    controls = [n for n in tree if not n["ignored"] and n["role"]["value"] in roles]
    assert {n["role"]["value"] for n in controls} >= {"button", "slider", "image", "dialog"}
    nameless = [n["role"]["value"] for n in controls if not n.get("name", {}).get("value")]
    assert not nameless
