"""Sampling with what was trained."""
