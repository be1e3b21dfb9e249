"""Paddle: its tensors as parameters."""
