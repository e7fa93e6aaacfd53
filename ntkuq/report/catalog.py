"""The methods that a comparison runs unless told otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ntkuq.data import Dataset
from ntkuq.kernels import RBF, Analytic, Empirical
from ntkuq.kernels.base import MANY_FEATURES
from ntkuq.models import BNN, constructor
from ntkuq.posteriors import (
    GP,
    KFAC,
    MAP,
    NTKGP,
    AbstractMethod,
    DeepEnsemble,
    Full,
    Laplace,
    LastLayer,
)


def default_methods(bnn: BNN, data: Dataset) -> dict[str, AbstractMethod]:
    """MAP, Laplace three ways, NTK-GP two ways, a plain GP, an ensemble of five.

    A network that is trained already keeps its weights; the plain GP has a lengthscale
    a feature where there are at most 20.

    >>> import numpy as np
    >>> from ntkuq.models import Gaussian, mlp
    >>> rows = np.arange(6.0).reshape(3, 2)
    >>> len(default_methods(BNN(mlp(2, 1), Gaussian()), Dataset(rows, rows[:, 0])))
    8
    """
    features = data.x.shape[-1] if hasattr(data.x, "shape") else MANY_FEATURES + 1
    ard = features <= MANY_FEATURES
    return {
        "MAP": MAP(train=None) if bnn.trained else MAP(),
        "Laplace (full)": Laplace(structure=Full()),
        "Laplace (KFAC)": Laplace(structure=KFAC()),
        "Laplace (last layer)": Laplace(subset=LastLayer()),
        "NTK-GP (infinite width)": NTKGP(kernel=Analytic()),
        "NTK-GP (empirical)": NTKGP(kernel=Empirical()),
        "GP (RBF-ARD)" if ard else "GP (RBF)": GP(kernel=RBF(ard=ard)),
        "deep ensemble (5)": DeepEnsemble(size=5),
    }


def label(method: AbstractMethod) -> str:
    """A short name of a method that was given without one.

    >>> label(DeepEnsemble(size=3)), label(Laplace(structure=KFAC()))
    ('DeepEnsemble(size=3)', 'Laplace(structure=KFAC())')
    """
    return constructor(method)


def labelled(methods: Iterable[AbstractMethod]) -> dict[str, AbstractMethod]:
    """Methods by their labels; equal labels are numbered, so that none is lost.

    >>> list(labelled([DeepEnsemble(size=3), DeepEnsemble(size=3)]))
    ['DeepEnsemble(size=3)', 'DeepEnsemble(size=3) #2']
    """
    found: dict[str, AbstractMethod] = {}
    for method in methods:
        name = first = label(method)
        number = 2
        while name in found:
            name, number = f"{first} #{number}", number + 1
        found[name] = method
    return found


def slug(text: str) -> str:
    """A name as part of a file name.

    >>> slug("Laplace (last layer)")
    'laplace-last-layer'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "method"
