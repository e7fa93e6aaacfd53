"""A mixture of posteriors: any method, fitted around several trained networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_data
from ntkuq.models import BNN
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.laplace import Laplace
from ntkuq.posteriors.map import MAP
from ntkuq.posteriors.mix import mix
from ntkuq.posteriors.predictive import Predictive


class Mixture(AbstractMethod):
    """An equal mixture of posteriors around independently trained networks.

    Each part trains a network of its own (`trainer`) and then fits `method` to it: with
    `Laplace`, an ensemble of linearized Laplace posteriors, which sees several modes
    and the width of each.

    Args:
        method: what is fitted around each network.
        size: number of parts, 2 or more.
        trainer: how a network is trained; `None` for methods that train themselves.

    References: Eschenhagen et al. 2021 (arXiv 2111.03577).

    >>> Mixture(size=3).size
    3
    """

    method: AbstractMethod = Laplace()
    size: int = 5
    trainer: MAP | None = MAP()

    def __check_init__(self):
        if self.size < 2:
            raise ValueError(
                f"Mixture: expected size >= 2, got {self.size}; use the method itself"
            )
        if self.trainer is not None and self.trainer.train is None:
            raise ValueError(
                "Mixture: expected a trainer that trains, got MAP(train=None), which "
                "would give the same network each time"
            )

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> MixturePosterior:
        """Fit the parts; `callback(steps, loss)` counts steps over all of them.

        With `checkpoint`, a file, the training of each part is kept beside it.

        Raises:
            ValueError: without a builder.
            TrainingError: where training diverges.
        """
        data = as_data(data)
        parts, done = [], 0
        for number, one in enumerate(jax.random.split(key, self.size)):
            train, fit = jax.random.split(one)
            problem, last = bnn, 0

            def report(steps: int, loss: float, done=done) -> None:
                nonlocal last
                last = steps
                if callback is not None:
                    callback(done + steps, loss)

            if self.trainer is not None:
                found = self.trainer.fit(
                    bnn,
                    data,
                    callback=report,
                    checkpoint=_beside(checkpoint, number),
                    key=train,
                )
                problem = found.bnn
            parts.append(self.method.fit(problem, data, key=fit))
            done += last
        return MixturePosterior(
            bnn=parts[0].bnn,
            hyperparameters=_averaged(parts),
            log_marginal_likelihood=None,
            diagnostics={"parts": self.size},
            parts=tuple(parts),
        )

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        one = self.method.cost(bnn, data)
        flops, bytes_, compiles = one.flops, one.bytes, one.compiles
        if self.trainer is not None:
            train = self.trainer.cost(bnn, data)
            flops, compiles = flops + train.flops, compiles + train.compiles
            bytes_ = max(bytes_, train.bytes)
        return Cost(self.size * flops, self.size * bytes_, compiles)


class MixturePosterior(AbstractPosterior):
    """Several posteriors, equally weighted."""

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]
    parts: tuple[AbstractPosterior, ...]

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the parts' predictions at x (N, …)."""
        return mix([part.predict(x) for part in self.parts])

    def sample(self, key: Array, n: int) -> PyTree:
        """n networks, each drawn from a part that is drawn, stacked."""
        chosen = jax.random.randint(key, (n,), 0, len(self.parts)).tolist()
        keys = jax.random.split(jax.random.fold_in(key, 1), n)
        drawn = [
            _weights(self.parts[part], now)
            for part, now in zip(chosen, keys, strict=True)
        ]
        return jax.tree.map(_joined, *drawn)


def _beside(checkpoint: str | Path | None, number: int) -> Path | None:
    """The file of one part."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-part{number}{path.suffix}")


def _weights(part: AbstractPosterior, key: Array) -> PyTree:
    sample = getattr(part, "sample", None)
    if sample is None:
        raise TypeError(
            f"sample: expected parts that have weights, got {type(part).__name__}"
        )
    return sample(key, 1)


def _joined(*leaves: Any) -> Any:
    return jnp.concatenate(leaves) if isinstance(leaves[0], jax.Array) else leaves[0]


def _averaged(parts: list[AbstractPosterior]) -> tuple[Hyperparameter, ...]:
    """Each hyperparameter of the first part, with those of all of them in its value."""
    found = []
    for each in zip(*(part.hyperparameters for part in parts), strict=True):
        values = jnp.asarray([float(one.value) for one in each])
        spread = float(jnp.std(values, ddof=1) / len(parts) ** 0.5)
        at_bound = any(one.at_bound for one in each)
        found.append(
            Hyperparameter(
                each[0].name, float(jnp.mean(values)), spread, at_bound, each[0].unit
            )
        )
    return tuple(found)
