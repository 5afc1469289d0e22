"""Optimizers, learning rates, clipping and the moving average."""
