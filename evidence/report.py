"""``docs/evidence.md``: everything in it that is a number comes from the raw results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from evidence.answers import Answer, side_by_side
from evidence.arms import Arm, Study
from evidence.claims import difference, values
from evidence.results import Result
from evidence.statistics import Estimate, estimate
from evidence.tuning import tuned

__all__ = ["page"]


def page(
    study: Study,
    results: Sequence[Result],
    found: Sequence[Answer],
    template: str,
    repetitions: Sequence[Sequence[Answer]] = (),
) -> str:
    """The page: the template with its tables filled in, from the results and their answers."""
    pretrained = side_by_side(found, repetitions)
    reported = [result for result in results if result.is_reported]
    hours = sum(result.seconds for result in results) / 3600
    padding = _padding(reported)
    tables = {
        "finding": _finding(found, pretrained),
        "missing": _missing(study, reported),
        "headline": "\n".join(_headline_table(study, reported)),
        "summary": "\n".join(_summary_table(found)),
        "claims": "\n".join(_claim_table(found)),
        "tuning": "\n".join(_tuning_table(results)),
        "arms": "\n".join(_arms_table(study, reported)),
        "pretrained": "\n".join(_pretrained_table(pretrained, len(repetitions))),
        "contradicted": _contradiction(pretrained),
        "padding": f"{padding:.2f}",
        "magnitude": f"{padding**-0.5:.2f}",
        "runs": f"{len(results):,}",
        "hours": f"{hours:.1f}",
    }
    for name, text in tables.items():
        template = template.replace("{{" + name + "}}", text)
    return template


def _finding(found: Sequence[Answer], pretrained: Mapping[str, Sequence[Estimate | None]]) -> str:
    """The main answers in words; none without three seeds."""
    if not found:
        return ""
    opposite = _contradicted(pretrained)
    noise = _in_words("test loss", found, opposite, "With noise, test loss is")
    instead = _in_words(
        "noise against early stopping", found, opposite, "Compared with early stopping, it is"
    )
    return f"{noise} {instead}"


def _in_words(measure: str, found: Sequence[Answer], opposite: Sequence[str], subject: str) -> str:
    """As in "It is lower with 64 and higher with 256 pairs; no difference was shown with ..."."""
    verdicts = {
        verdict: sizes[measure] for verdict, sizes in _by_verdict(found).items() if measure in sizes
    }
    known = [each for each in ("lower", "higher") if each in verdicts]
    parts = [f"{each} with {_listed(verdicts[each])} training pairs" for each in known]
    clauses = [f"{subject} {' and '.join(parts)}"] if parts else []
    for verdict, words in {
        "no difference shown": "no difference was shown",
        "too few seeds": "there are too few seeds",
    }.items():
        if verdict in verdicts:
            clauses.append(f"{words} with {_listed(verdicts[verdict])} pairs")
    text = "; ".join(clauses)
    text = f"{text[0].upper()}{text[1:]}."
    for pairs in (pairs for verdict in known for pairs in verdicts[verdict]):
        if f"{measure}, {pairs} pairs" in opposite:
            text += f" A repetition found the opposite sign with {pairs} pairs."
    return text


def _listed(parts: Iterable[str]) -> str:
    """As in "a, b and c"."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _missing(study: Study, reported: Sequence[Result]) -> str:
    """What a reader must know of a study that is under way."""
    done = {(result.arm, result.seed) for result in reported}
    planned = study.runs(headline=not study.tuned)
    missing = [run for run in planned if run not in done]
    if study.tuned and not missing:
        return ""
    text = (
        f"\n\n**The study is not finished.** {len(planned) - len(missing)} of {len(planned)} runs"
    )
    if study.tuned:
        return f"{text} are in; the tables say how many seeds each figure has."
    return (
        f"{text} with and without noise are in; the tables say how many seeds each figure has. "
        "Other distributions, schedules, regularizers, tasks and frameworks have not been run yet."
    )


def _headline_table(study: Study, results: Sequence[Result]) -> list[str]:
    lines = [
        "| Pairs | Alpha | Training loss: plain | With noise | Test loss: plain | With noise "
        "| Difference (95% interval) | Seeds |",
        "| --- " * 8 + "|",
    ]
    for pairs, noisy in study.noisy.items():
        own = {
            (arm, measure): mean(r.measures[measure] for r in results if r.arm == arm)
            for arm in (study.plain[pairs], noisy)
            for measure in ("train_loss", "test_loss")
        }
        contrast = difference("", (noisy, "test_loss"), (study.plain[pairs], "test_loss"))
        gain = estimate(values(contrast, results))
        shown = " | ".join(
            f"{own[arm, measure]:.2f}"
            for measure in ("train_loss", "test_loss")
            for arm in (study.plain[pairs], noisy)
        )
        lines.append(
            f"| {pairs:,} | {noisy.alpha:g} | {shown} | {_interval(gain)} | {gain.count} |"
        )
    return lines


def _summary_table(found: Sequence[Answer]) -> list[str]:
    lines = ["| Claim | Expected | Found |", "| --- | --- | --- |"]
    for claim in dict.fromkeys(answer.claim for answer in found):
        own = [answer for answer in found if answer.claim is claim]
        verdicts = ". ".join(
            f"**{verdict}**: {'; '.join(map(_label, sizes, sizes.values()))}"
            for verdict, sizes in _by_verdict(own).items()
        )
        lines.append(f"| {claim.title} | {claim.expected} | {verdicts} |")
    return lines


