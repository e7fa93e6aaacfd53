"""Deep ensembles: the same network trained from several initializations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, Checkpoint, DataLike, Dataset, as_data
from ntkuq.models import (
    BNN,
    Job,
    NormalPrior,
    Train,
    Trained,
    TrainingError,
    check_finite,
    parameters,
)
from ntkuq.models.train import numbered
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.checkpoints import checkpoint_of
from ntkuq.posteriors.ensemble.members import (
    AbstractMember,
    Plain,
    Start,
    perturbed,
    resampled,
)
from ntkuq.posteriors.ensemble.posterior import EnsemblePosterior
from ntkuq.posteriors.ensemble.snapshot import Snapshot


class DeepEnsemble(AbstractMethod):
    """An equal mixture of networks trained from independent initializations.

    Each member minimizes the same minus log posterior, with the prior and likelihood of
    the `BNN`: where those have been tuned (`MAP(tune=MarginalLikelihood())`), every
    member profits. A member that diverges is reported and left out.

    Args:
        size: number of members, 2 or more.
        train: how a member is trained.
        member: what makes members differ: `Plain`, `Bootstrap`, `RandomizedPrior`,
            `Anchored`, `NTKGPParam`, `NTKGPFn`, `NTKGPLin`; or `Snapshot`, which takes
            all members from one training.

    The recipe of the original paper has mean and variance heads
    (`HeteroscedasticGaussian`) and adversarial examples (`Train(adversarial=0.01)`).

    References: Lakshminarayanan, Pritzel, Blundell 2017 (arXiv 1612.01474).

    >>> DeepEnsemble(size=3).size
    3
    """

    size: int = 5
    train: Train = Train()
    member: AbstractMember | Snapshot = Plain()

    def __check_init__(self):
        if self.size < 2:
            raise ValueError(
                f"DeepEnsemble: expected size >= 2, got {self.size}; for one network "
                "use MAP()"
            )

    @staticmethod
    def of(modules: Sequence[PyTree], bnn: BNN, data: Dataset) -> EnsemblePosterior:
        """The ensemble of networks that were trained elsewhere on `data`.

        Raises:
            ValueError: for fewer than two modules, weights that are not finite, or
                outputs that do not fit the likelihood.
        """
        if len(modules) < 2:
            raise ValueError(
                f"DeepEnsemble.of: expected 2 or more modules, got {len(modules)}"
            )
        bnn = bnn.prepare(data)
        for module in modules:
            bnn.with_model(module).prepare(data)
            check_finite(module)
        return EnsemblePosterior.of(bnn, list(modules), {})

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> EnsemblePosterior:
        """Train the members; `callback(steps, loss)` counts steps over all of them.

        Args:
            bnn: the problem, with a builder.
            data: training data.
            callback: told about progress.
            checkpoint: a file beside which the states of the members are kept while
                they train; a fit that was interrupted goes on from there, with the
                same result.
            key: for everything random.

        Raises:
            ValueError: without a builder.
            TrainingError: where fewer than two members are left.
        """
        data = as_data(data)
        bnn = bnn.prepare(data)
        progress = checkpoint_of(checkpoint, self, bnn, data, key=key)
        if isinstance(self.member, Snapshot):
            trained = self._snapshots(bnn, data, callback, progress, key)
        else:
            trained = self._members(self.member, bnn, data, callback, progress, key)
        return self._posterior(bnn, trained)

    def _members(
        self,
        member: AbstractMember,
        bnn: BNN,
        data: Dataset | Batches,
        callback: Callable[[int, float], None] | None,
        progress: Checkpoint | None,
        key: Array,
    ) -> list[Trained]:
        keys = [jax.random.split(one, 4) for one in jax.random.split(key, self.size)]
        one = data.take_first(1) if isinstance(data, Batches) else data.take([0])
        # the type of the inputs is the network's
        known = bnn.with_model(bnn.network.init(keys[0][0]))
        example = jax.tree.map(lambda a: a[0], known.inputs(one.x))
        starts = [member.start(bnn, example, key=init) for init, *_ in keys]
        if isinstance(data, Batches):
            return self._stream(bnn, starts, data, callback, progress, keys)
        x, y = known.inputs(data.x), known.targets(data)
        jobs = []
        for start, (_, steps, noise, sample) in zip(starts, keys, strict=True):
            jobs.append(
                Job(
                    like(bnn, start.model),
                    start.model,
                    x,
                    perturbed(bnn, y, key=noise) if start.noise else y,
                    steps,
                    start.center,
                    resampled(len(data), key=sample) if start.resample else None,
                )
            )
        return self.train.run_many(jobs, callback=callback, checkpoint=progress)

    def _stream(
        self,
        bnn: BNN,
        starts: Sequence[Start],
        data: Batches,
        callback: Callable[[int, float], None] | None,
        progress: Checkpoint | None,
        keys: Sequence[Array],
    ) -> list[Trained]:
        """Members one after the other on batches that are read one at a time."""
        if any(s.noise or s.resample or s.center is not None for s in starts):
            raise ValueError(
                f"DeepEnsemble: expected a Dataset for {type(self.member).__name__} "
                "members, whose data or priors differ; got Batches: use Plain(), or "
                "give arrays"
            )
        steps, found = self.train.updates(len(data)), []
        for number, (start, (_, now, *_)) in enumerate(zip(starts, keys, strict=True)):
            found.append(
                self.train.attempt(
                    like(bnn, start.model),
                    start.model,
                    data,
                    callback=_after(number * steps, callback),
                    checkpoint=numbered(progress, number, self.size),
                    key=now,
                )
            )
        return found

    def _snapshots(
        self,
        bnn: BNN,
        data: Dataset | Batches,
        callback: Callable[[int, float], None] | None,
        progress: Checkpoint | None,
        key: Array,
    ) -> list[Trained]:
        """One training with as many cycles as there are members."""
        init, *keys = jax.random.split(key, self.size + 1)
        cycle = Snapshot.cycle(self.train, self.size, len(data))
        model, found = bnn.network.init(init), []
        for number, now in enumerate(keys):
            result = cycle.fit(
                bnn,
                model,
                data,
                callback=_after(number * cycle.updates(len(data)), callback),
                checkpoint=numbered(progress, number, self.size),
                key=now,
            )
            model = result.model
            found.append(result)
        return found

    def _posterior(self, bnn: BNN, trained: Sequence[Trained]) -> EnsemblePosterior:
        """The members that did not diverge."""
        lost = {n: t.diverged for n, t in enumerate(trained) if t.diverged is not None}
        kept = [t for t in trained if t.diverged is None]
        said = ", ".join(f"member {n} after step {step}" for n, step in lost.items())
        if len(kept) < 2:
            raise TrainingError(
                f"DeepEnsemble: training diverged for {said}: {len(kept)} of "
                f"{self.size} members are left and an ensemble needs 2; lower the "
                "learning rate, or check the scaling of inputs and targets"
            )
        if lost:
            warnings.warn(
                f"DeepEnsemble: training diverged for {said}; the ensemble is made of "
                f"the other {len(kept)}. Lower the learning rate, or clip gradients",
                UserWarning,
                stacklevel=3,
            )
        diagnostics = {
            "final losses": [float(t.losses[-1]) for t in kept],
            "steps": [t.steps for t in kept],
        }
        if lost:
            diagnostics["diverged"] = said
        if any(t.score is not None for t in kept):
            diagnostics["validation scores"] = [t.score for t in kept]
        return EnsemblePosterior.of(bnn, [t.model for t in kept], diagnostics)

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        batch = self.train.batch
        size = len(data) if batch is None else min(batch, len(data))
        count = 1 if isinstance(self.member, Snapshot) else self.size
        steps = count * self.train.updates(len(data))
        passes = 1 if self.train.adversarial is None else 3
        bytes_ = 40.0 * bnn.size() * self.size + 2**26
        return Cost(passes * 6.0 * bnn.size() * size * steps, bytes_, 3)


def like(bnn: BNN, model: PyTree) -> BNN:
    """The problem for a member whose network is wrapped."""
    prior = bnn.prior
    if isinstance(prior, NormalPrior) and len(jax.tree.leaves(prior.precision)) > 1:
        structure = jax.tree.structure(parameters(model))
        values = jax.tree.leaves(prior.precision)
        bnn = bnn.with_prior(NormalPrior(jax.tree.unflatten(structure, values)))
    return bnn.with_model(model)


def _after(
    done: int, callback: Callable[[int, float], None] | None
) -> Callable[[int, float], None] | None:
    """A callback that counts what was done before."""
    if callback is None:
        return None
    return lambda steps, loss: callback(done + steps, loss)
