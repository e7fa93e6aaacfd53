"""`BNN`: the one problem that every method solves."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, PyTree

from ntkuq.data import Batches, Dataset
from ntkuq.data.inputs import as_inputs
from ntkuq.models.checks import need
from ntkuq.models.likelihoods import (
    AbstractLikelihood,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    KnownNoise,
    NoisyTargets,
    Poisson,
    Positions,
)
from ntkuq.models.memo import by_identity, by_structure, mode
from ntkuq.models.network import Network, as_network, count, parameters
from ntkuq.models.priors import AbstractPrior, NormalPrior
from ntkuq.models.scaling import AbstractScaling, Identity


def _whole(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.integer)


def _as_scaling(value: AbstractScaling | None) -> AbstractScaling:
    return Identity() if value is None else value


class BNN(eqx.Module):
    """A network, likelihood, prior and scaling: one problem for every method.

    p(y | x, theta) = likelihood(y; f(x, theta)),  theta ~ prior.

    Args:
        network: a `Network`, a trained `eqx.Module`, or a builder key -> module.
        likelihood: `Gaussian`, `Categorical`, … in the network's (scaled) units.
        prior: `NormalPrior`, `FanInPrior`.
        scaling: `Standardize()` or `None`; fitted on the training data by `fit`, and
            undone in predictions, which are in the units of the data.
        target_shape: shape of the targets of one example where they have more than one
            axis, set by `prepare`; predictions come back in it.

    Targets may have any shape (N, …). A network has its outputs in the shape of the
    targets of an example; for class codes (N, T) or (N, H, W) it adds the classes as
    the last axis: (T, K), (H, W, K). Inside, outputs are flat: (N, C).

    >>> import equinox as eqx
    >>> from ntkuq.models import Gaussian
    >>> BNN(lambda key: eqx.nn.MLP(2, 1, 4, 1, key=key), Gaussian()).trained
    False
    """

    network: Network = eqx.field(converter=as_network)
    likelihood: AbstractLikelihood
    prior: AbstractPrior = NormalPrior()
    scaling: AbstractScaling = eqx.field(converter=_as_scaling, default=None)
    target_shape: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        need(
            self.likelihood,
            AbstractLikelihood,
            "BNN: likelihood",
            "Gaussian(scale), Categorical() or another likelihood",
        )
        need(
            self.prior,
            AbstractPrior,
            "BNN: prior",
            "NormalPrior(precision), FanInPrior() or another prior",
        )
        need(
            self.scaling,
            AbstractScaling,
            "BNN: scaling",
            "Standardize(), or None for data as they come",
        )

    @property
    def trained(self) -> bool:
        """Is there a trained network inside?"""
        return self.network.trained is not None

    @property
    def model(self) -> PyTree:
        """The trained network in inference mode (dropout and batch statistics off)."""
        return _quiet(self._trained)

    @property
    def _trained(self) -> PyTree:
        if self.network.trained is None:
            raise ValueError(
                "expected a trained network, got a builder only: train it first, "
                "bnn = MAP().fit(bnn, data, key=key).bnn"
            )
        return self.network.trained

    @property
    def parameters(self) -> PyTree:
        """The trained parameters."""
        return parameters(self._trained)

    @property
    def dtype(self) -> np.dtype:
        """The floating-point type that holds all parameters.

        Raises:
            TypeError: for complex parameters.
        """
        types = _dtypes(self._trained)
        if not types:
            raise ValueError(
                "expected a network with parameters, arrays of floats, got "
                f"{type(self._trained).__name__} without any: give a network that "
                "has something to learn"
            )
        # float64 is float32 where JAX is told so: not kept
        dtype = jnp.result_type(*types)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"expected real floating-point parameters, got {dtype}: a Gaussian "
                "prior over complex parameters is not supported, split them in two"
            )
        return dtype

    def with_model(self, model: PyTree) -> BNN:
        """The same problem with this trained network."""
        return self._replace(network=Network(self.network.build, model))

    def with_noise(self, scale: ArrayLike) -> BNN:
        """The same problem with this Gaussian noise scale (network's units)."""
        if not isinstance(self.likelihood, Gaussian):
            raise TypeError(
                "with_noise: expected a Gaussian likelihood, got "
                f"{type(self.likelihood).__name__}, which has no noise scale"
            )
        return self._replace(likelihood=Gaussian(scale))

    def with_prior(self, prior: AbstractPrior) -> BNN:
        """The same problem with this prior."""
        return self._replace(prior=prior)

    def _replace(self, **changes) -> BNN:
        fields = {
            "network": self.network,
            "likelihood": self.likelihood,
            "prior": self.prior,
            "scaling": self.scaling,
            "target_shape": self.target_shape,
        }
        return BNN(**(fields | changes))

    def prepare(self, data: Dataset | Batches) -> BNN:
        """The problem with its scaling fitted on `data`, which are checked.

        Known noise scales of the data turn a `Gaussian` into `KnownNoise`; targets of
        more than one axis turn `Categorical`, `Bernoulli` and `Poisson` into
        `Positions`.

        Raises:
            TypeError: for class labels that are not integers.
            ValueError: where network, likelihood and data do not fit, a constant
                target is to be standardized, or the data have weights, which no method
                takes into account yet.
        """
        x, y = (data.x, data.y) if isinstance(data, Dataset) else data.moments()
        if isinstance(data, Batches):
            data = data.outline()
        if data.weight is not None:
            raise ValueError(
                "Dataset.weight is not used by any method yet: expected a data set "
                "without it, got one with it; leave weight out"
            )
        if self.likelihood.classes and not np.issubdtype(data.y.dtype, np.integer):
            raise TypeError(
                f"{type(self.likelihood).__name__}: expected integer class codes "
                f"0, 1, …, got targets of type {data.y.dtype}"
            )
        likelihood = _fitting(self.likelihood, data)
        continuous = likelihood.continuous
        flat = data.y.ndim > 2 and not isinstance(likelihood, Positions)
        bnn = self._replace(
            likelihood=likelihood,
            scaling=self.scaling.fit(x, y, continuous=continuous),
            target_shape=data.y.shape[1:] if flat else None,
        )
        bnn.check_outputs(data)
        return bnn

    def need_common_noise(self, method: str) -> None:
        """Raise `ValueError` where noise is known by datum, which `method` ignores."""
        if isinstance(self.likelihood, KnownNoise):
            raise ValueError(
                f"Dataset.noise_scale is not used by {method}: expected a data set "
                "without it, got one with it; leave noise_scale out, or use Laplace"
            )

    def check_outputs(self, data: Dataset | Batches) -> None:
        """Raise `ValueError` where outputs, likelihood and targets do not fit."""
        if isinstance(data, Batches):
            data = data.outline()
        likelihood = self.likelihood
        shape = self._output_shape(data.x)
        expected, found = likelihood.outputs(data.y), math.prod(shape)
        count = likelihood.count if isinstance(likelihood, Positions) else 1
        # a network may know more classes than this data set shows
        several = isinstance(_plain(likelihood), Categorical)
        more = several and found > expected and found % count == 0
        if found != expected and not more:
            one_hot = several and found == count == math.prod(data.y.shape[1:])
            hint = ", or give one-hot rows as y.argmax(axis=1)" if one_hot else ""
            raise ValueError(
                f"{type(_plain(likelihood)).__name__} asks for {expected} network "
                f"output(s){' or more' if several else ''} for these targets; the "
                f"network has {found}: change its last layer or the likelihood{hint}"
            )
        if np.ndim(data.y) > 1 and not isinstance(likelihood, HeteroscedasticGaussian):
            _check_axes(shape, np.shape(data.y)[1:], found // _size(data.y))

    def outputs(self, data: Dataset | Batches) -> int:
        """The number of network outputs C (the network is traced, not run)."""
        one = data.take_first(1) if isinstance(data, Batches) else data
        return self._outputs(one.x)

    def _outputs(self, x: PyTree) -> int:
        return math.prod(self._output_shape(x))

    def _output_shape(self, x: PyTree) -> tuple[int, ...]:
        """The shape of one example's outputs, for x before or after scaling."""
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
        if not shapes or any(len(s) == 0 or s[0] != shapes[0][0] for s in shapes):
            raise ValueError(
                "expected inputs with one leading axis of examples, got shapes "
                f"{', '.join(str(s) for s in shapes) or 'none'}"
            )
        if self.trained:
            model = self.model
        else:
            model = eqx.filter_eval_shape(self.network.init, jax.random.key(0))
        one = self.example(x)
        leaves, structure = jax.tree.flatten(one)
        key = structure, mode(), *((leaf.shape, leaf.dtype) for leaf in leaves)
        known = _shapes(model) if self.trained else {}
        if key in known:
            return known[key]
        try:
            known[key] = _shape(model, one)
        # whatever a network raises on inputs that it does not take
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            what = ", ".join(str(s[1:]) for s in shapes)
            raise ValueError(
                "expected a network that maps one example, of shape "
                f"{what}, to its outputs as network(x), without a key or a state; it "
                f"raised {type(error).__name__}: {error}. Check the number of features "
                "(leading axis: examples), and switch randomness off in the network "
                "(equinox.nn.inference_mode)"
            ) from error
        return known[key]

    def example(self, x: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
        """Shape and type of one network input, for x (N, …) before or after scaling."""
        dtype = self.dtype if self.trained else jnp.zeros(()).dtype

        def one(leaf) -> jax.ShapeDtypeStruct:
            keep = isinstance(self.scaling, Identity) and _whole(leaf)
            return jax.ShapeDtypeStruct(leaf.shape[1:], jnp.int32 if keep else dtype)

        return jax.tree.map(one, x)

    def size(self) -> int:
        """The number of parameters P."""
        if self.trained:
            return count(self.model)
        return count(eqx.filter_eval_shape(self.network.init, jax.random.key(0)))

    def inputs(self, x: PyTree, dtype: DTypeLike | None = None) -> PyTree:
        """Network inputs (N, …): scaled, in the network's or the given dtype.

        Without scaling, integers (tokens, categories) stay integers. Values are not
        looked at: a `Dataset` has done that, and `checked_inputs` does it for others.

        Raises:
            ValueError: for what is no array of numbers with rows, and where the network
                does not take these inputs.
        """
        scaled = self.scaling.inputs(as_inputs(x))
        self._outputs(scaled)
        dtype = dtype or (self.dtype if self.trained else jnp.zeros(()).dtype)
        return jax.tree.map(
            lambda a: jnp.asarray(a, jnp.int32) if _whole(a) else _cast(a, dtype),
            scaled,
        )

    def targets(
        self, data: Dataset, dtype: DTypeLike | None = None
    ) -> Array | NoisyTargets:
        """Targets: (N, D) scaled floats, or (N, …) class codes or counts as int32.

        With known noise scales the pair of scaled targets and scaled deviations.

        Raises:
            ValueError: where the noise of the data is known and the problem has not
                been prepared for that, or the other way round.
        """
        known = isinstance(self.likelihood, KnownNoise)
        if known != (data.noise_scale is not None):
            raise ValueError(
                f"targets: expected data {'with' if known else 'without'} noise_scale, "
                f"as {type(self.likelihood).__name__} asks for: bnn.prepare(data) fits "
                "the likelihood to the data"
            )
        if not self.likelihood.continuous:
            return jnp.asarray(np.asarray(data.y, np.int32))
        dtype = dtype or (self.dtype if self.trained else jnp.zeros(()).dtype)
        y = np.asarray(data.y, np.float64).reshape(len(data), -1)
        loc, scale = self.scaling.loc(), self.scaling.scale()
        value = jnp.asarray((y - loc) / scale, dtype)
        if data.noise_scale is None:
            return value
        noise = np.asarray(data.noise_scale, np.float64).reshape(len(data), -1)
        return NoisyTargets(
            value, jnp.asarray(np.broadcast_to(noise / scale, y.shape), dtype)
        )


def _cast(a: ArrayLike, dtype: DTypeLike) -> Array:
    if isinstance(a, np.ndarray) and a.dtype == np.float32:
        # on the device: NumPy's copy would be copied once more, which takes longer
        return jnp.asarray(a).astype(dtype)
    return jnp.asarray(a, dtype)


@by_identity
def _quiet(model: PyTree) -> PyTree:
    """In inference mode."""
    return eqx.nn.inference_mode(model)


@by_identity
def _dtypes(model: PyTree) -> tuple[np.dtype, ...]:
    """The types of the parameters."""
    return tuple({a.dtype: None for a in jax.tree.leaves(parameters(model))})


@by_identity
def _shapes(model: PyTree) -> dict[tuple, tuple[int, ...]]:
    """Shapes of the outputs that are known, by shapes of the inputs."""
    del model
    return {}


@by_structure
def _shape(model: PyTree, x: PyTree) -> tuple[int, ...]:
    """The shape of the outputs; the network is traced, not run."""
    return eqx.filter_eval_shape(_call, model, x).shape


def _call(model: PyTree, x: PyTree) -> Array:
    return jnp.asarray(model(x))


def _plain(likelihood: AbstractLikelihood) -> AbstractLikelihood:
    """The likelihood as the user gave it."""
    if isinstance(likelihood, KnownNoise):
        return likelihood.new
    return likelihood.likelihood if isinstance(likelihood, Positions) else likelihood


def _fitting(likelihood: AbstractLikelihood, data: Dataset) -> AbstractLikelihood:
    """The likelihood in the form that these data ask for."""
    plain = _plain(likelihood)
    if data.noise_scale is not None:
        if not isinstance(plain, Gaussian):
            raise ValueError(
                "Dataset.noise_scale: expected a Gaussian likelihood, got "
                f"{type(plain).__name__}, which has no noise scale; leave it out"
            )
        return KnownNoise(plain)
    shape = data.y.shape[1:]
    split = isinstance(plain, Bernoulli | Categorical | Poisson)
    split = split or isinstance(likelihood, Positions)
    return Positions(plain, shape) if split and shape else plain


def _size(y: np.ndarray) -> int:
    return math.prod(np.shape(y)[1:])


def _check_axes(found: tuple[int, ...], shape: tuple[int, ...], each: int) -> None:
    """Raise `ValueError` where the outputs lie in another order than the targets."""
    wanted = (*shape, each)
    if len(found) == 1 or _squeezed(found) == _squeezed(wanted):
        return
    raise ValueError(
        f"expected network outputs of shape {shape if each == 1 else wanted}, in the "
        f"order of the targets{'' if each == 1 else ' and the classes last'}, got "
        f"{found}: move its axes (jnp.moveaxis)"
    )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
