"""Experiments on decisions: bandits, Bayesian optimization, active learning."""
