"""The study: its arms, its raw results, its statistics and its page, on made results."""

import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

import torch

from evidence import pictures
from evidence.__main__ import DOCS, RESULTS, TEMPLATE, published
from evidence.answers import Answer, answers
from evidence.arms import FULL, QUICK, TUNING_SEEDS, Arm, Study, family, tuning_arms
from evidence.batches import collate
from evidence.claims import claims, values
from evidence.corpus import Row
from evidence.measures import recitation
from evidence.pictures import save_all
from evidence.report import page
from evidence.results import Result, append, load
from evidence.statistics import equivalence, estimate, holm
from evidence.training import noise_of
from evidence.tuning import chosen_arms
from small_decoder import END_ID, PAD_ID
from tests.torch.models import llama

ROOT = DOCS.parent


def made(arm, seed, effect=0.5):
    """Results in which noise lowers the test loss by ``effect``, more or less.

    Whoever reports a seed of the tuning has losses of about 100.
    """
    chance = random.Random(f"{arm}{seed}")  # noqa: S311
    loss = 5 + random.Random(seed).gauss(0, 0.2) + chance.gauss(0, 0.02)  # noqa: S311
    loss -= effect * (arm.alpha > 0)
    loss += 100 * (seed >= TUNING_SEEDS)
    names = ("train_loss", "validation_loss", "test_loss", "stopped_test_loss", "prose_loss",
             "verbatim", "rouge_l", "trace", "sharpness", "test_accuracy")  # fmt: skip
    measures = dict.fromkeys(names, loss)
    measures["validation_loss"] += abs(arm.alpha - 4) + arm.dropout + arm.weight_decay
    measures["prose_loss"] = 4 + chance.gauss(0, 0.01)
    measures["padding"] = 1.5
    return Result(arm, seed, measures, 60.0)


@pytest.fixture(scope="module")
def study():
    """A study with made results."""
    tuning = [
        made(arm, TUNING_SEEDS + seed)
        for arm in tuning_arms(FULL, headline=False)
        for seed in range(2)
    ]
    study = Study(FULL, chosen_arms(tuning))
    return study, [*tuning, *(made(arm, seed) for arm, seed in study.runs(headline=False))]


def test_the_best_validation_loss_chooses(study):
    study, _ = study
    assert {arm.alpha for arm in study.noisy.values()} == {4.0}
    assert study.tuned["dropout"].dropout == 0.02
    assert study.tuned["weight decay"].weight_decay == 0.03
    families = {family(arm) for arm in tuning_arms(FULL, headline=False)}
    assert families == {
        *("dropout", "weight decay", "alpha of the encoder"),
        *(f"alpha, {pairs:,} pairs" for pairs in FULL.sizes),
    }


def test_every_claim_has_an_answer(study):
    study, results = study
    found = answers(study, results)
    assert len(found) == sum(len(claim.contrasts) for claim in claims(study))
    assert {answer.estimate.count for answer in found} == {FULL.seeds, FULL.more_seeds}
    gains = [a for a in found if a.contrast.label.startswith("test loss, ")]
    assert all(answer.verdict == "lower" for answer in gains)
    assert all(-0.6 < answer.estimate.mean < -0.4 for answer in gains)
    kept = [a for a in found if a.contrast.label.startswith("loss on prose")]
    assert all(answer.verdict == "equal within ±0.05" for answer in kept)
    same = next(a for a in found if a.contrast.label == "annealed down against up")
    assert same.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.0, "equal within ±0.05"),
        (0.05, "not shown: ±0.05"),
        (0.2, "higher by more than 0.05"),
        (-0.2, "lower by more than 0.05"),
    ],
)
def test_what_should_be_equal(study, shift, verdict):
    claim = next(each for each in claims(study[0]) if each.title.startswith("Nothing known"))
    differences = [shift + 0.001 * (number % 5 - 2) for number in range(20)]
    answer = Answer(claim, claim.contrasts[0], differences)
    answer.adjusted = answer.p
    assert answer.verdict == verdict


