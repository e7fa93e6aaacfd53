"""Variational inference: the Gaussian over all weights that is nearest to p."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_dataset
from ntkuq.linearize import ExactFisher
from ntkuq.models import BNN
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.checkpoints import checkpoint_of
from ntkuq.posteriors.gaussian_weights import GaussianWeightsPosterior
from ntkuq.posteriors.laplace.structures import (
    AbstractStructure,
    Diagonal,
    Full,
    LowRank,
    TooLarge,
)
from ntkuq.posteriors.raveled import (
    AbstractGaussian,
    DiagonalGaussian,
    FullGaussian,
    LowRankGaussian,
    Target,
)
from ntkuq.posteriors.sgmcmc.loop import in_tenths


#: Side of the largest Cholesky factor that is optimized: 1.5 GiB with its gradient and
#: Adam's moments in float32.
LARGEST_SIDE = 2**13


class Variational(AbstractMethod):
    r"""The Gaussian $q(\theta)$ over all weights that maximizes the evidence bound.

    $\mathrm{ELBO}(q) = E_q[\log p(y \mid \theta) + \log p(\theta) - \log q(\theta)]
    = \log p(y) - \mathrm{KL}(q \,\|\, p(\theta \mid y))$, by NumPyro's guides and
    stochastic variational inference. Gradients flow along the path of the draws only
    ("sticking the landing"), so that their noise vanishes where q is exact. It starts
    at the trained network where there is one, else at one that is freshly built. The
    network itself is used for predictions, it is not linearized.

    Args:
        structure: the covariance of q: `Diagonal()` (mean field), `LowRank(rank)` (a
            diagonal and so many directions), `Full()`. It is fitted, so that the
            options of these classes other than `rank` have no meaning here.
        optimizer: an optax transformation, or a number: the peak learning rate of Adam
            with cosine decay to zero. It minimizes -ELBO/N.
        steps: number of updates.
        batch: examples an update, drawn with replacement, their log likelihood scaled
            by N/batch; `None` for all.
        samples: networks drawn once by the key of `fit`, for predictions.
        particles: draws of theta for each gradient.
        initial_scale: standard deviation of each weight at the start, or that of its
            prior where that is smaller.

    References: Kucukelbir et al. 2017 (arXiv 1603.00788); Blundell et al. 2015
    (arXiv 1505.05424); Roeder, Wu, Duvenaud 2017 (arXiv 1703.09194); Ong, Nott, Smith
    2018 (arXiv 1701.03208, low rank).

    >>> Variational(LowRank(5), steps=100).structure.rank
    5
    """

    structure: AbstractStructure = Diagonal()
    optimizer: optax.GradientTransformation | float = 1e-2
    steps: int = 5_000
    batch: int | None = None
    samples: int = 30
    particles: int = 1
    initial_scale: float = 0.01

    def __check_init__(self):
        _family(self.structure)
        if isinstance(self.optimizer, float | int) and not self.optimizer > 0:
            raise ValueError(
                f"Variational: expected a learning rate > 0, got {self.optimizer}"
            )
        if min(self.steps, self.batch or 1, self.particles) < 1 or self.batch == 0:
            raise ValueError(
                "Variational: expected steps, batch and particles >= 1, got "
                f"steps={self.steps}, batch={self.batch}, particles={self.particles}"
            )
        if self.samples < 2:
            raise ValueError(f"Variational: expected samples >= 2, got {self.samples}")
        if not 0 < self.initial_scale < math.inf:
            raise ValueError(
                "Variational: expected initial_scale > 0 (a standard deviation), got "
                f"{self.initial_scale}"
            )

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> GaussianWeightsPosterior:
        """The posterior; data that come in batches are put together first.

        Args:
            bnn: the problem.
            data: all examples.
            callback: called as `callback(steps, loss)` after each tenth of the steps,
                with the mean of -ELBO/N over it.
            checkpoint: a file in which the run is kept after each tenth. The same call
                goes on from it, to the same posterior bit for bit.
            key: chooses the start, batches, and draws.

        Raises:
            ValueError: where network and data do not fit.
            TooLarge: for `Full()` of a network with too many parameters.
            TrainingError: where a step is not finite.
            StoreError: for the checkpoint of another fit.
        """
        data = as_dataset(data)
        bnn = bnn.prepare(data)
        kept = checkpoint_of(checkpoint, self, bnn, data, key=key)
        keys = jax.random.split(key, 4)
        if not bnn.trained:
            bnn = bnn.with_model(bnn.network.init(keys[0]))
        self._check_size(bnn.size())
        double = bnn.dtype == np.float64
        # NumPyro makes arrays of the default dtype, which is to be that of the network,
        # and relies (as optax does) on the standard rules of promotion
        with jax.enable_x64(double), jax.numpy_dtype_promotion("standard"):
            target = Target.of(bnn, data)
            program = self._program(target)
            scale = jnp.asarray(self.initial_scale, target.raveled.vector.dtype)
            state = _begin(program, target, scale, keys[1])

            def advance(state: PyTree, start: int, length: int):
                return _advance(
                    program, target, state, length, jax.random.fold_in(keys[2], start)
                )

            state, losses = in_tenths(
                advance, state, self.steps, callback=callback, checkpoint=kept
            )
            gaussian, mean, draws, logs = _drawn(
                program, target, state, self.samples, keys[3]
            )
            bounds = np.asarray(target.log_joints(draws) - logs, np.float64)
        se = float(np.std(bounds, ddof=1)) / math.sqrt(self.samples)
        return GaussianWeightsPosterior(
            bnn=bnn.with_model(mean),
            hyperparameters=(),
            log_marginal_likelihood=None,
            diagnostics={
                "parameters": bnn.size(),
                "evidence lower bound": float(np.mean(bounds)),
                "evidence lower bound standard error": se,
                "losses": losses,
            },
            gaussian=gaussian,
            draws=draws,
        )

    def _program(self, target: Target) -> _Program:
        batch = self.batch
        if batch is not None and batch >= target.size:
            batch = None
        optimizer: Any = self.optimizer
        if isinstance(optimizer, float | int):
            optimizer = jnp.asarray(optimizer, target.raveled.vector.dtype)
        family = _family(self.structure)
        return _Program(family, optimizer, self.steps, batch, self.particles)

    def _check_size(self, size: int) -> None:
        if isinstance(self.structure, Full) and size > LARGEST_SIDE:
            raise TooLarge(
                f"Variational(Full()): expected at most {LARGEST_SIDE:,} parameters, "
                f"got {size:,}, whose covariance has {4 * size**2 / 2**30:.0f} GiB in "
                "float32: use LowRank(rank) or Diagonal()"
            )

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        size = bnn.size()
        batch = len(data) if self.batch is None else min(self.batch, len(data))
        numbers = _family(self.structure).numbers(size)
        # forward and backward, then the draw and its density
        step = self.particles * (6.0 * size * batch + 6.0 * numbers)
        last = 2.0 * size * len(data) * self.samples
        held = 24.0 * numbers + 8.0 * self.samples * size
        return Cost(step * self.steps + last, held + 2**26, 6)


class _Family(eqx.Module):
    """A NumPyro guide, its first values, and the Gaussian it stands for."""

    @abc.abstractmethod
    def guide(self, model: Callable) -> Any:
        """The guide of a NumPyro model with one site."""

    @abc.abstractmethod
    def start(self, mean: Array, scale: Array, *, key: Array) -> dict[str, Array]:
        """The guide's parameters for this mean and these standard deviations."""

    @abc.abstractmethod
    def gaussian(self, found: dict[str, Array]) -> AbstractGaussian:
        """The distribution with these parameters of the guide."""

    @abc.abstractmethod
    def numbers(self, size: int) -> int:
        """How many numbers are fitted for so many weights."""


