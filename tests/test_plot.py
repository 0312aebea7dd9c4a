"""``embnoise plot``: the numbers, the picture, the text, and what is refused."""

import json
import re

import numpy as np
import pytest

from embnoise import Noise, add_noise, constant, linear, neftune, symnoise
from embnoise._cli import main
from embnoise._curves import curves


@pytest.fixture
def files(tmp_path):
    noises = {
        "constant": neftune(5.0),
        "annealed": neftune(linear(8.0, 0.0), distribution="gaussian", match="rms"),
        "signs": symnoise(5.0, scale="absolute"),
    }
    paths = []
    for name, noise in noises.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(noise.to_dict()))
    return [str(path) for path in paths]


def test_a_short_peak_is_seen():
    peak = linear(0.0, 20.0, 50).then(linear(20.0, 1.0, 50)).then(constant(1.0))
    found = curves(neftune(peak), total_steps=100_000, dim=64)
    assert found.alphas.max() == 20
    assert len(found.steps) < 300
    assert found.rms[0] == pytest.approx(20 / (8 * 64) ** 0.5 / 3**0.5)
    short = curves(neftune(peak), total_steps=20, dim=64)  # a run may end before the peak
    assert short.alphas.max() == peak(19)


@pytest.mark.parametrize(
    "noise",
    [
        neftune(5.0),
        neftune(5.0, distribution="gaussian"),
        neftune(5.0, distribution="rademacher", match="rms"),
        neftune(5.0, scale="per_token"),
        Noise(0.1, scale="absolute", length=7),
        neftune(5.0, length=7),
    ],
)
def test_the_sizes_are_those_of_the_noise(noise):
    found = curves(noise, total_steps=10, dim=64)
    for length in (8, 512):
        drawn = add_noise(np.zeros((1, length, 64), np.float32), noise, step=0)
        [predicted] = found.rms[found.lengths == length]
        near = 0.1 if length == 8 else 0.02
        assert np.sqrt((drawn**2).mean()) == pytest.approx(predicted, rel=near)
    scaled = np.sort(drawn, axis=None) / drawn.std() * found.values.std()
    middle = np.interp(0.75, found.probabilities, found.values)
    assert np.quantile(scaled, 0.75) == pytest.approx(middle, rel=0.05)
    assert found.values.max() <= found.bound


def test_alpha_over_a_run_of_any_length():
    noise = neftune(linear(5.0, 1.0))
    assert curves(noise, total_steps=1, dim=8).alphas.tolist() == [5.0]
    found = curves(noise, total_steps=10**6, dim=8)
    assert (found.steps[0], found.steps[-1]) == (0, 10**6 - 1)
    assert found.alphas == pytest.approx(5.0 - 4.0 * found.steps / 10**6)


def test_the_text_on_a_terminal(files, capsys):
    assert main(["plot", *files, "--steps", "100", "--dim", "64"]) == 0
    text = capsys.readouterr().out
    assert "constant: uniform noise of magnitude alpha/sqrt(L*d); in its units, RMS 0.577" in text
    assert "annealed: gaussian noise" in text
    assert "no bound" in text
    assert "d = 64" in text
    assert "step 99" in text
    constant = next(line for line in text.splitlines() if line.startswith("  constant"))
    assert constant.split()[1] == f"{5 / (8 * 64 * 3) ** 0.5:.2g}"
    assert max(map(len, text.splitlines())) < 100


def test_the_largest_noise_of_a_run_is_shown(tmp_path, capsys):
    noise = Noise(linear(0.0, 5.0, 10).then(linear(5.0, 0.0)), scale="relative")
    (tmp_path / "warm.json").write_text(json.dumps(noise.to_dict()))
    assert main(["plot", str(tmp_path / "warm.json")]) == 0
    *_, head, _lengths, row = capsys.readouterr().out.splitlines()
    assert head.startswith("RMS of the noise at the largest alpha")
    label, values = row.split("  ", 2)[1:]
    assert label == "warm, times the RMS of the embeddings"
    assert all(float(each) == pytest.approx(5 / 3**0.5, rel=0.05) for each in values.split())


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture(files, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    output = tmp_path / f"noise{suffix}"
    assert main(["plot", *files, "--output", str(output)]) == 0
    assert output.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_files_of_one_name_are_told_apart(files, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "constant.json").write_text(json.dumps(neftune(1.0).to_dict()))
    assert main(["plot", files[0], str(other / "constant.json")]) == 0
    assert f"{other / 'constant.json'}: uniform" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json"], "there is no file"),
        (["{folder}"], "FILE must be a file, and .* is a folder"),
        (["{file}", "{file}"], "each FILE must be named once, got .*constant.json twice"),
        (["{folder}/broken.json"], "broken.json does not describe a noise"),
        (["{folder}/negative.json"], "alpha must be .* got -1"),
        (["{file}", "--dim", "0"], "--dim must be at least 1, got 0"),
        (["{file}", "--steps", "-5"], "--steps must be at least 1, got -5"),
        (["{file}", "--output", "x.jpg"], r"--output must end in \.png or \.svg, got x\.jpg"),
    ],
)
def test_what_is_refused_takes_one_line(arguments, message, files, tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "negative.json").write_text(json.dumps({**neftune().to_dict(), "alpha": -1}))
    filled = [text.format(file=files[0], folder=tmp_path) for text in arguments]
    assert main(["plot", *filled]) == 2
    found = capsys.readouterr().err
    assert found.count("\n") == 1
    assert re.search(message, found)
