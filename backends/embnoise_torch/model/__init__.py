"""What ``attach`` finds in a model and reads from its calls."""
