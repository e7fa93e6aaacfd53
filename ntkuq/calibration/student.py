"""Student's t as a law on the host."""

from dataclasses import dataclass, field

import numpy as np

from .interval_score import QUANTILES, pinball
from .laws import AbstractLaw, summed


@dataclass(frozen=True)
class StudentLaw(AbstractLaw):
    """Student's t in closed form.

    Args:
        df: degrees of freedom, shape of the batch.
        loc: medians, same shape.
        scale: scales, same shape; not standard deviations.
    """

    df: np.ndarray = field(repr=False)
    loc: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)

    @property
    def mean(self) -> np.ndarray:
        return np.where(self.df > 1, self.loc, np.nan)

    @property
    def variance(self) -> np.ndarray:
        exists = self.df > 2
        factor = np.where(exists, self.df / np.where(exists, self.df - 2, 1.0), np.inf)
        return self.scale**2 * np.where(self.df > 1, factor, np.nan)

    @property
    def reach(self) -> float:
        return 1.0

    def nll(self, y: np.ndarray) -> np.ndarray:
        return summed(np.log(self.scale) - self._log_density(y))

    def crps(self, y: np.ndarray) -> np.ndarray:
        r"""With $\nu > 1$ degrees of freedom, infinite for fewer.

        $\sigma\,[z (2F(z) - 1) + 2 f(z) \frac{\nu + z^2}{\nu - 1} -
        \frac{2 \sqrt\nu}{\nu - 1} \frac{B(1/2, \nu - 1/2)}{B(1/2, \nu/2)^2}]$.

        References:
            Jordan, Krüger and Lerch, 2019, Journal of Statistical Software 90(12).
        """
        from scipy import special

        exists = self.df > 1
        df = np.where(exists, self.df, 2.0)
        z = (y - self.loc) / self.scale
        density = np.exp(self._log_density(y))
        spread = special.betaln(0.5, df - 0.5) - 2 * special.betaln(0.5, df / 2)
        inner = z * (2 * special.stdtr(df, z) - 1)
        inner += 2 * density * (df + z**2) / (df - 1)
        inner -= 2 * np.sqrt(df) / (df - 1) * np.exp(spread)
        return np.where(exists, self.scale * inner, np.inf)

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        from scipy import special

        return np.stack(
            [self.loc + self.scale * special.stdtrit(self.df, p) for p in q]
        )

    def pinball(self, y: np.ndarray) -> np.ndarray:
        return pinball(self.quantiles(QUANTILES), y, QUANTILES)

    def pit(self, y: np.ndarray) -> np.ndarray:
        from scipy import special

        return special.stdtr(self.df, (y - self.loc) / self.scale)

    def _log_density(self, y: np.ndarray) -> np.ndarray:
        """That of the standard law at the standardized y."""
        from scipy import special

        z, half = (y - self.loc) / self.scale, (self.df + 1) / 2
        constant = special.betaln(self.df / 2, 0.5) + np.log(self.df) / 2
        return -constant - half * np.log1p(z**2 / self.df)
