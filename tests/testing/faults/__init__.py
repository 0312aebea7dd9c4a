"""Faults that no framework is needed for: each is tested in PyTorch, JAX and Keras.

Each module holds a family. ``layer.py`` has the right layer, in NumPy, and the hooks that a fault
changes; ``torch_layer.py``, ``jax_layer.py`` and ``keras_layer.py`` wrap it.
"""
