"""How latent GPs are inferred under likelihoods that are not Gaussian: strategies."""

from __future__ import annotations

import equinox as eqx


class LatentLaplace(eqx.Module):
    """Laplace's approximation for likelihoods that are not Gaussian.

    Args:
        tune_points: hyper-parameters are tuned on at most this many training points,
            drawn at random; the posterior uses all.
        max_steps: most Newton steps.

    >>> LatentLaplace().tune_points
    500
    """

    tune_points: int = 500
    max_steps: int = 100

    def __check_init__(self):
        if self.tune_points < 1 or self.max_steps < 1:
            raise ValueError(
                "LatentLaplace: expected tune_points >= 1 and max_steps >= 1, got "
                f"{self.tune_points} and {self.max_steps}"
            )


class EllipticalSlice(eqx.Module):
    """Draws of the latent function by elliptical slice sampling: exact in the limit.

    Hyper-parameters are tuned by Laplace's evidence, as with `LatentLaplace`; given
    them, the posterior over functions is sampled. A step costs one product with the
    Cholesky factor of the kernel matrix and a few evaluations of the likelihood.

    Args:
        samples: draws kept of each chain.
        warmup: steps thrown away first.
        thin: steps for each draw kept.
        chains: independent chains, by whose agreement mixing is judged.
        tune_points: hyper-parameters are tuned on at most this many training points,
            drawn at random; the posterior uses all.
        max_steps: most Newton steps of Laplace's approximation.

    References:
        Murray, Adams and MacKay, *Elliptical slice sampling*, AISTATS 2010.

    >>> EllipticalSlice(chains=2).samples
    250
    """

    samples: int = 250
    warmup: int = 1000
    thin: int = 10
    chains: int = 4
    tune_points: int = 500
    max_steps: int = 100

    def __check_init__(self):
        counts = (self.samples, self.thin, self.tune_points, self.max_steps)
        if min(counts) < 1 or self.chains < 2 or self.warmup < 0:
            raise ValueError(
                "EllipticalSlice: expected samples, thin, tune_points and max_steps "
                ">= 1, chains >= 2 and warmup >= 0, got "
                f"{self}"
            )
