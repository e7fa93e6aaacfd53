"""Members from one training whose learning rate rises again and again."""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx

from ntkuq.models import Train


class Snapshot(eqx.Module):
    """All members from one training: the network at the end of each cycle.

    The updates of `Train` are divided into as many cycles as there are members, at the
    start of each of which the optimizer begins anew: with a number as the optimizer,
    the learning rate falls from it to zero in every cycle. As cheap as one network, and
    its members are less different.

    References: Huang et al. 2017 (arXiv 1704.00109); Loshchilov and Hutter 2017 (arXiv
        1608.03983).

    >>> Snapshot.cycle(Train(1e-2, steps=100), 5, 20).steps
    20
    """

    @staticmethod
    def cycle(train: Train, cycles: int, size: int) -> Train:
        """The training of one cycle, for so many examples."""
        steps = math.ceil(train.updates(size) / cycles)
        return dataclasses.replace(train, steps=steps, epochs=None)
