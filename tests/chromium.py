"""Chromium without a window, for tests that open pages in it."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--disable-sync"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--window-size=1000,760"),
)
PHONE, DESK = 390, 1000  # pixels


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A driver of Chromium that logs what pages say and ask for; skips where there is none."""
    if not BROWSER or not DRIVER:
        pytest.skip("needs Chromium and chromedriver: apt-get install chromium chromium-driver")
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -e '.[dev]'")
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=[PHONE, DESK])
def opened(request: pytest.FixtureRequest, browser: Any, page: Path) -> Any:
    """The browser with the test file's `page` opened at a width."""
    open_page(browser, page, request.param)
    return browser


def open_page(browser: Any, page: Path | str, width: int) -> None:
    """Open a file or an address in a window of so many pixels' width; SCREENSHOTS names a folder for pictures."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # forget what earlier pages left
    browser.get(page if isinstance(page, str) else page.as_uri())
    assert browser.execute_script("return window.innerWidth") == width
    if folder := os.environ.get("SCREENSHOTS"):
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": height})
        browser.save_screenshot(str(Path(folder) / f"{Path(page).stem}-{width}.png"))
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def requested(browser: Any) -> list[str]:
    """The addresses that were asked for since the page was opened, or since they were looked at last."""
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def wait_for(look: Callable[[], Any], seconds: float = 10) -> Any:
    """What `look` finds, once it finds something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)
    return found
