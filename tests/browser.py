"""A real browser, for what a person sees in one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)
DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    not (DRIVER and BROWSER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)


@contextlib.contextmanager
def browsing(profile: Path, *, width: int = 1400) -> Iterator[Chrome]:
    """A window, 1,000 pixels high, that logs what its pages say and fetch."""
    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS.split(), f"--window-size={width},1000", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = Chrome(options=options, service=Service(DRIVER))
    try:
        yield opened
    finally:
        opened.quit()
