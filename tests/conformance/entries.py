"""Public implementations: where they are, what they promise, and what would mend them.

A finding is one rule, which several projects may share. To correct one, edit its entry here and run
``python -m tests.conformance.table``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embnoise.testing import Claims
from tests.conformance import layers
from tests.conformance.layers import added, table

NEFTUNE = Claims(seeded="global")
"""NEFTune as published; the paper does not speak of seeds."""


ITS_OWN = "its code"
OF_TRANSFORMERS = "that of transformers"


@dataclass(frozen=True)
class Project:
    """Where a rule was found: a project, what was read of it, and when that was written."""

    name: str
    version: str
    link: str
    ran: str = "the rule"
    """What ran: its own code, that of another project, or the rule, written again."""


@dataclass(frozen=True)
class Finding:
    """A rule, and what the kit says of it."""

    title: str
    projects: tuple[Project, ...]
    rule: str
    """What it computes and promises, for readers."""
    layer: Callable[..., Any]
    claims: Claims
    """The same promise, for the kit."""
    inputs: str = "ids"
    driver: str = "torch"
    published: Claims | None = NEFTUNE
    """NEFTune as published; ``None`` for another method."""
    symptom: str = ""
    """The code of the check that shows the fault best, on the project's own terms."""
    mend: str = ""
    """What a maintainer would do about it."""
    sampled: bool = False
    """Whether it is tested every time; the others are tested in sweeps."""


def github(path: str) -> str:
    return f"https://github.com/{path}"


def row_width(**more: Any) -> Claims:
    return Claims(length="padded", seeded="global", **more)


OURS = {"clean_without_grad": True, "distinct_ranks": True, "validates_alpha": True}
COUNTED = Claims(validates_alpha=True, saved_names=("count",))
OF_EMBNOISE = [
    Finding(
        "embnoise",
        (Project("`embnoise_torch.attach`", "this version", "pytorch.md", ran=ITS_OWN),),
        "",
        layers.attached,
        Claims(**OURS),
        sampled=True,
        published=Claims(),
    ),
    Finding(
        "embnoise",
        (Project("`embnoise_torch.EmbeddingNoise`", "this version", "pytorch.md", ran=ITS_OWN),),
        "",
        layers.of_torch,
        Claims(**OURS),
        inputs="embeddings",
        published=Claims(),
    ),
    Finding(
        "embnoise",
        (Project("`embnoise_jax.nnx.EmbeddingNoise`", "this version", "jax.md", ran=ITS_OWN),),
        "",
        layers.of_nnx,
        COUNTED,
        inputs="embeddings",
        driver="jax",
        published=COUNTED,
    ),
    Finding(
        "embnoise",
        (Project("`embnoise_keras.EmbeddingNoise`", "this version", "keras.md", ran=ITS_OWN),),
        "",
        layers.of_keras,
        COUNTED,
        inputs="embeddings",
        driver="keras",
        published=COUNTED,
    ),
]

