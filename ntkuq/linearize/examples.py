"""Examples that are seen chunk by chunk: of arrays, or of a stream."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ntkuq.linearize.chunks import even, rows, split_rows


class AbstractExamples(eqx.Module):
    """Network inputs and targets, in the network's units."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of examples N."""

    @abc.abstractmethod
    def chunks(self, size: int) -> Iterator[tuple[PyTree, PyTree]]:
        """All examples once, (x, y) with at most `size` rows at a time."""

    @abc.abstractmethod
    def whole(self) -> tuple[PyTree, PyTree]:
        """All examples at once."""

    def example(self) -> PyTree:
        """One input, for shapes."""
        for x, _ in self.chunks(1):
            return jax.tree.map(lambda leaf: leaf[0], x)
        raise ValueError("expected at least one example, got none")


class Examples(AbstractExamples):
    """Arrays x (N, …) and y (N, …)."""

    x: PyTree
    y: Any

    def __len__(self) -> int:
        return rows(self.x)

    def chunks(self, size: int) -> Iterator[tuple[PyTree, PyTree]]:
        yield from split_rows((self.x, self.y), even(len(self), size))

    def whole(self) -> tuple[PyTree, PyTree]:
        return self.x, self.y

    def example(self) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], self.x)
