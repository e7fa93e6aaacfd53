"""How wide predictions are, whatever was observed."""

import numpy as np

from .records import Score
from .sampling import AbstractSampling, Points


def sharpness(variance: np.ndarray, sampling: AbstractSampling | None = None) -> Score:
    r"""Root mean predictive variance of an observation, in the units of the data.

    $\sqrt{\frac1n \sum_i \sigma_i^2}$; smaller is sharper, and good only for
    predictions that are calibrated. Several outputs are averaged over. The variance of
    S samples is that of the samples themselves, divided by S.

    Args:
        variance: predicted variance, (N,) or (N, C).
        sampling: which points are independent; all unless said.

    >>> import numpy as np
    >>> print(sharpness(np.array([1.0, 7.0])).value)
    2.0

    References:
        Gneiting, Balabdaoui and Raftery, 2007, JRSS B 69, 243-268.
    """
    rows = variance.reshape(variance.shape[0], -1).mean(axis=1)
    sampling = Points(rows.size) if sampling is None else sampling
    return sampling.root_mean_square(rows)
