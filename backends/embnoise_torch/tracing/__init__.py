"""What PyTorch's compiler and its other transformations see of the noise."""
