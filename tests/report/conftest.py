"""Run documents for tests, from simulated predictions: the same on every run."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from ntkuq.report import SCHEMA, verdict


LEVELS = np.linspace(0.05, 0.95, 19)
GRID = np.linspace(0.0, 1.0, 101)

# label, constructor, error, factor on the true spread, shift, seconds, forward passes
REGRESSION = (
    ("MAP", "MAP()", 0.35, 0.75, 0.0, 21.0, 1.0),
    (
        "Laplace (KFAC)",
        "Laplace(structure=KFAC(), tune=MarginalLikelihood())",
        0.27,
        1.0,
        0.0,
        1.43,
        2.1,
    ),
    ("last-layer Laplace", "Laplace(subset=LastLayer())", 0.3, 0.98, 0.15, 0.21, 1.2),
    ("ensemble (5)", "DeepEnsemble(size=5)", 0.25, 1.02, 0.0, 107.0, 5.0),
    ("NTK-GP (empirical)", "NTKGP(kernel=Empirical())", 0.6, 1.3, 0.0, 4.8, 11.0),
    ("SWAG", "SWAG(rank=20)", 0.32, 0.55, 0.0, 33.0, 20.0),
)
UNFINISHED = (
    (
        "NTK-GP (analytic)",
        "NTKGP(kernel=Analytic())",
        "failed",
        "the kernel is not positive definite after jitter 1e-4: standardize the inputs",
    ),
    (
        "NUTS",
        "NUTS(samples=2_000, chains=4)",
        "skipped",
        "would need about 31 GB for 412 600 parameters: use a last-layer reference",
    ),
)


@pytest.fixture(scope="session")
def documents():
    """The builders of this file, for tests that need a document of their own."""
    return SimpleNamespace(
        regression=regression_document,
        classification=classification_document,
        with_label=with_label,
        judged=_judged,
    )


@pytest.fixture(scope="session")
def regression():
    return regression_document()


@pytest.fixture(scope="session")
def classification():
    return classification_document()


def regression_document(n=900, methods=REGRESSION, seed=0):
    """Eight methods, one failed and one skipped."""
    rng = np.random.default_rng(seed)
    spread = 0.4 + rng.random(n)
    y = spread * rng.standard_normal(n)
    common = rng.standard_normal(n)
    entries, nll = [], {}
    for label, text, size, factor, shift, seconds, passes in methods:
        error = 0.5 * size * (0.8 * common + 0.6 * rng.standard_normal(n)) + shift
        entry, nll[label] = _regression_method(y, spread, error, factor)
        entry |= _description(label, text, seconds, passes, n)
        entries.append(entry)
    entries += [
        {"label": label, "text": text, "seed": 0, "status": status, "reason": reason}
        | dict.fromkeys(("hyperparameters", "cost", "diagnostics", "scores", "curves"))
        for label, text, status, reason in UNFINISHED
    ]
    document = _document("regression", n, entries, _comparison(nll))
    data = document["problem"]["data"]
    data["warnings"] = ["feature “age” has 14 distinct values: is it a category?"]
    return _judged(document)


def classification_document(n=1500, seed=1):
    """Four classifiers, from too sure to not sure enough; one skipped."""
    rng = np.random.default_rng(seed)
    logits = 1.6 * rng.standard_normal((n, 10))
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    entries, nll = [], {}
    for label, text, sharpness, seconds, passes in (
        ("MAP", "MAP()", 1.9, 12.0, 1.0),
        ("Laplace (KFAC)", "Laplace(structure=KFAC())", 1.08, 2.2, 2.1),
        ("ensemble (5)", "DeepEnsemble(size=5)", 1.0, 61.0, 5.0),
        ("NTK-GP (empirical)", "NTKGP(kernel=Empirical())", 0.5, 9.0, 14.0),
    ):
        noisy = sharpness * (logits + 0.25 * rng.standard_normal(logits.shape))
        entry, nll[label] = _classification_method(noisy, y)
        entries.append(entry | _description(label, text, seconds, passes, n))
    entries.append(
        {
            "label": "NUTS",
            "text": "NUTS()",
            "status": "skipped",
            "reason": "would take about 9 h: --max-time is 1 h",
        }
    )
    document = _document("classification", n, entries, _comparison(nll))
    document["problem"]["data"] |= {
        "name": "digits",
        "classes": [str(digit) for digit in range(10)],
        "units": None,
        "target": "digit",
    }
    document["problem"]["likelihood"] = "Categorical()"
    return _judged(document)


def with_label(document, index, label):
    """The document with one method renamed everywhere, judged anew."""
    changed = copy.deepcopy(document)
    old = changed["methods"][index]["label"]
    changed["methods"][index]["label"] = label
    comparison = changed["comparison"]
    comparison["best"] = label if comparison["best"] == old else comparison["best"]
    for difference in comparison["differences"]:
        if difference["label"] == old:
            difference["label"] = label
            break
    return _judged(changed)


def _judged(document):
    return {**document, "verdict": verdict(document)}


def _regression_method(y, spread, error, factor):
    n = len(y)
    std = factor * np.sqrt(spread**2 + error.var())
    z = (y - error) / std
    nll = -norm.logpdf(z) + np.log(std)
    pit = np.sort(norm.cdf(z))
    ecdf = np.searchsorted(pit, GRID, side="right") / n
    band = 1.358 / np.sqrt(n)
    distance = float(np.abs(ecdf - GRID).max())
    crps = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    squared = (y - error) ** 2
    rmse = np.sqrt(squared.mean())
    scores = {
        "nll": _mean(nll),
        "crps": _mean(crps),
        "rmse": _score(rmse, squared.std() / np.sqrt(n) / (2 * rmse), n),
        "pit_ks": _score(distance, 0.4 / np.sqrt(n), n)
        | {"p": float(min(1.0, 2 * np.exp(-2 * n * distance**2)))},
        "width_90": _mean(2 * norm.ppf(0.95) * std),
    }
    for level in (0.5, 0.9, 0.95):
        hits = int((np.abs(z) <= norm.ppf((1 + level) / 2)).sum())
        scores[f"coverage_{100 * level:.0f}"] = _proportion(hits, n) | {
            "hits": hits,
            "level": level,
        }
    inside = np.abs(z)[:, None] <= norm.ppf((1 + LEVELS) / 2)
    curves = {
        "coverage": {
            "level": LEVELS.tolist(),
            "observed": inside.mean(0).tolist(),
            "lower": (binom.ppf(0.025, n, LEVELS) / n).tolist(),
            "upper": (binom.ppf(0.975, n, LEVELS) / n).tolist(),
        },
        "pit": {
            "grid": GRID.tolist(),
            "ecdf": ecdf.tolist(),
            "lower": np.clip(GRID - band, 0, 1).tolist(),
            "upper": np.clip(GRID + band, 0, 1).tolist(),
        },
    }
    return {"scores": scores, "curves": curves}, nll


def _classification_method(logits, y):
    n = len(y)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    nll = -np.log(p[np.arange(n), y])
    right = (p.argmax(1) == y).astype(float)
    confidence = p.max(1)
    brier = ((p - np.eye(p.shape[1])[y]) ** 2).sum(1)
    columns = {k: [] for k in ("confidence", "accuracy", "count", "lower", "upper")}
    error = 0.0
    for chunk in np.array_split(np.argsort(confidence), 12):
        c, a, m = confidence[chunk].mean(), right[chunk].mean(), len(chunk)
        row = (c, a, m, binom.ppf(0.025, m, c) / m, binom.ppf(0.975, m, c) / m)
        for values, value in zip(columns.values(), row, strict=True):
            values.append(float(value))
        error += abs(c - a) * m / n
    hits = int(right.sum())
    scores = {
        "nll": _mean(nll),
        "brier": _mean(brier),
        "accuracy": _proportion(hits, n),
        "ece": _score(error, 0.35 / np.sqrt(n), n),
    }
    scores["ece"]["interval"][0] = max(0.0, scores["ece"]["interval"][0])
    return {"scores": scores, "curves": {"reliability": columns}}, nll


def _mean(values):
    return _score(values.mean(), values.std(ddof=1) / np.sqrt(len(values)), len(values))


def _score(value, se, n):
    ends = [float(value - 1.96 * se), float(value + 1.96 * se)]
    return {"value": float(value), "se": float(se), "n": n, "interval": ends}


def _proportion(hits, n):
    lower = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    upper = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    rate = hits / n
    return {
        "value": rate,
        "se": float(np.sqrt(rate * (1 - rate) / n)),
        "n": n,
        "interval": [float(lower), float(upper)],
    }


def _description(label, text, seconds, passes, n):
    tuned = "Laplace" in label
    precision = {"name": "prior precision", "value": 38.2, "se": 4.1, "unit": None}
    noise = {"name": "noise scale", "value": 0.3127, "se": None, "unit": "MPa"}
    hyperparameters = [
        precision | {"at_bound": label.startswith("last")},
        noise | {"at_bound": False},
    ]
    return {
        "label": label,
        "text": text,
        "seed": 0,
        "status": "done",
        "reason": None,
        "hyperparameters": hyperparameters if tuned else [],
        "log_marginal_likelihood": -812.21 if tuned else None,
        "cost": {
            "fit_seconds": seconds,
            "predict_seconds": 4e-6 * n * passes,
            "predict_points": n,
            "peak_bytes": 2.1e8 if "NTK" in label else None,
            "relative_forward": passes,
        },
        "diagnostics": {
            "jitter": 1e-6 if "NTK" in label else 0.0,
            "gradient norm": 1e-3,
        },
        "predictions": "predictions/x.npz",
    }


def _comparison(nll):
    best = min(nll, key=lambda label: nll[label].mean())
    differences = []
    for label, values in nll.items():
        if label == best:
            continue
        paired = values - nll[best]
        score = _mean(paired)
        z = score["value"] / score["se"]
        half = norm.ppf(1 - 0.025 / (len(nll) - 1)) * score["se"]
        differences.append(
            score
            | {
                "label": label,
                "interval": [score["value"] - half, score["value"] + half],
                "p": float(min(1.0, (len(nll) - 1) * 2 * norm.sf(abs(z)))),
                "distinguishable": bool(abs(score["value"]) > half),
                "caution": "fewer than 100 test points" if len(paired) < 100 else None,
            }
        )
    return {"score": "nll", "best": best, "differences": differences}


def _document(task, n, methods, comparison):
    return {
        "schema": SCHEMA,
        "provenance": {
            "ntkuq": "0.1.0",
            "versions": {"python": "3.12.1", "jax": "0.12.0", "numpy": "2.5.0"},
            "platform": "Linux-x86_64",
            "device": "cpu",
            "created": "2026-11-24T22:00:00Z",
            "command": "ntkuq compare nets:build --data concrete --out runs/a",
            "seed": 0,
            "dtype": "float32",
        },
        "problem": {
            "task": task,
            "fingerprint": "3f" * 32,
            "data": {
                "name": "concrete",
                "sha256": "a1" * 32,
                "n_train": 927,
                "n_calibrate": 0,
                "n_test": n,
                "features": ["cement", "slag", "ash", "water", "age"],
                "target": "strength",
                "units": "MPa",
                "classes": None,
                "warnings": [],
            },
            "network": {
                "text": "MLP 8-50-50-1, tanh",
                "parameters": 3051,
                "weights": None,
            },
            "likelihood": "Gaussian()",
            "prior": "NormalPrior(precision=1.0)",
            "scaling": "Standardize()",
        },
        "methods": methods,
        "comparison": comparison,
        "verdict": [],
    }
