"""New inputs: what becomes arrays, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Batches, DataError, Dataset, Split
from ntkuq.data.inputs import as_inputs, checked_inputs


DATA = Dataset(np.ones((4, 2)), np.zeros(4))
REFUSED = {
    "nothing": (None, "at least one array of inputs .* came None; give an array"),
    "number": (3.0, r"leading axis of examples, came float64 of shape \(\)"),
    "word": ("abc", r"came <U3 of shape \(\)"),
    "text": (np.array([["a"]]), r"came <U1 of shape \(1, 1\); .* text as numbers"),
    "complex": (np.ones((2, 2)) + 1j, "expected numbers .* came complex128"),
    "objects": (np.array([[None]]), "came object"),
    "no rows": (np.ones((0, 3)), r"at least one input, came shape \(0, 3\)"),
    "empty list": ([], r"at least one input, came shape \(0,\)"),
    "ragged": ([[1.0], [1.0, 2.0]], "rows of unequal length"),
    "a leaf": ({"a": np.ones(2), "b": 1.0}, r"x\['b'\]: expected numbers"),
    "data set": (DATA, "came a Dataset; give data.x"),
    "batches": (Batches.of(DATA, size=2), r"came a Batches; give batches.to_dataset"),
    "split": (Split(DATA, None, DATA), "came a Split; give split.test.x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case):
    x, message = REFUSED[case]
    for read in (as_inputs, checked_inputs):
        with pytest.raises(DataError, match=message):
            read(x)


class Table:
    """What NumPy reads as an array, like a table of pandas."""

    def __array__(self, dtype=None, copy=None):
        return np.ones((2, 3), dtype)


def test_arrays_are_what_they_were():
    for x in ([[1.0, 1.0, 1.0]] * 2, Table(), ((1, 1, 1), (1, 1, 1))):
        assert as_inputs(x).tolist() == np.ones((2, 3)).tolist()
    x = {"a": jnp.ones((2, 3)), "b": np.ones(2, np.int32)}
    found = checked_inputs(x)
    assert found["a"] is x["a"]
    assert found["b"] is x["b"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_are_checked_where_they_are_known(value):
    x = np.ones((4, 2), np.float32)
    x[2, 1] = value
    for bad in (x, jnp.asarray(x), x.tolist()):
        with pytest.raises(DataError, match=r"row 2, column 1 .* before predict"):
            checked_inputs(bad)
    assert jax.jit(checked_inputs)(x).shape == jax.vmap(checked_inputs)(x).shape