class _Diagonal(_Family):
    def guide(self, model):
        from numpyro.infer.autoguide import AutoDiagonalNormal

        return AutoDiagonalNormal(model, init_loc_fn=_anywhere())

    def start(self, mean, scale, *, key):
        return {"auto_loc": mean, "auto_scale": scale}

    def gaussian(self, found):
        return DiagonalGaussian(found["auto_loc"], found["auto_scale"])

    def numbers(self, size):
        return 2 * size


class _LowRank(_Family):
    rank: int = eqx.field(static=True)

    def guide(self, model):
        from numpyro.infer.autoguide import AutoLowRankMultivariateNormal

        return AutoLowRankMultivariateNormal(
            model, init_loc_fn=_anywhere(), rank=self.rank
        )

    def start(self, mean, scale, *, key):
        # at zero, where NumPyro starts, the gradient of the factor vanishes
        shape = (mean.size, self.rank)
        factor = 0.1 * jax.random.normal(key, shape, mean.dtype)
        return {"auto_loc": mean, "auto_scale": scale, "auto_cov_factor": factor}

    def gaussian(self, found):
        scale = found["auto_scale"]
        factor = found["auto_cov_factor"] * scale[:, None]
        return LowRankGaussian(found["auto_loc"], factor, scale)

    def numbers(self, size):
        return (2 + self.rank) * size


class _Full(_Family):
    def guide(self, model):
        from numpyro.infer.autoguide import AutoMultivariateNormal

        return AutoMultivariateNormal(model, init_loc_fn=_anywhere())

    def start(self, mean, scale, *, key):
        return {"auto_loc": mean, "auto_scale_tril": jnp.diag(scale)}

    def gaussian(self, found):
        return FullGaussian(found["auto_loc"], found["auto_scale_tril"])

    def numbers(self, size):
        return size + size**2