def _by_verdict(found: Sequence[Answer]) -> dict[str, dict[str, list[str]]]:
    """For each verdict, what has it, and for which numbers of pairs: none if it has no number."""
    verdicts: dict[str, dict[str, list[str]]] = {}
    for answer in found:
        label, sizes = answer.contrast.label, verdicts.setdefault(answer.verdict, {})
        measure, _, pairs = label.removesuffix(" pairs").rpartition(", ")
        if label.endswith(" pairs"):
            sizes.setdefault(measure, []).append(pairs)
        else:
            sizes[label] = []
    return verdicts


def _label(measure: str, sizes: Sequence[str]) -> str:
    """As in "test loss, 64 / 256 pairs"."""
    return f"{measure}, {' / '.join(sizes)} pairs" if sizes else measure


def _claim_table(found: Sequence[Answer]) -> list[str]:
    lines = []
    for claim in dict.fromkeys(answer.claim for answer in found):
        lines += ["", f"### {claim.title}", "", f"Expected: {claim.expected}.", ""]
        lines += ["| | Difference | 95% interval | Seeds | p, adjusted | |", "| --- " * 6 + "|"]
        for answer in found:
            if answer.claim is claim:
                of = answer.estimate
                lines.append(
                    f"| {answer.contrast.label} | {_number(of.mean)} | {_number(of.low)} to "
                    f"{_number(of.high)} | {of.count} | {_p(answer.adjusted)} | {answer.verdict} |"
                )
    return lines


def _tuning_table(results: Sequence[Result]) -> list[str]:
    """One table for all that was tuned over the same settings, the chosen ones in bold."""
    tables: dict[tuple[float, ...], list[str]] = {}
    for family, losses in tuned(results).items():
        lowest = min(losses.values())
        tried = sorted((_setting(arm), loss) for arm, loss in losses.items())
        shown = [f"**{loss:.3f}**" if loss == lowest else f"{loss:.3f}" for _, loss in tried]
        rows = tables.setdefault(tuple(setting for setting, _ in tried), [])
        rows.append(f"| {family} | {' | '.join(shown)} |")
    lines = []
    for settings, rows in tables.items():
        head = " | ".join(f"{setting:g}" for setting in settings)
        lines += ["", f"| Setting | {head} |", "| --- " * (len(settings) + 1) + "|", *rows]
    return lines[1:]


def _arms_table(study: Study, results: Sequence[Result]) -> list[str]:
    """A row for each arm, in the order of the plan rather than that in which runs ended."""
    measures = {
        "train_loss": "Training loss",
        "test_loss": "Test loss",
        "stopped_test_loss": "Test loss, stopped early",
        "verbatim": "Verbatim rate",
        "rouge_l": "ROUGE-L",
        "prose_loss": "Loss on prose",
    }
    lines = [
        "| Arm | Seeds | " + " | ".join(measures.values()) + " |",
        "| --- | --- |" + " --- |" * len(measures),
    ]
    planned = (arm for arm, _ in study.runs(headline=not study.tuned))
    for arm in dict.fromkeys((*planned, *(result.arm for result in results))):
        own = [result.measures for result in results if result.arm == arm]
        if not own:
            continue
        shown = [
            f"{mean(each[name] for each in own):.3f}" if name in own[0] else "" for name in measures
        ]
        lines.append(f"| `{arm}` | {len(own)} | " + " | ".join(shown) + " |")
    return lines


def _pretrained_table(pretrained: Mapping[str, Sequence[Estimate | None]], count: int) -> list[str]:
    """A row for each answer, a column for the study and for each of its repetitions."""
    heads = ["Study", *(f"Repetition {number + 1}" for number in range(count))]
    lines = ["| | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for label, estimates in pretrained.items():
        cells = ["" if each is None else _interval(each) for each in estimates]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _contradiction(pretrained: Mapping[str, Sequence[Estimate | None]]) -> str:
    """The answers of which the signs disagree, in a sentence."""
    if labels := _contradicted(pretrained):
        return f"The intervals disagree about the sign of: {'; '.join(labels)}."
    return "No answer has intervals that disagree about its sign."


def _contradicted(pretrained: Mapping[str, Sequence[Estimate | None]]) -> list[str]:
    """The answers with an interval above 0 in one of all, and one below 0 in another."""
    return [
        label
        for label, estimates in pretrained.items()
        if any(each is not None and each.low > 0 for each in estimates)
        and any(each is not None and each.high < 0 for each in estimates)
    ]


def _padding(results: Sequence[Result]) -> float:
    """The width of a batch over the tokens of a row, on average over rows."""
    return mean(result.measures["padding"] for result in results if "padding" in result.measures)


def _setting(arm: Arm) -> float:
    return arm.alpha or arm.dropout or arm.weight_decay


def _interval(of: Estimate) -> str:
    return f"{_number(of.mean)} ({_number(of.low)} to {_number(of.high)})"


def _number(value: float) -> str:
    text = f"{value:+.3f}" if abs(value) < 10 else f"{value:+.0f}"
    return text if float(text) else text[1:]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
