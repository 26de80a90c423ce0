"""Headless Chromium for tests of pages."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

BROWSER = shutil.which("chromium")
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
QUIET += ("--disable-background-networking", "--disable-component-update", "--window-size=1000,1150")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium and its driver (Debian: chromium, chromium-driver)")


def one(browser: Any, css: str) -> Any:
    return browser.find_element("css selector", css)


def wait(browser: Any, condition: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20).until(lambda _: condition())