def _family(structure: AbstractStructure) -> _Family:
    """How a structure of Laplace is meant here.

    Raises:
        TypeError: for a structure that has no variational counterpart.
        ValueError: for options of the structure that have no meaning here.
    """
    name = type(structure).__name__
    if not isinstance(structure, Diagonal | LowRank | Full):
        raise TypeError(
            "Variational: expected structure=Diagonal(), LowRank(rank) or Full(), got "
            f"{name}(), which stands for a curvature: use Laplace(structure={name}())"
        )
    view = structure.view if isinstance(structure, Full) else None
    if view is not None or not isinstance(structure.fisher, ExactFisher):
        raise ValueError(
            f"Variational: expected {name} without view and fisher, which are of "
            f"Laplace, got {structure}: leave them out"
        )
    if isinstance(structure, LowRank):
        return _LowRank(structure.rank)
    return _Full() if isinstance(structure, Full) else _Diagonal()


def _anywhere() -> Callable:
    """Where a guide starts without values given: NumPyro asks, `start` decides."""
    from numpyro.infer import init_to_mean

    return init_to_mean


class _Program(eqx.Module):
    """What decides the compiled steps; the optimizer's number is an array."""

    family: _Family
    optimizer: optax.GradientTransformation | Array
    steps: int = eqx.field(static=True)
    batch: int | None = eqx.field(static=True)
    particles: int = eqx.field(static=True)

    def transformation(self) -> optax.GradientTransformation:
        if isinstance(self.optimizer, optax.GradientTransformation):
            return self.optimizer
        peak: Any = self.optimizer
        return optax.adam(optax.cosine_decay_schedule(peak, self.steps))

    def svi(self, target: Target, start: dict[str, Array], key: Array):
        """NumPyro's SVI of the target, and its first state."""
        from numpyro.infer import SVI, Trace_ELBO

        model, guide = _site(self.family, target)
        elbo = Trace_ELBO(num_particles=self.particles)
        svi = SVI(model, guide, self.transformation(), elbo)
        return svi, svi.init(key, target.x, target.y, init_params=start)


def _site(family: _Family, target: Target) -> tuple[Callable, Callable]:
    """Model and guide in NumPyro's language, both per datum."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro import handlers

    deviations = target.raveled.precisions(target.prior) ** -0.5
    prior = dist.Normal(jnp.zeros_like(deviations), deviations).to_event(1)

    def model(x: PyTree, y: PyTree) -> None:
        theta = jnp.asarray(numpyro.sample("theta", prior))
        numpyro.factor("data", target.log_likelihood(theta, x, y))

    auto = family.guide(lambda: numpyro.sample("theta", prior))

    def guide(x: PyTree, y: PyTree) -> None:
        del x, y
        key = numpyro.prng_key()
        drawn = handlers.trace(handlers.seed(auto, key))
        with handlers.block(hide_fn=lambda site: site["type"] == "sample"):
            site = drawn.get_trace()["_auto_latent"]
        # Roeder et al. 2017, eq. 8: of log q only the path through theta counts; the
        # rest has mean zero, and not zero variance where q is exact
        fixed = jax.tree.map(jax.lax.stop_gradient, site["fn"])
        theta = site["value"]
        density = fixed.to_event(1 - len(fixed.event_shape)).log_prob(theta)
        numpyro.sample("theta", dist.Delta(theta, density, event_dim=1))

    per_datum = 1.0 / target.size
    return handlers.scale(model, per_datum), handlers.scale(guide, per_datum)


@eqx.filter_jit
def _begin(program: _Program, target: Target, scale: Array, key: Array):
    """The first state, without its key."""
    mean = target.raveled.vector
    deviations = target.raveled.precisions(target.prior) ** -0.5
    scales = jnp.minimum(scale, deviations)
    start = program.family.start(mean, scales, key=key)
    _, state = program.svi(target, start, key)
    return state.optim_state


@eqx.filter_jit
def _advance(program: _Program, target: Target, state: PyTree, length: int, key: Array):
    """`length` steps in one loop on the device."""
    svi, like = _rebuilt(program, target, key)

    def step(state: PyTree, key: Array):
        rows_key, key = jax.random.split(key)
        x, y = target.draw(program.batch, rows_key)
        new, loss = svi.update(like._replace(optim_state=state, rng_key=key), x, y)
        sizes = [jnp.sum(jnp.abs(a)) for a in jax.tree.leaves(svi.get_params(new))]
        finite = jnp.isfinite(loss) & jnp.isfinite(jnp.sum(jnp.stack(sizes)))
        return new.optim_state, (loss, finite)

    state, (losses, finite) = jax.lax.scan(step, state, jax.random.split(key, length))
    return state, losses, finite


@eqx.filter_jit
def _drawn(program: _Program, target: Target, state: PyTree, n: int, key: Array):
    """q, the network at its mean, n draws of theta, and log q of each."""
    svi, like = _rebuilt(program, target, key)
    found = svi.get_params(like._replace(optim_state=state))
    gaussian = program.family.gaussian(found)
    draws = gaussian.sample(key, n)
    logs = gaussian.distribution().log_prob(draws)
    return gaussian, target.raveled.network(gaussian.mean), draws, logs


def _rebuilt(program: _Program, target: Target, key: Array):
    """SVI, which learns its sites from a first state, whose values are not used."""
    mean = target.raveled.vector
    start = program.family.start(mean, jnp.ones_like(mean), key=key)
    return program.svi(target, start, key)
