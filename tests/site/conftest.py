"""The documentation's site: built once for all processes of a run, served, and in a browser."""

from __future__ import annotations

import fcntl
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BROWSERS = ("google-chrome", "chromium", "chromium-browser")
VARIABLE = "EMBNOISE_BROWSER"
"""If it is 1, a missing browser is a failure."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    """The folder of the built site, and what MkDocs said."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # pytest-xdist: the folder that the workers' folders are in
        shared = shared.parent
    folder = shared / "site"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "sitemap.xml").exists():  # the last file that MkDocs writes
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
            environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
            built = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert built.returncode == 0, built.stderr
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served."""
    handler = functools.partial(Handler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium without a window, driven by Selenium."""
    programs = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if None in programs:
        message = f"no Chromium, or no chromedriver: one of {', '.join(BROWSERS)} is needed"
        if os.environ.get(VARIABLE) == "1":
            pytest.fail(f"{message}, as {VARIABLE} is 1")
        pytest.skip(message)
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(programs[1])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def screen(browser):
    """A function that sets the width of the screen, and light or dark."""

    def resize(width, scheme="light"):
        sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    return resize
