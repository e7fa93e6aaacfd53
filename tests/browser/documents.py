"""Run documents for the browser: sound ones, and one in which all goes wrong."""

import copy

import equinox as eqx
import jax
import numpy as np

import ntkuq as nq
from ntkuq.report import verdict
from tests.report.conftest import (
    REGRESSION,
    classification_document as classification_document,
    regression_document as regression_document,
)


SCRIPT = "<script>document.title = 'taken over'; console.log('taken over')</script>"
IMAGE = '<img src="https://example.org/a.png" onerror="console.log(1)">'
LONG = "a_name_without_any_space_" * 12
WORDS = "a long label of many words that goes on " * 5
#: Labels of methods: markup, long, of other scripts, empty, alike.
LABELS = (
    SCRIPT,
    IMAGE,
    LONG,
    WORDS,
    "日本語の方法 🙂",
    "",
    "MAP",
    "MAP",
    "</svg></title></style><h1>out</h1>",
    "{{ 7 * 7 }} &lt;b&gt; & \" '",
)


def broken_document() -> dict:
    """Twelve methods: ten done, of which most lack something, one failed, one skipped.

    Every text that a user chooses holds markup, or is very long.
    """
    methods = tuple(
        (label, label or "MAP()", *REGRESSION[k % len(REGRESSION)][2:])
        for k, label in enumerate(LABELS)
    )
    document = copy.deepcopy(regression_document(n=80, methods=methods))
    done = document["methods"]
    for name in ("crps", "rmse", "coverage_90"):
        del done[0]["scores"][name]
    done[1]["scores"]["nll"] |= {"value": None, "se": None, "interval": None}
    done[2]["curves"] = None
    done[3]["cost"] = None
    done[4]["hyperparameters"] = [
        {"name": SCRIPT, "value": None, "se": None, "unit": IMAGE, "at_bound": True},
        {"name": LONG, "value": 1e-30, "se": 1e-31, "unit": LONG, "at_bound": False},
    ]
    done[5]["diagnostics"] = {SCRIPT: IMAGE, LONG: LONG, "": None}
    done[10]["reason"] = SCRIPT + LONG
    done[11]["reason"] = None
    data = document["problem"]["data"]
    data |= {
        "name": "concrete " + SCRIPT,
        "features": [SCRIPT, IMAGE, LONG, *(f"column {k}" for k in range(60))],
        "target": IMAGE,
        "units": "<b>MPa</b>",
        "warnings": [SCRIPT, "feature " + LONG + " is constant", WORDS * 4],
    }
    document["problem"] |= {"likelihood": SCRIPT, "prior": LONG, "scaling": IMAGE}
    document["problem"]["network"]["text"] = "MLP " + SCRIPT
    document["provenance"] |= {"command": LONG + SCRIPT, "device": IMAGE}
    document["comparison"]["differences"][0]["caution"] = SCRIPT
    return {**document, "verdict": verdict(document)}


def empty_document() -> dict:
    """No method finished: nothing to draw, nothing to compare."""
    document = copy.deepcopy(regression_document(n=80))
    for method in document["methods"]:
        method |= {"status": "failed", "reason": "out of memory: " + SCRIPT}
        method |= dict.fromkeys(("scores", "curves", "cost", "diagnostics"))
    document["comparison"] = None
    return {**document, "verdict": verdict(document)}


def compared_document() -> dict:
    """What `compare` writes for regression: groups with names, a calibrate part."""
    x, signal, noise = _inputs()
    groups = np.array(["north", "south of <b>", "a long name of a site"])
    site = groups[np.arange(len(x)) % 3]
    document = _compared(nq.Gaussian(), 1, signal + 0.3 * noise, x, group=site)
    rng = np.random.default_rng(3)
    for method in document["methods"]:
        method["severity"] = [
            {"shift": shift, "severity": s, "scores": _shifted(s, rng)}
            for shift in ("mean", "noise <i>")
            for s in range(6)
        ]
    return {**document, "verdict": verdict(document)}


def classes_document() -> dict:
    """What `compare` writes for three classes."""
    x, signal, noise = _inputs()
    names = ("<script>", "a class with a long name", "c")
    y = np.digitize(signal + 0.3 * noise, [-0.5, 0.5])
    return _compared(nq.Categorical(), 3, y, x, classes=names)


def _inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    return x, x[:, 0] - 0.5 * x[:, 1], rng.normal(size=400)


def _compared(likelihood, outputs, y, x, **options) -> dict:
    data = nq.Dataset(x, y, **options)

    def network(key):
        return eqx.nn.MLP(3, outputs, 6, 1, key=key)

    bnn = nq.BNN(nq.Network(network), likelihood, scaling=nq.Standardize())
    methods = {
        "MAP": nq.MAP(nq.Train(0.03, steps=100), rounds=2),
        "a <b>Laplace</b> with a long label": nq.Laplace(),
    }
    key = jax.random.key(0)
    split = data.split(train=0.4, calibrate=0.2, test=0.4, key=key)
    return dict(nq.compare(bnn, methods, split, key=key).document)


def _shifted(severity: int, rng: np.random.Generator) -> dict:
    value = 0.5 + 0.1 * severity + 0.02 * rng.standard_normal()
    score = {"value": value, "se": 0.02, "n": 160, "interval": [value - 0.04, value]}
    return dict.fromkeys(("nll", "rmse", "coverage_90"), score)