OF_OTHERS = [
    Finding(
        "The width of the row",
        (
            Project("transformers", "5.23.0", github("huggingface/transformers/blob/v5.23.0/src/"
                    "transformers/integrations/neftune.py"), ran=ITS_OWN),
            Project("TRL", "1.16.0", github("huggingface/trl"), ran=OF_TRANSFORMERS),
            Project("axolotl", "067b021, July 2026", github("axolotl-ai-cloud/axolotl/blob/"
                    "067b021c8/src/axolotl/core/builders/causal.py"), ran=OF_TRANSFORMERS),
            Project("LLaMA-Factory", "ff6d4d1, August 2026", github("hiyouga/LLaMA-Factory/tree/"
                    "ff6d4d12e"), ran=OF_TRANSFORMERS),
            Project("unsloth", "015bdef, August 2026", github("unslothai/unsloth/blob/015bdef0d9/"
                    "unsloth/tokenizer_utils.py")),
            Project("ms-swift, models with one table", "3602360, August 2026",
                    github("modelscope/ms-swift/blob/3602360a5/swift/tuners/neftune.py")),
            Project("Ludwig", "5d19f3e, July 2026", github("ludwig-ai/ludwig/blob/5d19f3e63/ludwig/"
                    "modules/training_hooks.py")),
            Project("H2O LLM Studio", "a4971c1, March 2026", github("h2oai/h2o-llmstudio/blob/"
                    "a4971c11/llm_studio/src/utils/modeling_utils.py")),
            Project("The paper's README", "09d4909, May 2024",
                    github("neelsjain/NEFTune/blob/09d4909/README.md")),
        ),
        "transformers, and all that have its lines, promise noise of alpha / sqrt(L * d) from the "
        "global generator, where L is the width of the row, and keep that promise. TRL, axolotl "
        "and LLaMA-Factory have no noise of their own any more: they hand `neftune_noise_alpha` on "
        "to the Trainer of transformers. "
        "The others have the same few lines as transformers. L counts padding, and all documents "
        "of a packed row: 32 real tokens in a row of 512 get a quarter of the published noise, and "
        "so do 16 documents of 128 tokens in a row of 2048 "
        "([transformers#34659](https://github.com/huggingface/transformers/issues/34659)). Padding "
        "gets noise as well, which attention masks hide.",
        layers.transformers_hook,
        row_width(),
        sampled=True,
        mend="take L from the sum of the attention mask (in packed rows, from the position ids), "
        "and multiply the noise by the mask.",
    ),
    Finding(
        "transformers with an encoder-decoder",
        (
            Project("transformers, T5", "5.23.0", github("huggingface/transformers/blob/v5.23.0/"
                    "src/transformers/integrations/neftune.py"), ran=ITS_OWN),
        ),
        "`activate_neftune` puts its hook on `get_input_embeddings()`. In T5, BART, Pegasus or "
        "M2M100 that is `shared`, a module which no forward calls: the encoder and the decoder "
        "look tokens up through modules of their own that share its table. Training goes on "
        "without noise, and without a warning.",
        layers.transformers_encoder,
        row_width(compilable=False),  # the rest of the model is not the hook's
        published=Claims(seeded="global", compilable=False),
        symptom="EN08",
        mend="put the hook on every module whose weight is that of `get_input_embeddings()`, "
        "except the output head, and raise if a training step has called none of them.",
    ),
    Finding(
        "ms-swift with a table of positions",
        (
            Project("ms-swift, GPT-2 or BERT", "3602360, August 2026",
                    github("modelscope/ms-swift/blob/3602360a5/swift/tuners/neftune.py")),
        ),
        "The tuner puts a hook on every `nn.Embedding` of the model. In a Llama there is one. "
        "GPT-2 and BERT also look positions up, and BERT token types, so that several draws are "
        "added, one of them shared by all rows of the batch.",
        table(layers.EveryTable),
        row_width(),
        symptom="EN10",
        mend="put the hook on `model.get_input_embeddings()` alone.",
    ),
    Finding(
        "NeMo Automodel",
        (
            Project("NeMo Automodel", "36044ad, August 2026", github("NVIDIA-NeMo/Automodel/blob/"
                    "36044ad3d/nemo_automodel/components/training/neftune.py")),
        ),
        "It promises the width of the row, and refuses a negative alpha and a second activation, "
        "which few do. L * d is held in the dtype of the embeddings: in float16 it is infinite "
        "above 65,504 (16 tokens of 4096 channels), and the magnitude becomes 0. bfloat16 and "
        "float32 are fine.",
        table(layers.RowWidthInItsDtype),
        row_width(),
        symptom="EN08",
        mend="hold the product in a Python number, `math.sqrt(output.size(1) * output.size(2))`, "
        "which also saves the two `.item()` calls per forward.",
    ),
    Finding(
        "sqrt(B * L)",
        (
            Project("instructlab/training", "0.16.1, April 2026", github("instructlab/training/"
                    "blob/v0.16.1/src/instructlab/training/utils.py")),
            Project("PaddleNLP", "d4ce0b0", github("PaddlePaddle/PaddleNLP/blob/d4ce0b0e/llm/"
                    "run_finetune.py")),
        ),
        "instructlab/training and PaddleNLP mean alpha / sqrt(L * d). One divides by the number of "
        "the ids, the other by the "
        "first two sizes of the embeddings, and both are B * L: d is missing, and the batch "
        "counts. With 8 rows of 512 tokens and 4096 channels, the noise is 22.6 times too large.",
        table(layers.BatchAndLength),
        row_width(),
        symptom="EN10",
        mend="divide by sizes 1 and 2 of the embeddings, `x.size(1) * x.size(2)`.",
    ),
    Finding(
        "sqrt(B * L * d)",
        (
            Project("dolomite-engine", "537a2f3, August 2024", github("ibm-granite/dolomite-engine/"
                    "blob/537a2f3/dolomite_engine/model_wrapper/base.py")),
        ),
        "dolomite-engine means alpha / sqrt(L * d), and divides by the number of elements of the "
        "embeddings. "
        "Each row gets less noise in a larger batch: 0.35 of the published noise with 8 rows.",
        table(layers.Elements),
        row_width(),
        symptom="EN08",
        mend="divide by `x.size(1) * x.size(2)` in place of `x.numel()`.",
    ),
    Finding(
        "sqrt(vocabulary * d)",
        (
            Project("LLaMA-Factory, an early version", "6da5156, October 2023",
                    github("hiyouga/LLaMA-Factory/commit/6da51565f")),
        ),
        "In an early version of LLaMA-Factory, the sizes were those of the table, not of its "
        "output, so the noise did not depend on the length, and was smaller the larger the "
        "vocabulary, here 32,000. Its authors fixed it two weeks later "
        "([2eb65d2](https://github.com/hiyouga/LLaMA-Factory/commit/2eb65d21a)).",
        table(layers.WholeTable),
        row_width(),
        symptom="EN08",
        mend="none needed.",
    ),
    Finding(
        "The paper's training code",
        (
            Project("The paper's experiments", "fb116ab, October 2023",
                    github("neelsjain/NEFTune/blob/fb116ab/experiment_code/train.py")),
        ),
        "The only one with true lengths: L is the sum of a row's mask, and padding gets no noise. "
        "A row that is all padding divides by 0, and lengths are held in the dtype of the "
        "embeddings. Its own batches have no such rows, and it runs in bfloat16, where nothing "
        "overflows; code that was copied from it may meet both.",
        added(layers.MaskSum),
        Claims(seeded="global"),
        inputs="embeddings",
        symptom="EN09",
        mend="hold the lengths in float32 and clamp them to at least 1.",
    ),
    Finding(
        "pytorch-lifestream",
        (
            Project("pytorch-lifestream `NoisyEmbedding`", "1819076, September 2022",
                    github("dllllb/pytorch-lifestream/blob/1819076f/ptls/nn/trx_encoder/"
                    "noisy_embedding.py")),
        ),
        "It is older than NEFTune, and another method: Gaussian noise of a given standard "
        "deviation. It draws one vector of d values per call and adds it to every token of every "
        "row. That may be meant (it moves a whole batch, as an offset would), but its description "
        "reads as noise on each embedding.",
        added(layers.OneDraw),
        Claims(distribution="gaussian", scale="absolute", length=None, seeded="global"),
        inputs="embeddings",
        published=None,
        symptom="EN26",
        mend="draw with `torch.randn_like(x)`, or say that the draw is shared.",
    ),
    Finding(
        "R3F",
        (
            Project("fairseq R3F", "a4356b1", github("facebookresearch/fairseq/blob/a4356b1d/"
                    "examples/rxf/rxf_src/sentence_prediction_r3f.py")),
        ),
        "Another method: uniform (or Gaussian) noise of a fixed size, and a loss that compares the "
        "noisy pass with the clean one. Its noise is as described.",
        added(layers.Absolute),
        Claims(scale="absolute", length=None, seeded="global"),
        inputs="embeddings",
        published=None,
    ),
    Finding(
        "Keras GaussianNoise",
        (
            Project("Keras `GaussianNoise`", "3.15.1", "https://keras.io/api/layers/"
                    "regularization_layers/gaussian_noise/", ran=ITS_OWN),
        ),
        "Another method: Gaussian noise of a given standard deviation, with a seed of its own, on "
        "every element, padding included. It is as described.",
        layers.keras_noise,
        Claims(distribution="gaussian", scale="absolute", length=None),
        inputs="embeddings",
        driver="keras",
        published=None,
    ),
]  # fmt: skip
