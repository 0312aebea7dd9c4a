"""The rules of public implementations, each as the smallest layer that has it.

They are written from descriptions of the rules, for the kit; no code of those projects is here.
What is installed for the tests anyway runs as it is: ``transformers_hook`` and ``keras_noise``.
"""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY = 8


class Table(nn.Module):
    """An embedding and, in training, uniform noise of the magnitude that a subclass gives."""

    def __init__(self, dim, alpha):
        super().__init__()
        self.alpha = alpha
        self.table = nn.Embedding(VOCABULARY, dim)

    def forward(self, ids):
        x = self.table(ids)
        if not self.training:
            return x
        size = self.alpha / torch.sqrt(torch.as_tensor(self.divisor(x, ids)))
        return x + (2 * torch.rand_like(x) - 1) * size


class RowWidth(Table):
    """L is the width of the row."""

    def divisor(self, x, ids):
        return x.shape[1] * x.shape[2]


class RowWidthInItsDtype(Table):
    """The same, with L * d held in the dtype of the embeddings."""

    def divisor(self, x, ids):
        return torch.tensor(x.shape[1] * x.shape[2], dtype=x.dtype)


class BatchAndLength(Table):
    """B * L: the number of ids, or the first two sizes of the embeddings."""

    def divisor(self, x, ids):
        return ids.numel()


class Elements(Table):
    """B * L * d: the number of elements of the embeddings."""

    def divisor(self, x, ids):
        return x.numel()


class WholeTable(Table):
    """The sizes of the table: vocabulary * d, with a vocabulary as large as such models have."""

    def divisor(self, x, ids):
        return 32_000 * x.shape[2]


class EveryTable(Table):
    """Row width, on every embedding of the model: here a table of positions too."""

    def __init__(self, dim, alpha):
        super().__init__(dim, alpha)
        self.positions = nn.Embedding(1024, dim)
        nn.init.zeros_(self.positions.weight)
        self.positions.weight.requires_grad_(False)

    def noisy(self, x):
        size = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + (2 * torch.rand_like(x) - 1) * size if self.training else x

    def forward(self, ids):
        places = torch.arange(ids.shape[1])[None]
        return self.noisy(self.table(ids)) + self.noisy(self.positions(places))


class Added(nn.Module):
    """Adds noise to embeddings in training."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def forward(self, x):
        return x + self.noise(x) if self.training else x


class MaskSum(Added):
    """L is the sum of the mask; lengths are held in the dtype of the embeddings."""

    def forward(self, x, mask):
        return x + self.noise(x, mask.to(x.dtype)) if self.training else x

    def noise(self, x, mask):
        size = self.alpha / torch.sqrt(mask.sum(dim=1) * x.shape[2])
        return (2 * torch.rand_like(x) - 1) * mask[..., None] * size[:, None, None]


class OneDraw(Added):
    """One Gaussian vector, added to every token of the batch."""

    def noise(self, x):
        return (torch.randn(x.shape[2]) * self.alpha).to(x.dtype)


class Absolute(Added):
    """Uniform noise of a size that does not depend on L or d."""

    def noise(self, x):
        return (2 * torch.rand(x.shape, dtype=x.dtype) - 1) * self.alpha


def table(layer):
    """A factory for a layer that embeds ids."""
    return lambda *, dim, alpha, seed: layer(dim, alpha)


def added(layer):
    """A factory for a layer that takes embeddings."""
    return lambda *, dim, alpha, seed: layer(alpha)


def transformers_hook(*, dim, alpha, seed):
    """The code of transformers itself: its activation, on a model with one embedding."""
    from transformers.integrations.neftune import activate_neftune  # noqa: PLC0415

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(VOCABULARY, dim)

        def get_input_embeddings(self):
            return self.table

        def forward(self, ids):
            return self.table(ids)

    model = Model()
    activate_neftune(model, alpha)
    return model


def transformers_encoder(*, dim, alpha, seed):
    """The code of transformers itself, on an encoder-decoder: what the encoder looks up."""
    from transformers import T5Config, T5ForConditionalGeneration  # noqa: PLC0415
    from transformers.integrations.neftune import activate_neftune  # noqa: PLC0415

    sizes = {"d_model": dim, "d_kv": 2, "d_ff": 2, "num_layers": 1, "num_heads": 1}
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **sizes))
    activate_neftune(t5, alpha)
    return LookedUp(t5)


class LookedUp(nn.Module):
    """What the encoder of a T5 looks up, as its own call looks it up."""

    def __init__(self, t5):
        super().__init__()
        self.t5, self.seen = t5, None
        t5.encoder.embed_tokens.register_forward_hook(self.see)

    def see(self, module, arguments, output):
        self.seen = output

    def forward(self, ids):
        self.t5.encoder(input_ids=ids)
        return self.seen

    def state_dict(self, *args, **kwargs):
        """The table: the rest of the model is not the hook's."""
        return self.t5.shared.state_dict(*args, **kwargs)


def keras_noise(*, dim, alpha, seed):
    """The layer of Keras itself."""
    import keras  # noqa: PLC0415

    return keras.layers.GaussianNoise(alpha, seed=seed)


def of_torch(*, dim, alpha, seed):
    """embnoise's layer for PyTorch."""
    from embnoise import neftune  # noqa: PLC0415
    from embnoise_torch import EmbeddingNoise  # noqa: PLC0415

    return EmbeddingNoise(neftune(alpha, seed=seed))


def attached(*, dim, alpha, seed):
    """embnoise on an existing PyTorch model."""
    from embnoise import neftune  # noqa: PLC0415
    from embnoise_torch import attach  # noqa: PLC0415

    model = nn.Sequential(nn.Embedding(VOCABULARY, dim))
    attach(model, neftune(alpha, seed=seed), tokens=lambda ids: {"mask": ids != 0})
    return model


def of_nnx(*, dim, alpha, seed):
    """embnoise's layer for Flax NNX."""
    from embnoise import neftune  # noqa: PLC0415
    from embnoise_jax.nnx import EmbeddingNoise  # noqa: PLC0415

    return EmbeddingNoise(neftune(alpha, seed=seed))


def of_keras(*, dim, alpha, seed):
    """embnoise's layer for Keras."""
    from embnoise import neftune  # noqa: PLC0415
    from embnoise_keras import EmbeddingNoise  # noqa: PLC0415

    return EmbeddingNoise(neftune(alpha, seed=seed))