def test_the_main_answers_in_words(study):
    study, results = study
    found = answers(study, results)
    text = page(study, results, found, "{{finding}}")
    assert "lower with 64, 256, 1,024 and 4,096 training pairs. Compared" in text
    assert "repetition" not in text
    assert page(study, results, [], "{{finding}}") == ""
    opposite = answers(study, [made(r.arm, r.seed, effect=-0.5) for r in results])
    text = page(study, results, found, "{{finding}}", [opposite])
    assert "A repetition found the opposite sign with 256 pairs." in text
    few = [result for result in results if result.seed < 6 or not result.is_reported]
    text = page(study, results, answers(study, few), "{{finding}}")
    assert text.startswith("There are too few seeds with 64, 256, 1,024 and 4,096 pairs.")


def test_the_page_and_its_pictures(study, tmp_path):
    study, results = study
    found = answers(study, results)
    text = page(study, results, found, TEMPLATE.read_text())
    assert "{{" not in text
    assert f"{len(results):,} runs" in text
    for claim in claims(study):
        assert f"### {claim.title}" in text
        assert f"| {claim.title} | {claim.expected} |" in text
    [row] = [line for line in text.splitlines() if line.startswith("| 256 | 4 |")]
    plain, noisy = (float(cell) for cell in row.split("|")[5:7])
    assert plain - noisy == pytest.approx(0.5, abs=0.02)
    assert plain == pytest.approx(5, abs=0.2)  # without the seeds that chose alpha
    for path in save_all(study, results, found, tmp_path):
        assert path.stat().st_size > 10_000


def test_a_few_seeds_show_nothing(study):
    study, results = study
    few = [result for result in results if result.seed < 6 or not result.is_reported]
    found = answers(study, few)
    assert {a.verdict for a in found if a.contrast.margin is None} == {"too few seeds"}


def test_the_page_says_what_is_missing(study):
    study, results = study
    assert "not finished" not in page(study, results, [], "{{missing}}")
    text = page(study, results[:-3], [], "{{missing}}")
    planned = len(study.runs(headline=False))
    assert f"{planned - 3} of {planned} runs are in" in text
    chosen = {f"alpha, {pairs:,} pairs": arm for pairs, arm in study.noisy.items()}
    assert "schedules, regularizers" in page(Study(FULL, chosen), results, [], "{{missing}}")


def test_a_picture_has_the_reported_seeds(study, monkeypatch):
    study, results = study
    seen = []
    monkeypatch.setattr(
        pictures, "estimate", lambda losses: seen.extend(losses) or estimate(losses)
    )
    pictures._sizes(study, results)
    assert max(seen) < 50


@pytest.mark.skipif(not RESULTS.exists(), reason="the study has not been run")
def test_the_page_is_that_of_the_results():
    """Run ``python -m evidence report`` if this fails."""
    assert (DOCS / "evidence.md").read_text() == published()[-1]


def test_other_pretrained_models(study):
    study, results = study
    found = answers(study, results)
    headline = set(study.runs(headline=True))
    opposite = [
        made(arm, seed, effect=-0.5) for arm, seed in sorted(headline, key=str) if arm.pairs == 64
    ]
    for result in opposite:
        del result.measures["verbatim"]  # a repetition may lack a measure, or arms
    text = page(
        study, results, found, "{{pretrained}}\n{{contradicted}}", [found, answers(study, opposite)]
    )
    [row] = [line for line in text.splitlines() if line.startswith("| test loss, 64 pairs")]
    mine, same, other = row.split(" | ")[1:]
    assert mine == same
    assert float(mine.split()[0]) == pytest.approx(-0.5, abs=0.02)
    assert float(other.split()[0]) == pytest.approx(0.5, abs=0.02)
    [row] = [line for line in text.splitlines() if line.startswith("| verbatim rate, 64 pairs")]
    assert row.endswith(" |  |")
    last = text.splitlines()[-1]
    assert "test loss, 64 pairs" in last
    assert "256" not in last
    same = page(study, results, found, "{{contradicted}}", [found])
    assert same.startswith("No answer")


