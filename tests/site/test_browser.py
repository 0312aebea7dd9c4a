"""Every page in a browser: nothing hangs over, fails, or comes from another host."""

import pytest

from tests.site.test_pages import NAVIGATION

WIDE = """
const screen = document.documentElement.clientWidth;
const wide = [...document.querySelectorAll(".md-content *")].filter((element) =>
  element.getBoundingClientRect().right > screen + 1
  && !element.closest("pre, .md-typeset__scrollwrap, .scroll"));
const names = wide.map((element) => `${element.tagName}: ${element.textContent.slice(0, 60)}`);
return document.documentElement.scrollWidth > screen ? ["the page", ...names] : names;
"""
HOSTS = """
const entries = performance.getEntriesByType("resource");
return [...new Set(entries.map((entry) => new URL(entry.name).host))];
"""


def address_of(page):
    return f"{page.removesuffix('index.md').removesuffix('.md')}/".removeprefix("/").replace(
        "//", "/"
    )


SOME = ["index.md", "calculator.md", "trainers.md", "reference/embnoise_jax.md"]


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param(SOME, id="some"),
        pytest.param(NAVIGATION, id="all", marks=pytest.mark.sweep),
    ],
)
def test_pages_fit_the_screen(browser, address, screen, pages):
    """On a desktop and on a phone; a page is loaded once."""
    browser.get_log("browser")
    wide = {}
    for page in pages:
        screen(1280)  # first: what slides away on a phone slides to the left, out of the way
        browser.get(address + address_of(page))
        assert browser.execute_script(HOSTS) == [address.split("/")[2]], page
        for width in (1280, 390):
            screen(width)
            if found := browser.execute_script(WIDE):
                wide[page, width] = found
    assert not wide
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def search(browser, address, screen):
    """A function from words to the pages that the search finds, the best first."""
    from selenium.webdriver.common.by import By  # noqa: PLC0415
    from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

    def pages(words):
        screen(1280)
        browser.get(address)
        browser.find_element(By.CSS_SELECTOR, "[data-md-component=search-query]").send_keys(words)
        found = WebDriverWait(browser, 20).until(
            lambda browser: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
        )
        return [each.get_attribute("href") for each in found]

    return pages


def test_the_search_finds_a_page(search):
    assert any("configuration/" in page for page in search("antithetic"))


def test_the_search_lists_guides_before_the_reference(search):
    pages = search("gradient accumulation")
    assert "/pytorch/" in pages[0]
    assert any("/reference/" in page for page in pages)
