"""The autoencoder is trained, timed in turns, and its likelihood is exact."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.optimization.autoencoder import (
    SIZES,
    Autoencoder,
    images,
    start,
    summary,
)
from experiments.optimization.contestants import L2, Pixels, Theirs, network
from ntkuq.models.likelihoods import curvature


def by_hand(arrays: dict[str, np.ndarray], x: np.ndarray) -> float:
    """The loss of the smoke network in float64, from its definition."""
    h = x.astype(np.float64)
    for n in range(4):
        h = h @ arrays[f"w{n}"].T.astype(np.float64) + arrays[f"b{n}"]
        h = np.tanh(h) if n in (0, 2) else h
    p = 1 / (1 + np.exp(-h))
    entropy = -np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), axis=1)
    square = sum(np.sum(np.float64(leaf) ** 2) for leaf in arrays.values())
    return float(np.mean(entropy) + 0.5 * L2 * square)


def test_losses_start_where_the_definition_says_and_fall(tmp_path, capsys):
    one = Autoencoder(size="smoke", seeds=1, steps=20, out=tmp_path / "a.json")
    one.execute()
    document = json.loads((tmp_path / "a.json").read_text())
    found = document["runs"][0]["ntkuq"]
    size = SIZES["smoke"]
    # float32, a sum of 6 400 terms of order 1: a relative error of some 1e-6
    expected = by_hand(start(size, 0), images(size))
    assert found["losses"][0] == pytest.approx(expected, rel=1e-5)
    # steps that do not lead down are rejected
    assert np.all(np.diff(found["losses"]) <= 1e-4)
    assert found["loss"] < found["losses"][-1] < 0.9 * expected
    assert len(found["losses"]) == 5 * len(found["seconds"]) == 20
    assert document["kfac_python"] is False
    assert "| step | ntkuq |" in capsys.readouterr().out


def test_pixels_are_a_canonical_likelihood():
    f = jnp.array([-3.0, 0.2, 40.0])
    y, other = jnp.array([0.0, 0.3, 1.0]), jnp.array([1.0, 0.9, 0.5])
    one, v = Pixels(), jnp.array([1.0, -2.0, 0.5])
    share = 1 / (1 + np.exp(-np.float64(f)))
    np.testing.assert_allclose(one.residual(f, y), y - share, atol=1e-6)
    np.testing.assert_allclose(one.hessian(f), np.diag(share * (1 - share)), atol=1e-6)
    for target in (y, other):
        found = curvature(one, f, target)
        np.testing.assert_allclose(found, one.hessian(f), atol=1e-6)
        bent = -jax.jvp(lambda f, t=target: one.residual(f, t), (f,), (v,))[1]
        np.testing.assert_allclose(bent, one.hessian(f) @ v, atol=1e-6)
    # whole targets: the probability itself
    whole = jnp.array([0.0, 1.0, 1.0])
    expected = np.log(1 - share[0]) + np.log(share[1]) + np.log(share[2])
    np.testing.assert_allclose(one.log_prob(f, whole), expected, rtol=1e-5)


def test_code_and_last_layer_are_linear():
    size = SIZES["smoke"]
    arrays = start(size, 1)
    assert [arrays[f"w{n}"].shape for n in range(4)] == [
        (32, 64),
        (8, 32),
        (32, 8),
        (64, 32),
    ]
    x = images(size)[0]
    model = network(arrays)
    code = arrays["w1"] @ np.tanh(arrays["w0"] @ x)
    expected = arrays["w3"] @ np.tanh(arrays["w2"] @ code)
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, atol=1e-5)


def test_ratios_are_of_turns_one_after_the_other_without_the_first():
    def side(seconds, loss):
        both = {"seconds": seconds, "processor": [2 * s for s in seconds]}
        return both | {"loss": loss, "squared_error": loss / 2}

    run = {
        "ntkuq": side([90.0, 1.0, 2.0, 3.0], 5.0),
        "kfac_jax": side([1.0, 2.0, 4.0, 3.0], 10.0),
    }
    found = summary([run, run | {"ntkuq": side([90.0, 1.0, 2.0, 3.0], 15.0)}])
    assert found["seconds a step, ntkuq"] == 2.0
    assert found["seconds ratio: median, quartiles"] == [0.5, 0.5, 0.875]
    assert found["loss ratio: mean, range"] == [1.0, 0.5, 1.5]


@pytest.mark.parametrize("steps", [0, 5, 12])
def test_steps_are_whole_turns(steps):
    with pytest.raises(ValueError, match=f"multiples of 5 .* got {steps}"):
        Autoencoder(size="smoke", steps=steps).run(0)


def test_a_python_without_the_peer_is_said(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"stopped with exit code 1.*--kfac-python"):
        Theirs(Path(sys.executable), tmp_path, 1, 0)
