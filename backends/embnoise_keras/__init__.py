"""embnoise for Keras 3, on TensorFlow, JAX and PyTorch."""

from embnoise_keras.attach import Handle, attach
from embnoise_keras.functional import add_noise
from embnoise_keras.layer import EmbeddingNoise
from embnoise_keras.report import NoiseReport

__all__ = ["EmbeddingNoise", "Handle", "NoiseReport", "add_noise", "attach"]
