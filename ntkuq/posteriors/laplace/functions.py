"""Functions drawn from a posterior: the same ones at every call."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data.inputs import checked_inputs
from ntkuq.linearize import Jacobian, map_chunks
from ntkuq.linearize.chunks import fitting
from ntkuq.models import BNN, forward, parameters


class SampledFunctions(eqx.Module):
    """n functions of a linearized network, f(x) + J(x) delta_s, in units of the data.

    Each is a smooth function of x, and the same one at every call.

    Args:
        bnn: the problem, for the units of inputs and outputs.
        jacobian: at the trained parameters.
        shifts: delta, (n, P_leaf) for each leaf.

    `functions(x)` gives (n, N) for one output, else (n, N, C); `functions[s]` is one
    of them, with values (N,) or (N, C).
    """

    bnn: BNN
    jacobian: Jacobian
    shifts: list[Float[Array, "n _"]]

    def __len__(self) -> int:
        return self.shifts[0].shape[0]

    def __getitem__(self, number: int) -> SampledFunction:
        if not -len(self) <= number < len(self):
            raise IndexError(
                f"expected the number of a function below {len(self)}, got {number}"
            )
        one = [shift[number][None] for shift in self.shifts]
        return SampledFunction(SampledFunctions(self.bnn, self.jacobian, one))

    def __call__(self, x: PyTree) -> Float[Array, "n N *C"]:
        dtype = jax.tree.leaves(parameters(self.jacobian.model))[0].dtype
        with jax.enable_x64(dtype == np.float64):
            inputs = self.bnn.inputs(checked_inputs(x), dtype)
            numbers = (1 + len(self)) * self.jacobian.plan.activations
            size = fitting(numbers, dtype.itemsize)
            values = map_chunks(
                lambda part: _values(self.jacobian, self.shifts, part), inputs, size
            )
            loc = jnp.asarray(self.bnn.scaling.loc(), dtype)
            scale = jnp.asarray(self.bnn.scaling.scale(), dtype)
            values, _ = self.bnn.likelihood.shift(values, loc, scale)
            values = jnp.swapaxes(values, 0, 1).astype(self.bnn.dtype)
        return values[..., 0] if values.shape[-1] == 1 else values


class SampledFunction(eqx.Module):
    """One function drawn from a posterior."""

    drawn: SampledFunctions

    def __call__(self, x: PyTree) -> Float[Array, "N *C"]:
        return self.drawn(x)[0]


@eqx.filter_jit
def _values(jacobian: Jacobian, shifts: list[Array], x: PyTree):
    """(N, n, C): one linearization, n products."""
    leaves = jacobian.leaves

    def outputs(leaves: list[Array]) -> Array:
        model = jacobian.replace(leaves)
        return jax.vmap(lambda a: forward(model, a))(x)

    value, product = jax.linearize(outputs, leaves)

    def one(shift: list[Array]) -> Array:
        shaped = [s.reshape(leaf.shape) for s, leaf in zip(shift, leaves, strict=True)]
        return product(shaped)

    return value[:, None] + jnp.swapaxes(jax.lax.map(one, shifts, batch_size=16), 0, 1)
