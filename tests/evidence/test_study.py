"""The study: its arms, its raw results, its statistics and its page, on made results."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

from evidence.arms import FULL, QUICK, TUNING_SEEDS, Arm, Study, family, tuning_arms
from evidence.claims import claims, values
from evidence.pictures import save_all
from evidence.report import answers, page
from evidence.results import Result, append, load
from evidence.statistics import equivalence, estimate, holm
from evidence.training import noise_of
from evidence.tuning import chosen_arms


def made(arm, seed, effect=0.5):
    """Results in which noise lowers the test loss by ``effect``, more or less."""
    chance = random.Random(f"{arm}{seed}")  # noqa: S311
    loss = 5 + random.Random(seed).gauss(0, 0.2) + chance.gauss(0, 0.02)  # noqa: S311
    loss -= effect * (arm.alpha > 0)
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
    assert study.tuned["dropout"].dropout == 0.05
    assert study.tuned["weight decay"].weight_decay == 0.03
    families = {family(arm) for arm in tuning_arms(FULL, headline=False)}
    assert families == {"dropout", "weight decay", "bert", *(f"llama {n}" for n in FULL.sizes)}


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


def test_the_page_and_its_pictures(study, tmp_path):
    study, results = study
    text = page(study, results, "{{runs}} runs, {{hours}} hours\n{{claims}}\n{{tuning}}\n{{arms}}")
    assert "{{" not in text
    assert f"{len(results):,} runs" in text
    for claim in claims(study):
        assert f"### {claim.title}" in text
    for path in save_all(study, results, answers(study, results), tmp_path):
        assert path.stat().st_size > 10_000


def test_only_seeds_that_all_arms_have_count():
    study = Study(QUICK, {"llama 64": Arm(pairs=64, alpha=4.0)})
    contrast = claims(study)[0].contrasts[0]
    plain, noisy = study.plain[64], study.noisy[64]
    results = [made(plain, 0), made(plain, 1), made(noisy, 1), made(noisy, 2)]
    [difference] = values(contrast, results)
    expected = results[2].measures["train_loss"] - results[1].measures["train_loss"]
    assert difference == expected


@pytest.mark.parametrize("schedule", ["constant", "down", "up"])
def test_schedules_have_the_same_sum_of_squares(schedule):
    noise = noise_of(replace(Arm(), alpha=3.0, schedule=schedule), 50, seed=1)
    amplitudes = [noise.alpha_at(step) for step in range(50)]
    assert sum(alpha**2 for alpha in amplitudes) == pytest.approx(50 * 9)
    rising = np.diff(amplitudes)
    expected = {"constant": rising == 0, "down": rising < 0, "up": rising > 0}
    assert expected[schedule].all()
    assert noise_of(Arm(), 50, seed=1) is None


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
