"""The page docs/conformance.md, from what the kit says of public implementations.

    python -m tests.conformance.table

writes it.
"""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path

from embnoise.testing import Claims, Report, case, check_layer
from embnoise.testing.registry import CHECKS
from tests.conformance.entries import OF_EMBNOISE, OF_OTHERS, Finding, Project

PAGE = Path(__file__).parent.parent.parent / "docs" / "conformance.md"

INTRODUCTION = """\
# Public implementations

What the [property tests](testing.md) say about the noise layers that people use.

**How it was made.** The projects were read in November 2026, at the versions in the table. The code
of transformers, Keras and embnoise ran as it is, also for projects that hand their argument on to
transformers. Of the others, the rule ran: it was written again as a
[minimal layer](../tests/conformance/layers.py) from reading the source. What a trainer does around
its noise is not tested here.

**How to read it.** *On its own terms* tests what the project itself says that it does. *As
published* tests NEFTune as in the paper and its experiments: alpha / sqrt(L * d), where L counts
the real tokens of a sequence, and no noise on padding. "holds" means that no check failed; a code
names a [check](checks.md) that did, with the dtype if it failed in one dtype only.

**What it does not say.** Most of these projects share the same few lines, and none had a test of
the noise's magnitude. Several of the findings matter in some settings only, which the text says. No
finding says that a published result is wrong.

**Corrections are welcome.** If a line is out of date, or unfair, please open an issue, or edit the
entry in [tests/conformance/entries.py](../tests/conformance/entries.py) and run
`python -m tests.conformance.table`, which writes this page."""

HEAD = [
    "| Implementation | Read | What ran | On its own terms | As published |",
    "| --- | --- | --- | --- | --- |",
]
MOST_CODES = 7
"""How many codes a line lists."""


def page() -> str:
    """The page as it should be."""
    rows = [row for finding in [*OF_EMBNOISE, *OF_OTHERS] for row in rows_of(finding)]
    sections = [INTRODUCTION, "## The table", "\n".join([*HEAD, *rows]), "## Findings"]
    return "\n\n".join(sections + [section_of(finding) for finding in OF_OTHERS]) + "\n"


@functools.cache
def report_of(finding: Finding, claims: Claims) -> Report:
    """What the kit says of a rule that makes these claims."""
    tested = case(
        finding.title, finding.layer, driver=finding.driver, inputs=finding.inputs, claims=claims
    )
    return check_layer(tested, profile="quick", raises=False)


def rows_of(finding: Finding) -> list[str]:
    """The lines of the table for the projects of a finding."""
    own = _verdict(report_of(finding, finding.claims))
    published = "another method"
    if finding.published is not None:
        published = _verdict(report_of(finding, finding.published))
    return [_row(project, own, published) for project in finding.projects]


def _row(project: Project, own: str, published: str) -> str:
    name = f"[{project.name}]({project.link})"
    return f"| {name} | {project.version} | {project.ran} | {own} | {published} |"


def _verdict(report: Report) -> str:
    """The codes of the checks that failed, or "holds"."""
    dtypes: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    for result in report.results:
        dtypes.setdefault(result.code, []).append(result.dtype)
        if result.wrong:
            failed.setdefault(result.code, []).append(result.dtype)
    shown = []
    for code, where in failed.items():
        link = f"[{code}](checks.md#{code.lower()}-{CHECKS[code].name})"
        shown.append(f"{link} ({where[0]})" if len(where) == 1 < len(dtypes[code]) else link)
    if len(shown) > MOST_CODES:
        shown[MOST_CODES - 1 :] = [f"and {len(shown) - MOST_CODES + 1} more"]
    return ", ".join(shown) or "holds"


def section_of(finding: Finding) -> str:
    """A finding in words."""
    paragraphs = [f"### {finding.title}", _wrapped(finding.rule)]
    report = report_of(finding, finding.claims)
    if finding.symptom:
        paragraphs.append(_wrapped(f"The kit: {_said(report, finding.symptom)}"))
    elif not report.ok:
        raise AssertionError(f"{finding.title} needs a symptom:\n{report.table()}")
    if finding.mend:
        paragraphs.append(_wrapped(f"Fix: {finding.mend}"))
    return "\n\n".join(paragraphs)


def _said(report: Report, code: str) -> str:
    """The likely cause, in the words of the check, or of the first one if that one was not run."""
    wrong = [result for result in report.results if result.wrong]
    result = next((each for each in wrong if each.code == code), wrong[0])
    message = result.message.partition("\nTo repeat it:\n")[0]
    likely = message.partition("Likely: ")[2]
    escaped = likely.replace("*", r"\*")  # L*d is no emphasis
    return f"`{result.code} {result.name}` fails. Likely: {escaped}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False))


if __name__ == "__main__":
    PAGE.write_text(page())
