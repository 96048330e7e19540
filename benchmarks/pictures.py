"""The pictures of a report's page and of the dashboard in the docs, as a browser shows them:

    nas report -o report.html && python benchmarks/pictures.py report.html
    nas dashboard & python benchmarks/pictures.py http://127.0.0.1:8080/dashboard/studies/1

Writes docs/report.png (light), docs/report_dark.png and docs/report_phone.png; docs/dashboard.png.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
import time
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
DASHBOARD = (("dashboard", 1200, 1000, "light"),)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("page", help="a report's file, or the address of the dashboard's")
    options.add_argument("--folder", type=Path, default=Path("docs"))
    told = options.parse_args()
    live = told.page.startswith("http")
    address = told.page if live else Path(told.page).absolute().as_uri()
    settings = ChromeOptions()
    settings.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in FLAGS.split():
        settings.add_argument(flag)
    settings.add_argument(f"--user-data-dir={tempfile.mkdtemp()}")
    browser = Chrome(options=settings, service=Service(shutil.which("chromedriver")))
    try:
        for name, width, height, scheme in DASHBOARD if live else PICTURES:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(address)
            if live:  # it asks for its data, and then draws
                time.sleep(10)
            taken = browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
            (told.folder / f"{name}.png").write_bytes(base64.b64decode(taken))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
