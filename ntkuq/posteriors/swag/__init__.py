"""Gaussians over the weights that SGD goes through."""

from ntkuq.posteriors.swag.method import SWAG as SWAG
