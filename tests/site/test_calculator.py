"""The page that computes the size of the noise: its numbers are the core's."""

import numpy as np
import pytest

from embnoise import Noise, add_noise
from embnoise.backend import distribution_of
from tests.frameworks import needs

RULES = ["tokens", "row", "width", "elements", "places"]
BATCHES = [  # settings of the form, and the rows that they make, by the lengths in them
    ({"lengths": "40, 120, 300, 512", "layout": "longest"}, [[40], [120], [300], [512]], 512),
    ({"lengths": "32", "layout": "fixed", "width": "512"}, [[32]], 512),
    ({"lengths": "16x128", "layout": "packed", "width": "2048"}, [[128] * 16], 2048),
    ({"lengths": "5 7; 3x4, 9", "layout": "packed", "width": "13"}, [[5, 7], [4, 4, 4], [9]], 13),
    ({"lengths": "3, 1, 20", "layout": "flattened"}, [[3, 1, 20]], 24),
    ({"lengths": "1", "layout": "longest"}, [[1]], 1),
]


def noise_of(rule, alpha, rows, width, distribution):
    """A rule as a configuration of the core."""
    places = len(rows) * width
    configured = {
        "tokens": {"length": "tokens"},
        "row": {"length": "tokens"},
        "width": {"length": "padded"},
        "elements": {"length": places},
        "places": {
            "length": places,
            "scale": lambda alpha, length, dim, *, xp: xp.divide(alpha, xp.sqrt(length)),
        },
    }
    return Noise(alpha, distribution=distribution, **configured[rule])


def magnitudes_by_the_core(rule, alpha, rows, width, dim):
    """The size of Rademacher noise, which is its magnitude, on each sequence of a batch."""
    segments = np.zeros((len(rows), width), np.int32)
    first = []
    for row, lengths in enumerate(rows):
        ends = np.cumsum(lengths)
        for number, (length, end) in enumerate(zip(lengths, ends, strict=True), start=1):
            segments[row, end - length : end] = number
            first.append((row, end - length))
    tokens = {"mask": segments != 0} if rule == "row" else {"segment_ids": segments}
    noise = noise_of(rule, alpha, rows, width, "rademacher")
    noisy = add_noise(np.zeros((len(rows), width, dim), np.float32), noise, step=0, **tokens)
    return [float(abs(noisy[place]).max()) for place in first]


READ = """
const lines = [...document.querySelectorAll("#result .rules tbody tr")];
return Object.fromEntries(lines.map((line) => [line.dataset.rule, Object.fromEntries(
  [...line.querySelectorAll("[data-values]")].map((cell) =>
    [cell.dataset.label, JSON.parse(cell.dataset.values)]))]));
"""
FILL = """
const form = document.querySelector(".calculator");
form.reset();
for (const [name, value] of Object.entries(arguments[0])) form[name].value = value;
form.dispatchEvent(new Event("input"));
"""


