"""KFAC: natural gradient with Kronecker factors, as an optax transformation."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from ntkuq.kernels import cholesky
from ntkuq.linearize import AbstractFisher, AbstractSharing, Expand, SampledFisher
from ntkuq.linearize.curvature.kfac import Pair
from ntkuq.models import AbstractLikelihood, AbstractPrior
from ntkuq.models.train.lazy import Unmade
from ntkuq.optimization.natural import second_order
from ntkuq.optimization.steps.damping import AbstractDamping, LevenbergMarquardt
from ntkuq.optimization.steps.layers import Layer, Moments, layers_of, moments
from ntkuq.optimization.steps.objective import Objective
from ntkuq.optimization.steps.rates import AbstractRate, QuadraticModel
from ntkuq.optimization.steps.transform import AbstractDirection, Found


#: Sharing where nothing else is said.
EXPAND = Expand()
#: Minibatches make the ratio noisy: the damping follows it slowly (Martens and Grosse
#: 2015 §6.5), but where a step had to be rejected it grows at once.
SLOW = LevenbergMarquardt(initial=1.0, down=0.95, up=1 / 0.95)


class KFACState(NamedTuple):
    """Running means of the blocks, and their damped inverses when last made.

    jitter: the largest that an inversion needed beyond its damping.
    """

    blocks: list[Moments]
    inverses: list[Moments]
    jitter: Float[Array, ""]


class KroneckerDirection(AbstractDirection):
    """Minus the gradient times the damped inverse of each layer's block.

    Args:
        sharing: how layers shared over positions are approximated.
        fisher: which output gradients the factors are made of.
        every: steps between inversions.
        decay: of the running means; the first steps count alike.
    """

    sharing: AbstractSharing
    fisher: AbstractFisher
    every: int = eqx.field(static=True)
    decay: float

    def init(self, params):
        del params
        # the shapes of the blocks follow from the network, which `update` brings
        return Unmade()

    def __call__(self, objective, gradient, toward, previous, state, count):
        del previous
        size = jnp.sum(objective.weight)
        layers = layers_of(objective.jacobian, self.sharing)
        new = self._blocks(objective, layers, size, count)
        if isinstance(state, Unmade):
            empty = jax.tree.map(jnp.zeros_like, new)
            state = KFACState(empty, empty, jnp.zeros((), size.dtype))
        steps = count.astype(size.dtype)
        keep = jnp.minimum(steps / (steps + 1.0), self.decay)
        blocks = jax.tree.map(
            lambda old, now: keep * old + (1.0 - keep) * now, state.blocks, new
        )
        damping = [d / size for d in toward.strength]

        def invert(_: KFACState) -> KFACState:
            pairs = [
                _inverse(block, damping[layer.weight])
                for block, layer in zip(blocks, layers, strict=True)
            ]
            jitter = jnp.max(jnp.stack([jitter for _, jitter in pairs]))
            return KFACState(blocks, [inverse for inverse, _ in pairs], jitter)

        def keep_them(old: KFACState) -> KFACState:
            return KFACState(blocks, old.inverses, old.jitter)

        state = jax.lax.cond(count % self.every == 0, invert, keep_them, state)
        step = [-leaf for leaf in gradient]
        for layer, inverse in zip(layers, state.inverses, strict=True):
            for at, leaf in _applied(layer, inverse, step).items():
                step[at] = leaf
        return Found(step, state.jitter, state)

    @property
    def exact(self):
        return False

    def _blocks(
        self,
        objective: Objective,
        layers: tuple[Layer, ...],
        size: Array,
        count: Int[Array, ""],
    ) -> list[Moments]:
        """The blocks at this batch."""
        fisher = self.fisher
        if isinstance(fisher, SampledFisher):
            now = jax.random.fold_in(fisher.key, count)
            fisher = SampledFisher(now, fisher.samples)
        share = objective.weight / size

        def seed(latent: Array, weight: Array, *extra) -> Array:
            found = fisher.weights(objective.likelihood, latent, *extra)
            # a row that counts nothing may be padding: its value is no number
            return jnp.where(weight > 0, jnp.sqrt(weight) * found, 0.0)

        extra = fisher.extras(objective.y, 0)
        factors = objective.jacobian.factors(objective.x, seed, share, *extra)
        return [moments(layer, factors.leaves, share, self.sharing) for layer in layers]


def _inverse(block: Moments, damping: Array) -> tuple[Moments, Array]:
    """The damped inverse of a block, and the jitter it needed.

    Of Kronecker factors (B + sqrt(damping) / p I)^-1 and (A + p sqrt(damping) I)^-1
    with p^2 the ratio of their mean eigenvalues, mean(A) / mean(B): Martens and Grosse
    2015, §6.3.
    """
    if not isinstance(block, Pair):
        if block.ndim == 1:
            return 1.0 / (block + damping), jnp.zeros((), block.dtype)
        return _inverted(block, damping)
    left, right = block
    diagonal = right if right.ndim == 1 else jnp.diagonal(right)
    tiny = jnp.finfo(left.dtype).tiny
    mean_left = jnp.maximum(jnp.mean(jnp.diagonal(left)), tiny)
    mean_right = jnp.maximum(jnp.mean(diagonal), tiny)
    ratio = jnp.sqrt(mean_right / mean_left)
    root = jnp.sqrt(damping)
    first, one = _inverted(left, root / ratio)
    if right.ndim == 1:
        return Pair(first, 1.0 / (right + root * ratio)), one
    second, two = _inverted(right, root * ratio)
    return Pair(first, second), jnp.maximum(one, two)


def _inverted(matrix: Array, damping: Array) -> tuple[Array, Array]:
    at = jnp.arange(matrix.shape[0])
    lower, jitter = cholesky(matrix.at[at, at].add(damping))
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return jax.scipy.linalg.cho_solve((lower, True), eye), jitter


def _applied(layer: Layer, inverse: Moments, step: list[Array]) -> dict[int, Array]:
    """The inverse of one block times its part of `step`, by position of the leaf."""
    value = step[layer.weight]
    if not isinstance(inverse, Pair):
        moved = inverse * value if inverse.ndim == 1 else inverse @ value
        return {layer.weight: moved}
    left, right = inverse
    shape = (left.shape[0], value.size // left.shape[0])
    first = layer.form.output_first
    matrix = value.reshape(shape) if first else value.reshape(shape[::-1]).T
    if layer.bias is not None:
        matrix = jnp.concatenate([matrix, step[layer.bias][:, None]], axis=1)
    moved = left @ matrix
    moved = moved * right if right.ndim == 1 else moved @ right
    found = {}
    if layer.bias is not None:
        found[layer.bias] = moved[:, -1]
        moved = moved[:, :-1]
    return found | {layer.weight: (moved if first else moved.T).reshape(-1)}


def kfac(
    model: PyTree = None,
    likelihood: AbstractLikelihood | None = None,
    *,
    damping: AbstractDamping | ArrayLike | None = None,
    learning_rate: AbstractRate | optax.ScalarOrSchedule | None = None,
    sharing: AbstractSharing = EXPAND,
    fisher: AbstractFisher | None = None,
    every: int = 5,
    decay: float = 0.95,
    prior: AbstractPrior | None = None,
    example: tuple[PyTree, PyTree] | None = None,
    key: Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Kronecker-factored natural gradient as an optax transformation.

    For each layer the Fisher matrix of a mean over the examples is approximated by
    $A \otimes B$, running means of $a a^\top$ (inputs, with a 1 for the bias) and
    $g g^\top$ (gradients of the outputs at targets drawn from the model), and the
    incoming gradient G of a weight becomes $-B_\lambda^{-1} G A_\lambda^{-1}$. Any
    gradient is taken: with a prior, with dropout, clipped.

    As an optimizer: `Train(kfac(), batch=500)`. In a loop of one's own as
    `natural_gradient`; the first call of `update` makes the blocks, or `init` where it
    knows the shapes of `example`.

    Args:
        model, likelihood, prior: as in `natural_gradient`.
        damping: a number or a rule, in the units of a prior precision (of the sum over
            all N examples: λ / N is added to the mean). `LevenbergMarquardt` that
            changes by a twentieth a step unless given.
        learning_rate: a number, an optax schedule, or a rule; unless given
            `QuadraticModel()`, rate and momentum from the exact Gauss-Newton matrix.
        sharing: layers shared over positions: `Expand()` or `Reduce()`.
        fisher: `SampledFisher(key)` unless given; `ExactFisher()` costs a backward
            pass for each output.
        every: steps between inversions.
        decay: of the running means, in [0, 1).
        example: a batch (x, y), or its shapes, which alone are used: for loops that ask
            for a state of one structure (`jax.lax.scan`, `optax.MultiSteps`,
            `optax.apply_if_finite`).
        key: of the draws, where `fisher` is not given; `jax.random.key(0)` unless
            given.

    Raises:
        ValueError: for every < 1, a decay outside [0, 1), a negative damping, or an
            example without a network and a likelihood.

    References: Martens and Grosse 2015 (arXiv 1503.05671); Grosse and Martens 2016
        (arXiv 1602.01407) for convolutions; Eschenhagen et al. 2023 (arXiv 2311.00636).

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.models import Gaussian, parameters
    >>> line = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> x = jnp.array([[-1.0], [1.0]])
    >>> y = 3 * x + 1
    >>> def loss(line):
    ...     return jnp.mean((jax.vmap(line)(x) - y) ** 2) / 2
    >>> step, params = kfac(line, Gaussian(), damping=1e-6), parameters(line)
    >>> gradient = jax.grad(loss)(line)
    >>> updates, _ = step.update(gradient, step.init(params), params, x=x, y=y)
    >>> round(eqx.apply_updates(line, updates).weight.item(), 3)
    3.0
    """
    if every < 1 or not 0 <= decay < 1:
        raise ValueError(
            f"kfac: expected every >= 1 and 0 <= decay < 1, got every={every} and "
            f"decay={decay}"
        )
    if example is not None and (model is None or likelihood is None):
        raise ValueError(
            "kfac: expected a network and a likelihood beside an example, "
            "kfac(model, likelihood, example=(x, y)); `Train` needs none of them"
        )
    if fisher is None:
        fisher = SampledFisher(jax.random.key(0) if key is None else key)
    return second_order(
        "kfac",
        model,
        likelihood,
        KroneckerDirection(sharing, fisher, every, decay),
        damping=SLOW if damping is None else damping,
        learning_rate=QuadraticModel() if learning_rate is None else learning_rate,
        momentum=0.0,
        prior=prior,
        example=example,
    )
