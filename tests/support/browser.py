"""A real browser for tests of pages: Debian's chromium without a window, driven by selenium."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PATIENCE = 120  # seconds that a page may take to load on a busy machine
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves the machine
)
OWN = ("data", "blob", "about", "chrome", "chrome-extension", "devtools")  # schemes that ask no server


class Browser:
    """One window. Sizes are in CSS pixels.

    Attributes:
        driver: selenium's, for what is not here.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        driver.set_page_load_timeout(PATIENCE)
        driver.set_script_timeout(PATIENCE)

    def resize(self, width: int, height: int = 900) -> None:
        """Gives pages that much room; narrow ones are told that they are on a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, address: str | Path) -> None:
        """Loads an address, or a file; what pages before it said and asked for is forgotten."""
        self.driver.get("about:blank")
        self.console(), self.requests()
        self.driver.get(address.absolute().as_uri() if isinstance(address, Path) else address)

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a JavaScript function returns; a promise is waited for."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> Any:
        """Waits until a JavaScript expression is true; returns its value."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, PATIENCE).until(
            lambda driver: driver.execute_script(f"return {condition}"), f"waited in vain for {condition}"
        )

    def console(self) -> list[str]:
        """What has gone wrong since the last time of asking: uncaught errors, and what could not be loaded."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last time of asking, the page's own among them."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))  # type: ignore[no-untyped-call]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if urlsplit(url).scheme not in OWN]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.run(f"return {wide}"))

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """What is to be seen, as PNG; `whole`: all of the page, however long."""
        found = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": whole, **self._clip(whole)}
        )
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it is printed on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
        found = self.driver.execute_cdp_cmd("Page.printToPDF", paper)
        path.write_bytes(base64.b64decode(found["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept, for a person to look at: in $SCREENSHOTS, or among the tests' own files."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for one module's tests; where there is none, these are skipped."""
    missing = [str(program) for program in (CHROMIUM, DRIVER) if not program.is_file()]
    missing += ["selenium"] if importlib.util.find_spec("selenium") is None else []
    if missing:
        pytest.skip(f"no browser: {', '.join(missing)} missing")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(DRIVER)))  # a path: selenium looks for none to download
    try:
        yield Browser(driver)
    finally:
        driver.quit()
