"""PyTorch: its tensors as parameters."""
