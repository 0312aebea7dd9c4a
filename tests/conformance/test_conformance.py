"""The page docs/conformance.md says what the kit says."""

import re

import pytest

from tests.conformance import table
from tests.conformance.entries import ITS_OWN, OF_EMBNOISE, OF_OTHERS
from tests.frameworks import needs


def over(findings):
    return pytest.mark.parametrize(
        "finding",
        [
            pytest.param(
                finding,
                id=finding.projects[0].name,
                marks=[needs(finding.driver), *[pytest.mark.sweep] * (not finding.sampled)],
            )
            for finding in findings
        ],
    )


@over(OF_EMBNOISE)
def test_our_own_layers_have_a_clean_line(finding):
    page = table.PAGE.read_text()
    for row in table.rows_of(finding):
        assert "| its code | holds | " in row
        assert row in page


@over(OF_OTHERS)
def test_the_page_says_what_the_kit_says(finding):
    page = table.PAGE.read_text()
    for row in table.rows_of(finding):
        assert row in page
    assert f"\n\n{table.section_of(finding)}\n" in page


def test_the_page_has_all_findings_and_no_others():
    page = table.PAGE.read_text()
    assert page.startswith(table.INTRODUCTION)
    titles = re.findall(r"^### (.*)", page, re.MULTILINE)
    assert titles == [finding.title for finding in OF_OTHERS]
    projects = [each for finding in [*OF_EMBNOISE, *OF_OTHERS] for each in finding.projects]
    assert len(re.findall(r"^\| \[", page, re.MULTILINE)) == len(projects)


@pytest.mark.sweep
@needs("torch", "jax", "keras")
def test_the_page_is_the_generated_one():
    assert table.PAGE.read_text() == table.page()


def test_what_ran_as_it_is_has_the_version_that_is_pinned():
    text = (table.PAGE.parents[1] / "constraints.txt").read_text()
    pins = dict(re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE))
    for finding in OF_OTHERS:
        for project in finding.projects:
            if project.ran == ITS_OWN:
                package = re.match(r"\w+", project.name)[0].lower()
                assert project.version == pins[package], project.name


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_trl_hands_its_argument_on_to_transformers():
    trl = pytest.importorskip("trl")
    from transformers import TrainingArguments  # noqa: PLC0415

    assert issubclass(trl.SFTConfig, TrainingArguments)
    assert (
        trl.SFTConfig(neftune_noise_alpha=5.0, use_cpu=True, bf16=False).neftune_noise_alpha == 5.0
    )
