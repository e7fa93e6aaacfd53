"""More that a comparison finds out when it is asked to."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import equinox as eqx
from jaxtyping import Array

from ntkuq.data import Split
from ntkuq.models import BNN
from ntkuq.posteriors import AbstractPosterior, Predictive


class AbstractExtra(eqx.Module):
    """An analysis that costs something: done on request, `compare(..., extras=…)`.

    Args:
        name: what it is called on the command line and in progress.
        entry: what the report is about to show of it; names the reason where it fails.
    """

    name: eqx.AbstractClassVar[str]
    entry: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def of_run(
        self, bnn: BNN, data: Split, *, checkpoint: Path | None, key: Array
    ) -> tuple[dict[str, Any], Any]:
        """Once for all methods.

        Args:
            bnn: the problem, with the shared trained network where there is one.
            data: all parts.
            checkpoint: a file for the state of long computations.
            key: random key.

        Returns:
            Entries of the run document, and what `of_method` needs.
        """

    @abc.abstractmethod
    def of_method(
        self,
        state: Any,
        posterior: AbstractPosterior,
        p: Predictive,
        data: Split,
        *,
        key: Array,
    ) -> dict[str, Any]:
        """Once a method.

        Args:
            state: what `of_run` gave.
            posterior: of the method.
            p: its predictions of the test part.
            data: all parts.
            key: random key, the same for all methods.

        Returns:
            Entries of the method's record.

        Raises:
            ValueError, TypeError, NotImplementedError: where it does not apply; the
                record then says so.
        """