class Calculator:
    """The page in a browser. It is loaded once."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, f"{address}calculator/"
        browser.get(self.address)

    def __call__(self, **settings):
        """The numbers of the first table, for the defaults and these settings."""
        self.browser.execute_script(FILL, settings)
        return self.browser.execute_script(READ)

    def find_all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def find(self, selector):
        (found,) = self.find_all(selector)
        return found


@pytest.fixture(scope="module")
def calculator(browser, address):
    return Calculator(browser, address)


@pytest.mark.parametrize(("settings", "rows", "width"), BATCHES, ids=lambda value: str(value)[:40])
def test_the_numbers_are_those_of_the_core(calculator, settings, rows, width):
    dim, alpha = 48, 7.3
    lengths = np.array([length for row in rows for length in row])
    for distribution in ("uniform", "gaussian", "rademacher"):
        page = calculator(d=dim, alpha=alpha, distribution=distribution, **settings)
        assert page.keys() == set(RULES)
        ours = page["tokens"]
        for rule in RULES:
            expected = magnitudes_by_the_core(rule, alpha, rows, width, dim)
            assert page[rule]["Magnitude"] == expected, rule  # every bit
            unit = distribution_of(noise_of(rule, alpha, rows, width, distribution)).rms
            rms = unit * np.sqrt(np.average(np.square(expected), weights=lengths))
            assert page[rule]["RMS"] == pytest.approx([rms], rel=1e-9), rule
            assert page[rule]["Ratio to embnoise"] == pytest.approx(
                np.divide(expected, ours["Magnitude"]), rel=1e-12
            )
            assert page[rule]["Same RMS in embnoise"] == pytest.approx(
                [alpha * rms / ours["RMS"][0]], rel=1e-9
            )


@needs("torch")
def test_the_rules_of_others_are_those_of_the_conformance_page(calculator):
    import torch  # noqa: PLC0415

    from tests.conformance import layers  # noqa: PLC0415

    rows, width, dim, alpha = 4, 512, 64, 5.0
    page = calculator(d=dim, alpha=alpha, **BATCHES[0][0])
    x, ids = torch.empty(rows, width, dim), torch.empty(rows, width)
    for rule, layer in (
        ("width", layers.RowWidth), ("elements", layers.Elements), ("places", layers.BatchAndLength)
    ):  # fmt: skip
        divisor = layer(1, alpha).divisor(x, ids)
        expected = np.float32(alpha) / np.sqrt(np.float32(divisor))
        assert page[rule]["Magnitude"] == [expected] * rows, rule


def test_what_is_shown_is_rounded(calculator):
    page = calculator(d=4096, alpha=5, **BATCHES[1][0])
    assert page["width"]["Ratio to embnoise"] == pytest.approx([0.25])
    line = calculator.find("#result [data-rule=width]").text
    assert f"{page['width']['Magnitude'][0]:.4g}" in line
    assert "0.25" in line
    assert "noised" in line
    summary = calculator.find("#summary").text
    assert summary == "1 row of 512 tokens. transformers adds 0.25 times the noise of embnoise."
    calculator(alpha=0)
    assert "there is no noise" in calculator.find("#summary").text


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("d", "0", "embedding size d must be a whole number from 1"),
        ("d", "12.5", "embedding size d must be a whole number from 1"),
        ("alpha", "-1", "Alpha must be a number from 0"),
        ("alpha", " ", "Alpha must be a number from 0"),
        ("alpha", "Infinity", "Alpha must be a number from 0"),
        ("lengths", "12, some", "got some"),
        ("lengths", "0", "got 0"),
        ("lengths", "9999x9999", "at most"),
        ("width", "100", "at least 512"),
    ],
)
def test_what_cannot_be_computed_is_said(calculator, field, text, said):
    calculator(layout="fixed")
    control = calculator.find(f"[name={field}]")
    control.clear()
    control.send_keys(text)
    assert said in calculator.find("#problem").text
    assert control.get_attribute("aria-invalid") == "true"
    assert not calculator.find("#result").is_displayed()
    calculator()
    assert calculator.find("#problem").text == ""
    assert control.get_attribute("aria-invalid") is None
    assert calculator.find("#result").is_displayed()


def test_the_address_keeps_the_settings(calculator, browser):
    calculator()
    calculator.find(".examples button:nth-of-type(2)").click()
    shown = browser.execute_script(READ)
    assert shown["width"]["Ratio to embnoise"] == pytest.approx([0.25] * 16)
    assert "layout=packed" in browser.current_url
    browser.get(browser.current_url)
    assert browser.execute_script(READ) == shown


def test_every_control_has_a_name_and_every_change_is_announced(calculator):
    calculator()
    for control in calculator.find_all("#calculator :is(input, select, button, .scroll)"):
        assert control.accessible_name, control.get_attribute("outerHTML")
    assert calculator.find("#summary").aria_role == "status"
    assert calculator.find("#problem").get_attribute("role") == "alert"


TEXT = ":is(label, small, p, th, td, input, select, button, caption)"
CONTRAST = """
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
const context = canvas.getContext("2d", { willReadFrequently: true });
const luminance = (...colors) => {  // of colors over each other
  for (const color of colors) {
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
  }
  const linear = [...context.getImageData(0, 0, 1, 1).data].map((value) =>
    value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const page = getComputedStyle(document.body).backgroundColor;
const contrasts = [...document.querySelectorAll(arguments[0])].map((element) => {
  const { color, backgroundColor } = getComputedStyle(element);
  const both = [luminance(page, backgroundColor), luminance(page, backgroundColor, color)];
  return [element.tagName, (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05)];
});
return contrasts.filter(([tag, contrast]) => contrast < 4.5);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_is_readable(calculator, browser, screen, scheme):
    """Its contrast is at least the 4.5 that WCAG asks for."""
    screen(390, scheme)
    calculator()
    dark = browser.execute_script("return document.body.dataset.mdColorScheme") == "slate"
    assert dark == (scheme == "dark")
    text = f"#calculator {TEXT}:not(:disabled)"
    assert len(calculator.find_all(text)) > 50
    assert browser.execute_script(CONTRAST, text) == []
