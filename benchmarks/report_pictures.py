"""The pictures of a report's page in the docs, as a browser shows it:
nas report -o report.html && python benchmarks/report_pictures.py report.html

Writes docs/report.png (light), docs/report_dark.png and docs/report_phone.png.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --hide-scrollbars"
)
# Name, width and height in pixels, colour scheme.
PICTURES = (("report", 1200, 1500, "light"), ("report_dark", 1200, 1500, "dark"),
            ("report_phone", 390, 1500, "light"))  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("page", type=Path)
    options.add_argument("--folder", type=Path, default=Path("docs"))
    told = options.parse_args()
    settings = ChromeOptions()
    settings.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in FLAGS.split():
        settings.add_argument(flag)
    settings.add_argument(f"--user-data-dir={tempfile.mkdtemp()}")
    browser = Chrome(options=settings, service=Service(shutil.which("chromedriver")))
    try:
        for name, width, height, scheme in PICTURES:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(told.page.absolute().as_uri())
            taken = browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
            (told.folder / f"{name}.png").write_bytes(base64.b64decode(taken))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
