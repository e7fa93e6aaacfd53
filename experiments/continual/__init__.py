"""Experiments on continual learning."""
