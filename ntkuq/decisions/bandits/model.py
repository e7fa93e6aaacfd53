"""A neural model of rewards, when and how it is trained."""

from __future__ import annotations

import abc

import equinox as eqx

from ntkuq.decisions.bandits.coefficients import AbstractCoefficient, Evidence
from ntkuq.decisions.bandits.covariances import AbstractCovariance, LastLayer
from ntkuq.decisions.bandits.feedback import AbstractFeedback, Immediate
from ntkuq.decisions.bandits.network import Perceptron


class AbstractSchedule(eqx.Module):
    """After which rounds the model is trained."""

    @abc.abstractmethod
    def times(self, rounds: int) -> tuple[int, ...]:
        """Numbers of rounds after which it trains, growing, at most `rounds`."""


class Every(AbstractSchedule):
    """Each `interval` rounds.

    >>> Every(40).times(100)
    (40, 80)
    """

    interval: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        if self.interval < 1:
            raise ValueError(f"interval: expected 1 or more, got {self.interval}")

    def times(self, rounds):
        return tuple(range(self.interval, rounds + 1, self.interval))


class Geometric(AbstractSchedule):
    """After `first` rounds, then each time the number has grown by `growth`.

    >>> Geometric(10, growth=2.0).times(100)
    (10, 20, 40, 80)
    """

    first: int = eqx.field(static=True, default=20)
    growth: float = eqx.field(static=True, default=1.2)

    def __check_init__(self):
        if self.first < 1 or not self.growth > 1:
            raise ValueError(
                "Geometric: expected first >= 1 and growth > 1, got "
                f"{self.first} and {self.growth}"
            )

    def times(self, rounds):
        found, t = [], self.first
        while t <= rounds:
            found.append(t)
            t = max(t + 1, round(t * self.growth))
        return tuple(found)


class Adam(eqx.Module):
    """Steps of Adam on random minibatches, the rate falling to zero along a cosine.

    Args:
        rate: at the start of each training.
        steps: of one training.
        batch: rounds in a minibatch.
        decay: pull to the initial weights in each training: lambda in
            (1/2) RSS + (lambda/2) |theta - theta_0|^2.
    """

    rate: float = 3e-3
    steps: int = 400
    batch: int = eqx.field(static=True, default=128)
    decay: float = 1e-2

    def __check_init__(self):
        if isinstance(self.rate, float) and not self.rate > 0:
            raise ValueError(f"rate: expected > 0, got {self.rate}")
        if self.batch < 1 or (isinstance(self.steps, int) and self.steps < 0):
            raise ValueError(
                f"Adam: expected batch >= 1 and steps >= 0, got {self.batch} and "
                f"{self.steps}"
            )


class NeuralRewards(eqx.Module):
    """Rewards by a network that is trained on the schedule, with its uncertainty.

    Args:
        network: the perceptron of arm and context.
        covariance: `Diagonal`, `LastLayer`, `Kronecker`, `LowRank` or
            `FunctionSpace`.
        coefficient: `Evidence`, `Constant`, `Theoretical` or `InfiniteWidth`.
        schedule: `Geometric` or `Every`.
        training: how.
        feedback: `Immediate`, `Delayed` or `Batched`.

    >>> NeuralRewards().network.width
    100
    """

    network: Perceptron = Perceptron()
    covariance: AbstractCovariance = LastLayer()
    coefficient: AbstractCoefficient = Evidence()
    schedule: AbstractSchedule = Geometric()
    training: Adam = Adam()
    feedback: AbstractFeedback = Immediate()
