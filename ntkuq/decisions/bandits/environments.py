"""Where rewards come from: synthetic functions, the wheel, classes, own arrays."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float


class Round(NamedTuple):
    """What one round offers.

    Args:
        context: (d,) where all arms see the same, (K, d) where each has its own.
        expected: (K,) expected reward of each arm, hidden from the policy.
        noise: () standard deviation of a reward about it, or (K,).
        offered: (K,) which arms can be chosen; `None` for all.
    """

    context: Float[Array, "*K d"]
    expected: Float[Array, " K"]
    noise: Float[Array, "*K"]
    offered: Bool[Array, " K"] | None = None


class AbstractEnvironment(eqx.Module):
    """Rounds of contexts and rewards, made one by one inside a compiled loop.

    A subclass has the static fields `arms` (K), `features` (d) and `per_arm` (whether
    each arm has its own context). They are not abstract fields, which would come
    before the others in its constructor.
    """

    @abc.abstractmethod
    def begin(self, *, key: Array) -> Any:
        """What one seed draws once, such as the order of the rows."""

    @abc.abstractmethod
    def round(self, drawn: Any, t: Array, *, key: Array) -> Round:
        """Round t of a seed."""


def _direction(hidden: Array) -> Array:
    return hidden[0] / jnp.linalg.norm(hidden[0])


class Square(eqx.Module):
    r"""$h_1(x) = 10 (a^\top x)^2$, a on the unit sphere."""

    def __call__(self, hidden: Array, x: Array) -> Array:
        """The expected rewards."""
        return 10.0 * (x @ _direction(hidden)) ** 2


class Quadratic(eqx.Module):
    r"""$h_2(x) = x^\top A^\top A x$, A with standard normal entries."""

    def __call__(self, hidden: Array, x: Array) -> Array:
        """The expected rewards."""
        return jnp.sum((x @ hidden.T) ** 2, axis=1)


class Cosine(eqx.Module):
    r"""$h_3(x) = \cos(3 a^\top x)$, a on the unit sphere."""

    def __call__(self, hidden: Array, x: Array) -> Array:
        """The expected rewards."""
        return jnp.cos(3.0 * (x @ _direction(hidden)))


class Synthetic(AbstractEnvironment):
    r"""Contexts on the unit sphere, one an arm, and a function of them with noise.

    Rewards are $h(x) + \mathrm{noise}\,\epsilon$; the hidden direction is drawn for
    each seed. The trio of Zhou et al. has the functions `Square()`, `Quadratic()`
    and `Cosine()`.

    Args:
        function: one of these, or a module that maps
            (hidden (d, d), x (K, d)) to (K,).
        features: d.
        arms: K.
        noise: standard deviation of a reward.

    References: Zhou, Li, Gu 2020 (arXiv 1911.04462).

    >>> environment = Synthetic(Cosine(), features=5, arms=3)
    >>> drawn = environment.begin(key=jax.random.key(0))
    >>> environment.round(drawn, jnp.asarray(0), key=jax.random.key(1)).context.shape
    (3, 5)
    """

    function: Any = Square()
    features: int = eqx.field(static=True, default=20)
    arms: int = eqx.field(static=True, default=4)
    noise: float = 1.0
    per_arm: bool = eqx.field(static=True, default=True)

    def begin(self, *, key):
        return jax.random.normal(key, (self.features, self.features))

    def round(self, drawn, t, *, key):
        x = jax.random.normal(jax.random.fold_in(key, t), (self.arms, self.features))
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        return Round(x, self.function(drawn, x), jnp.asarray(self.noise, x.dtype))


class Wheel(AbstractEnvironment):
    r"""Five arms, of which four pay much only in rare outer corners.

    Contexts are uniform in the unit disk. Arm 0 pays `safe` everywhere, the others
    `low`, and where $\|x\| > \delta$ the arm of the quadrant pays `high`: a policy that
    does not explore never sees it.

    Args:
        delta: radius of the inner disk; $1 - \delta^2$ of the rounds are outside.

    References: Riquelme, Tucker, Snoek 2018 (arXiv 1802.09127).

    >>> Wheel(0.5).arms
    5
    """

    delta: float = 0.95
    safe: float = 1.2
    low: float = 1.0
    high: float = 50.0
    noise: float = 0.01
    arms: int = eqx.field(static=True, default=5)
    features: int = eqx.field(static=True, default=2)
    per_arm: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if isinstance(self.delta, float | int) and not 0 < self.delta < 1:
            raise ValueError(
                f"delta: expected a radius between 0 and 1, got {self.delta}"
            )

    def begin(self, *, key):
        return jnp.zeros(())

    def round(self, drawn, t, *, key):
        radius, angle = jax.random.uniform(jax.random.fold_in(key, t), (2,))
        radius, angle = jnp.sqrt(radius), 2 * jnp.pi * angle
        x = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        quadrant = 1 + 2 * (x[0] < 0).astype(jnp.int32) + (x[1] < 0).astype(jnp.int32)
        pays = (jnp.arange(5) == quadrant) & (radius > self.delta)
        values = jnp.where(pays, self.high, self.low)
        values = values.at[0].set(self.safe)
        return Round(x, values, jnp.asarray(self.noise, x.dtype))


class Rows(AbstractEnvironment):
    """The rows of a table in random order: contexts and the reward of every arm.

    The order is drawn for each seed; after the last row it starts again.

    Args:
        contexts: (N, d), or (N, K, d) where each arm has its own.
        rewards: (N, K) expected reward of each arm.
        noise: standard deviation of a reward about it.

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.

    >>> Rows(np.eye(3), np.eye(3)).arms
    3
    """

    contexts: Float[Array, "N *K d"]
    rewards: Float[Array, "N K"]
    noise: float
    arms: int = eqx.field(static=True)
    features: int = eqx.field(static=True)
    per_arm: bool = eqx.field(static=True)

    def __init__(
        self, contexts: ArrayLike, rewards: ArrayLike, *, noise: float = 0.0
    ) -> None:
        x, r = np.asarray(contexts, np.float32), np.asarray(rewards, np.float32)
        if r.ndim != 2 or x.ndim not in (2, 3) or len(x) != len(r) or not len(x):
            raise ValueError(
                "Rows: expected contexts (N, d) or (N, K, d) and rewards (N, K), got "
                f"{x.shape} and {r.shape}"
            )
        if x.ndim == 3 and x.shape[1] != r.shape[1]:
            raise ValueError(
                f"Rows: expected contexts of {r.shape[1]} arms, as the rewards have, "
                f"got {x.shape[1]}"
            )
        if not (np.isfinite(x).all() and np.isfinite(r).all()):
            raise ValueError(
                "Rows: expected finite contexts and rewards, got NaN or infinity: "
                "drop or fill those rows first"
            )
        self.contexts, self.rewards = jnp.asarray(x), jnp.asarray(r)
        self.noise = noise
        self.arms, self.features = r.shape[1], x.shape[-1]
        self.per_arm = x.ndim == 3

    def begin(self, *, key):
        return jax.random.permutation(key, len(self.contexts))

    def round(self, drawn, t, *, key):
        row = drawn[t % len(self.contexts)]
        x = self.contexts[row]
        return Round(x, self.rewards[row], jnp.asarray(self.noise, x.dtype))


def classification(
    x: Any,
    labels: Any,
    *,
    classes: int | None = None,
    normalize: bool = False,
    sparse: float = 1.0,
) -> Rows:
    """Rows with one arm a class: reward 1 for the class of the row, else 0.

    Columns are standardized (a constant one becomes 0), or rows normalized.

    Args:
        x: (N, d) inputs.
        labels: (N,) codes 0 to K - 1.
        classes: K, where the largest label does not tell.
        normalize: give each row length 1, as the published experiments do, instead of
            standardizing the columns.
        sparse: the share of rows whose right arm pays at all; the others pay nothing
            whichever arm is chosen, and cost no regret.

    Raises:
        ValueError: for labels that are not codes.

    >>> classification(np.eye(4), [0, 1, 2, 1]).rewards.sum(axis=1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    inputs, codes = np.asarray(x, np.float64), np.asarray(labels)
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0:
        raise ValueError(
            f"labels: expected codes 0 to K - 1, shape (N,), got {codes.dtype} of "
            f"shape {codes.shape}"
        )
    inputs = inputs.reshape(len(inputs), -1)
    if normalize:
        norm = np.linalg.norm(inputs, axis=1, keepdims=True)
        inputs = inputs / np.where(norm > 0, norm, 1.0)
    else:
        scale = inputs.std(axis=0)
        inputs = (inputs - inputs.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    rewards = np.eye(classes or int(codes.max()) + 1)[codes]
    if not 0 < sparse <= 1:
        raise ValueError(f"sparse: expected a share in (0, 1], got {sparse}")
    if sparse < 1:
        pays = np.random.default_rng(0).random(len(codes)) < sparse
        rewards = rewards * pays[:, None]
    return Rows(inputs, rewards)