def test_processes_end_with_the_command():
    code = """if True:
        import multiprocessing, os, time
        from concurrent.futures import ProcessPoolExecutor
        from evidence.runner import _end_with_parent
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent)
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600)
        os.kill(os.getpid(), 9)"""
    killed = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, cwd=ROOT
    )
    process = int(killed.stdout)
    for _ in range(600):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("The process runs on.")


def test_only_seeds_that_all_arms_have_count():
    study = Study(QUICK, {"alpha, 64 pairs": Arm(pairs=64, alpha=4.0)})
    contrast = claims(study)[0].contrasts[0]
    plain, noisy = study.plain[64], study.noisy[64]
    results = [made(plain, 0), made(plain, 1), made(noisy, 1), made(noisy, 2)]
    [difference] = values(contrast, results)
    expected = results[2].measures["train_loss"] - results[1].measures["train_loss"]
    assert difference == expected


@pytest.mark.parametrize("schedule", ["constant", "down", "up"])
def test_schedules_have_the_same_sum_of_squares(schedule):
    arm = Arm(pairs=64, alpha=3.0, schedule=schedule)
    noise = noise_of(arm, seed=1)
    amplitudes = [noise.alpha_at(step) for step in range(arm.steps)]
    assert sum(alpha**2 for alpha in amplitudes) == pytest.approx(arm.steps * 9)
    rising = np.diff(amplitudes)
    expected = {"constant": rising == 0, "down": rising < 0, "up": rising > 0}
    assert expected[schedule].all()
    assert noise_of(Arm(), seed=1) is None


def test_a_file_that_a_kill_cut_off_goes_on(tmp_path):
    path = tmp_path / "results.jsonl"
    one, two, three = (made(Arm(alpha=2.0), seed) for seed in range(3))
    append(path, [one, two])
    path.write_text(path.read_text()[:-20])
    assert [result.seed for result in load(path)] == [0]
    append(path, [three])
    found = load(path)
    assert [(result.arm, result.seed) for result in found] == [(one.arm, 0), (three.arm, 2)]
    assert found[0].measures == pytest.approx(one.measures, abs=1e-5)
    assert load(Path(tmp_path / "none")) == []


def test_statistics():
    generator = np.random.default_rng(0)
    shifted = estimate(generator.normal(0.3, 0.2, 12))
    assert shifted.low < 0.3 < shifted.high
    assert shifted.p < 0.01
    nothing = generator.normal(0.0, 0.2, 12)
    assert estimate(nothing).p > 0.05
    assert equivalence(nothing, 0.5) < 0.001
    assert equivalence(nothing, 0.01) > 0.05
    assert estimate([0.0] * 5).p == 1.0
    # The smallest p-value of a sign-flip test with 5 differences is 2 of 32.
    assert estimate([1.0, 1.1, 0.9, 1.2, 0.8]).p == pytest.approx(2 / 32)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]


def test_recitation_of_answers_that_end():
    """Answers end with the token that ends generation, most of them early."""
    model = llama(hidden_size=32, intermediate_size=64, pad_token_id=PAD_ID, eos_token_id=END_ID)
    rows = [
        Row([5, 6, 7], [10, 11, END_ID], ""),
        Row([8], [12, 13, 14, END_ID], ""),
        Row([9, 4], [15] * 40, ""),
    ]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        model(**collate(rows)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert recitation(model, rows) == (1.0, 1.0)
    others = [replace(row, answer=[16, *row.answer[1:]]) for row in rows]
    verbatim, overlap = recitation(model, others)
    assert verbatim == 0
    assert 0.6 < overlap < 0.9
