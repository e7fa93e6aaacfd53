"""The extras of a run: begun when first needed, and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import Array

import ntkuq
from ntkuq.data import Split, Store, digest
from ntkuq.models import BNN, identity
from ntkuq.posteriors import AbstractPosterior, Predictive
from ntkuq.report.extras import AbstractExtra
from ntkuq.report.progress import AbstractProgress
from ntkuq.report.units import NUMERICAL, one_line


@dataclass(frozen=True)
class Asked:
    """What was asked for beyond the scores, with what is known of it so far.

    An extra begins at the first method that needs it, so a run whose methods are all
    stored begins none; `begun` is filled on the way.

    Args:
        extras: what was asked for.
        bnn: the problem, with the shared network; `None` while it is being trained,
            then that of the posterior serves.
        data: all parts.
        store: where records are kept, or `None`.
        progress: who is told.
        fresh: ignore what is stored.
        seed: of the run.
        key: of the run.
    """

    extras: tuple[AbstractExtra, ...]
    bnn: BNN | None
    data: Split
    store: Store | None
    progress: AbstractProgress
    fresh: bool
    seed: int
    key: Array
    begun: dict[int, tuple[dict[str, Any], Any]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What keys the stored units."""
        return "; ".join(identity(one) for one in self.extras)

    def of_method(self, posterior: AbstractPosterior, p: Predictive) -> dict[str, Any]:
        """Entries of a method's record; why there are none, in `omitted`."""
        found: dict[str, Any] = {}
        omitted: dict[str, str] = {}
        for number, one in enumerate(self.extras):
            entries, state = self._begin(number, posterior.bnn)
            if one.entry in entries.get("omitted", {}):
                continue
            try:
                found |= one.of_method(
                    state, posterior, p, self.data, key=self._own_key(number)
                )
            except (*NUMERICAL, TypeError, NotImplementedError) as error:
                omitted[one.entry] = one_line(error)
        return found | ({"omitted": omitted} if omitted else {})

    def entries(self) -> dict[str, Any]:
        """Entries of the run document, stored or found now."""
        found: dict[str, Any] = {}
        omitted: dict[str, str] = {}
        for number in range(len(self.extras)):
            entries = self._stored(number)
            entries = self._begin(number, None)[0] if entries is None else entries
            omitted |= entries.get("omitted", {})
            found |= entries
        return found | ({"omitted": omitted} if omitted else {})

    def _stored(self, number: int) -> dict[str, Any] | None:
        if number in self.begun or self.store is None or self.fresh:
            return None
        record = self.store.read(self._name(number))
        return None if record is None else record["entries"]

    def _begin(self, number: int, trained: BNN | None) -> tuple[dict[str, Any], Any]:
        if number in self.begun:
            return self.begun[number]
        one, name = self.extras[number], self._name(number)
        bnn = trained if self.bnn is None else self.bnn
        if bnn is None:
            raise RuntimeError(f"extra {one.name}: begun before the problem is known")
        self.progress.note(f"{one.name}: begins")
        # the state stays, since methods that are added later need it too
        file = None if self.store is None else self.store.partial(f"{name}-state")
        entries: dict[str, Any]
        try:
            entries, state = one.of_run(
                bnn, self.data, checkpoint=file, key=self._own_key(number)
            )
        except (*NUMERICAL, TypeError, NotImplementedError) as error:
            entries, state = {"omitted": {one.entry: one_line(error)}}, None
        if self.store is not None:
            self.store.write(name, {"entries": entries})
        self.begun[number] = entries, state
        return self.begun[number]

    def _name(self, number: int) -> str:
        one = self.extras[number]
        text = digest([identity(one), self.seed, ntkuq.__version__])
        return f"extra-{one.name}-{text[:24]}"

    def _own_key(self, number: int) -> Array:
        text = digest([identity(self.extras[number])])
        return jax.random.fold_in(self.key, int(text[:7], 16))


def need_extras(extras: Sequence[AbstractExtra]) -> tuple[AbstractExtra, ...]:
    """The extras of a run.

    Raises:
        TypeError: for something else among them.
    """
    for one in extras:
        if not isinstance(one, AbstractExtra):
            raise TypeError(
                f"compare: expected extras such as Shifts() or Reference(), got {one!r}"
            )
    return tuple(extras)
