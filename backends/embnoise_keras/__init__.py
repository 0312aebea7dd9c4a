"""embnoise for Keras 3, on TensorFlow, JAX and PyTorch."""

from embnoise_keras.attach import attach
from embnoise_keras.functional import add_noise
from embnoise_keras.handle import Handle
from embnoise_keras.inspection import inspect
from embnoise_keras.layer import EmbeddingNoise
from embnoise_keras.logger import NoiseLogger

__all__ = ["EmbeddingNoise", "Handle", "NoiseLogger", "add_noise", "attach", "inspect"]
