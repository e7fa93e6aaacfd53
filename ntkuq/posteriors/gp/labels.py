"""Classes by regression on their labels, under its own name."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_dataset
from ntkuq.models import BNN, Categorical, Gaussian
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.models.likelihoods.quadrature import dense_line
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import output_dtype


#: Inputs whose probabilities are integrated at a time.
ROWS = 512


class LabelRegression(AbstractMethod):
    r"""Classes by GP regression on one-hot labels: not a likelihood of classes.

    The targets are $[y_i = c] - 1/C$, with Gaussian noise. The class is that of the
    largest mean; probabilities are $P(\arg\max_c y_{*c} = c)$ under the Gaussian
    prediction. They come from no likelihood of labels and need not be calibrated; use
    `GP`, `NNGP` or `NTKGP` themselves for a posterior. Published accuracies of
    infinitely wide networks are those of this method.

    Args:
        method: `GP`, `NNGP`, `NTKGP` or `WideEnsemble` for regression.
        noise_scale: standard deviation of the noise on the labels where `method` keeps
            its hyper-parameters, `tune=Fixed()`; else it is fitted.

    References:
        Lee et al., *Deep neural networks as Gaussian processes*, ICLR 2018; Rifkin and
        Klautau, *In defense of one-vs-all classification*, JMLR 2004.

    >>> from ntkuq.posteriors import NNGP
    >>> type(LabelRegression(NNGP()).method).__name__
    'NNGP'
    """

    method: AbstractMethod
    noise_scale: float = 0.1

    def __check_init__(self):
        if not self.noise_scale > 0.0:
            raise ValueError(
                f"LabelRegression: expected noise_scale > 0, got {self.noise_scale}"
            )

    def fit(self, bnn: BNN, data: DataLike, *, key: Array) -> LabelRegressionPosterior:
        """The regression on the labels of `data`.

        Raises:
            TypeError: for a likelihood that is not `Categorical`, or one that is not of
                one label an example.
        """
        data = as_dataset(data)
        bnn = bnn.prepare(data)
        inner = _regression(bnn, self.noise_scale)
        posterior = self.method.fit(inner, _labels(bnn, data), key=key)
        return LabelRegressionPosterior(
            bnn=bnn,
            regression=posterior,
            hyperparameters=posterior.hyperparameters,
            log_marginal_likelihood=None,
            diagnostics={
                **posterior.diagnostics,
                "probabilities": "P(largest) under regression on labels",
                "log evidence of the label regression": (
                    posterior.log_marginal_likelihood
                ),
            },
        )

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        data = as_dataset(data)
        bnn = bnn.prepare(data)
        inner = _regression(bnn, self.noise_scale)
        return self.method.cost(inner, _labels(bnn, data))


class LabelRegressionPosterior(AbstractPosterior):
    """Regression on labels, and the probability that a class is the largest.

    `latent`, `epistemic` and `aleatoric` of its predictions are `None`: there are no
    logits. The log marginal likelihood of the regression, which is none of labels, is
    in `diagnostics`.
    """

    bnn: BNN
    regression: AbstractPosterior
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Class probabilities at the inputs x (N, …)."""
        dtype = output_dtype(self.bnn)
        scores = self.regression.predict(self.bnn.scaling.inputs(x))
        with jax.enable_x64(True):
            mean = jnp.asarray(scores.mean).astype(jnp.float64)
            variance = jnp.asarray(scores.epistemic) + jnp.asarray(scores.aleatoric)
            variance = jnp.broadcast_to(variance.astype(jnp.float64), mean.shape)
            parts = [
                largest(mean[i : i + ROWS], variance[i : i + ROWS])
                for i in range(0, max(len(mean), 1), ROWS)
            ]
            probs = jnp.concatenate(parts).astype(dtype)
        return Predictive(
            latent=None,
            observed=dist.CategoricalProbs(probs),
            epistemic=None,
            aleatoric=None,
        )

    def update(self, data: Dataset, *, key: Array) -> LabelRegressionPosterior:
        """The regression given more labels; the hyper-parameters are kept.

        Args:
            data: new observations.
            key: for the regression.
        """
        regression: Any = self.regression
        posterior = regression.update(_labels(self.bnn, data), key=key)
        return LabelRegressionPosterior(
            bnn=self.bnn,
            regression=posterior,
            hyperparameters=self.hyperparameters,
            log_marginal_likelihood=None,
            diagnostics={
                **self.diagnostics,
                "log evidence of the label regression": (
                    posterior.log_marginal_likelihood
                ),
            },
        )


@eqx.filter_jit
def largest(
    mean: Float[Array, "N C"], variance: Float[Array, "N C"]
) -> Float[Array, "N C"]:
    r"""The probability that each of C independent normals is the largest.

    $P_c = \int N(z; 0, 1) \prod_{j \neq c} \Phi((\mu_c + s_c z - \mu_j)/s_j)\,dz$, by
    the trapezoidal rule, then divided by their sum, which takes away what is left of
    its error.

    >>> largest(jnp.zeros((1, 2)), jnp.ones((1, 2)))[0]
    Array([0.5, 0.5], dtype=float32)
    """
    points, weights = (jnp.asarray(a, mean.dtype) for a in dense_line())
    scale = jnp.sqrt(variance)
    outputs = mean.shape[1]
    others = ~jnp.eye(outputs, dtype=bool)

    def one(row: tuple[Array, Array]) -> Array:
        mu, s = row
        at = mu[:, None] + s[:, None] * points  # (C, S): values of class c
        z = (at[:, None, :] - mu[None, :, None]) / s[None, :, None]
        below = jnp.where(others[:, :, None], jax.scipy.stats.norm.logcdf(z), 0.0)
        return jnp.exp(jnp.sum(below, axis=1)) @ weights

    found = jax.lax.map(one, (mean, scale), batch_size=8)
    tiny = jnp.finfo(mean.dtype).tiny
    found = jnp.maximum(found, tiny)
    return found / jnp.sum(found, axis=1, keepdims=True)


def _regression(bnn: BNN, noise_scale: float) -> BNN:
    """The regression problem of a prepared problem of classes; inputs come scaled."""
    if not isinstance(bnn.likelihood, Categorical):
        raise TypeError(
            "LabelRegression: expected a Categorical likelihood and one label an "
            f"example, got {type(bnn.likelihood).__name__}"
        )
    return BNN(bnn.network, Gaussian(noise_scale), bnn.prior)


def _labels(bnn: BNN, data: Dataset) -> Dataset:
    """Scaled inputs, and one-hot labels minus 1/C."""
    outputs = bnn.outputs(data)
    codes = np.asarray(data.y, np.int64).reshape(-1)
    if codes.size and not 0 <= codes.min() <= codes.max() < outputs:
        raise ValueError(
            f"LabelRegression: expected class codes from 0 to {outputs - 1}, got "
            f"{codes.min()} to {codes.max()}"
        )
    y = np.eye(outputs)[codes] - 1.0 / outputs
    scaled = bnn.scaling.inputs(data.x)
    return Dataset(scaled, y, features=data.features, name=data.name)
