"""Where a monotone function of one variable crosses a value, for many at once."""

from collections.abc import Callable

import numpy as np


type Function = Callable[[np.ndarray], np.ndarray]


def crossing(f: Function, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    r"""The zero of an increasing function, from below: $f(y) \le 0$, to rounding.

    Chandrupatla's method: inverse quadratic interpolation where the last three points
    allow it, bisection otherwise, inside a bracket that doubles until it holds the
    zero. The lower end of the last bracket is returned.

    Args:
        f: increasing, elementwise.
        start: (...), near the zero.
        step: (...), positive: the scale on which f changes; the result is exact to
            1e-13 of it.

    References:
        Chandrupatla, 1997, Advances in Engineering Software 28, 145-149.
    """
    a, b = bracket(lambda y: f(y) > 0, start, step)
    fa, fb = f(a), f(b)
    c, fc = a, fa
    t = np.full(a.shape, 0.5)
    for _ in range(200):
        new = a + t * (b - a)
        value = f(new)
        same = np.sign(value) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = new, value
        near = np.where(np.abs(fa) < np.abs(fb), a, b)
        tolerance = 4e-16 * np.abs(near) + 1e-13 * step
        least = tolerance / np.maximum(np.abs(b - a), np.finfo(np.float64).tiny)
        # a zero that was hit leaves a on it and b beyond
        done = (least >= 1) | (fa == 0)
        if done.all():
            break
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            x, y = (a - b) / (c - b), (fa - fb) / (fc - fb)
            curved = (y**2 < x) & ((1 - y) ** 2 < 1 - x)
            t = fa / (fb - fa) * fc / (fb - fc)
            t += (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = np.where(curved & np.isfinite(t), t, 0.5)
        t = np.clip(t, np.minimum(least, 0.5), np.maximum(1 - least, 0.5))
        t = np.where(done, 0.0, t)
    return np.where(fa == 0, a, np.minimum(a, b))


def first_whole(holds: Function, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The least whole number from which on a condition holds, by bisection.

    Args:
        holds: elementwise; false, then true.
        start: (...), whole numbers near the place.
        step: (...), whole numbers of at least 1.
    """
    low, high = bracket(holds, start, step)
    while True:
        middle = np.floor(low + (high - low) / 2)
        moving = (middle > low) & (middle < high)
        if not moving.any():
            return high
        inside = holds(middle)
        high = np.where(moving & inside, middle, high)
        low = np.where(moving & ~inside, middle, low)


def bracket(
    holds: Function, start: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where a condition does not hold yet and where it does, in doubling steps."""
    low, high = start - step, start + step
    for _ in range(64):
        early, late = holds(low), ~holds(high)
        if not (early | late).any():
            break
        low = np.where(early, start - 2 * (start - low), low)
        high = np.where(late, start + 2 * (high - start), high)
    return low, high
