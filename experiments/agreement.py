"""Two views of one posterior: full Laplace in weight space and in function space."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

import ntkuq as nq
from experiments.record import save


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Largest relative difference between the two views on the default network."""

    split: int = 0
    """Standard split of concrete."""
    seed: int = 0
    """Seed of the training."""
    steps: int = 3_000
    """Training steps a round."""
    out: Path = Path("runs/experiments")
    """Directory of the JSON document."""

    def execute(self) -> None:
        """Train the default network in float64, solve twice, compare."""
        with jax.enable_x64(True):
            differences = self.differences()
        for name, value in differences.items():
            print(f"{name:<12} largest relative difference {value:.1e}")
        path = save(
            self.out / "agreement.json",
            "agreement",
            {"split": self.split, "seed": self.seed, "differences": differences},
        )
        print(f"written {path}")

    def differences(self) -> dict[str, float]:
        """Largest difference of each quantity, relative to its largest value."""
        data = nq.data.load("concrete", split=self.split)
        build = nq.models.mlp(8, 1, width=50, activation=jax.nn.relu)
        bnn = nq.BNN(nq.Network(build), nq.Gaussian(), scaling=nq.Standardize())
        key = jax.random.key(self.seed)
        trained = nq.MAP(nq.Train(steps=self.steps)).fit(bnn, data.train, key=key).bnn
        found = {}
        for view in (
            nq.posteriors.WeightSpace(),
            nq.posteriors.FunctionSpace(),
        ):
            method = nq.Laplace(structure=nq.Full(view=view), tune=nq.Fixed())
            posterior = method.fit(trained, data.train, key=key)
            joint = posterior.joint(data.test.x)
            found[type(view).__name__] = {
                "variance": np.asarray(posterior.predict(data.test.x).epistemic),
                "covariance": np.asarray(joint.covariance),
                "evidence": np.asarray(posterior.log_marginal_likelihood),
            }
        weight, function = found.values()
        return {
            name: float(
                np.max(np.abs(weight[name] - function[name]))
                / np.max(np.abs(weight[name]))
            )
            for name in weight
        }
