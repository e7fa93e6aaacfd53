"""What to cite for a run: references by the constructor names in its methods."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from .document import Document


class Reference(NamedTuple):
    """One work, as needed for a BibTeX entry."""

    key: str
    authors: str
    title: str
    venue: str
    year: int
    identifier: str  # "arXiv:…" or "doi:…"


_PAPER = Reference(
    "wenger2023disconnect",
    "Wenger, Jonathan and Dangel, Felix and Kristiadi, Agustinus",
    "On the Disconnect Between Theory and Practice of Neural Networks: Limits of the"
    " NTK Perspective",
    "arXiv preprint",
    2023,
    "arXiv:2310.00137",
)
_SCORES = Reference(
    "gneiting2007strictly",
    "Gneiting, Tilmann and Raftery, Adrian E.",
    "Strictly Proper Scoring Rules, Prediction, and Estimation",
    "Journal of the American Statistical Association",
    2007,
    "doi:10.1198/016214506000001437",
)
_LAPLACE = Reference(
    "daxberger2021laplace",
    "Daxberger, Erik and Kristiadi, Agustinus and Immer, Alexander and Eschenhagen,"
    " Runa and Bauer, Matthias and Hennig, Philipp",
    "Laplace Redux: Effortless Bayesian Deep Learning",
    "Advances in Neural Information Processing Systems",
    2021,
    "arXiv:2106.14806",
)
_KFAC = Reference(
    "martens2015optimizing",
    "Martens, James and Grosse, Roger",
    "Optimizing Neural Networks with Kronecker-Factored Approximate Curvature",
    "International Conference on Machine Learning",
    2015,
    "arXiv:1503.05671",
)
_NTK = Reference(
    "jacot2018neural",
    "Jacot, Arthur and Gabriel, Franck and Hongler, Clément",
    "Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
    "Advances in Neural Information Processing Systems",
    2018,
    "arXiv:1806.07572",
)
_ENSEMBLE = Reference(
    "lakshminarayanan2017simple",
    "Lakshminarayanan, Balaji and Pritzel, Alexander and Blundell, Charles",
    "Simple and Scalable Predictive Uncertainty Estimation Using Deep Ensembles",
    "Advances in Neural Information Processing Systems",
    2017,
    "arXiv:1612.01474",
)
_NUTS = Reference(
    "hoffman2014nuts",
    "Hoffman, Matthew D. and Gelman, Andrew",
    "The No-U-Turn Sampler: Adaptively Setting Path Lengths in Hamiltonian Monte Carlo",
    "Journal of Machine Learning Research",
    2014,
    "arXiv:1111.4246",
)

_NNGP = Reference(
    "lee2018deep",
    "Lee, Jaehoon and Bahri, Yasaman and Novak, Roman and Schoenholz, Samuel S. and"
    " Pennington, Jeffrey and Sohl-Dickstein, Jascha",
    "Deep Neural Networks as Gaussian Processes",
    "International Conference on Learning Representations",
    2018,
    "arXiv:1711.00165",
)
_WIDE = Reference(
    "lee2019wide",
    "Lee, Jaehoon and Xiao, Lechao and Schoenholz, Samuel S. and Bahri, Yasaman and"
    " Novak, Roman and Sohl-Dickstein, Jascha and Pennington, Jeffrey",
    "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent",
    "Advances in Neural Information Processing Systems",
    2019,
    "arXiv:1902.06720",
)
_SLICE = Reference(
    "murray2010elliptical",
    "Murray, Iain and Adams, Ryan Prescott and MacKay, David J. C.",
    "Elliptical Slice Sampling",
    "International Conference on Artificial Intelligence and Statistics",
    2010,
    "arXiv:1001.0175",
)
_AWARE = Reference(
    "wenger2022posterior",
    "Wenger, Jonathan and Pleiss, Geoff and Pförtner, Marvin and Hennig, Philipp and"
    " Cunningham, John P.",
    "Posterior and Computational Uncertainty in Gaussian Processes",
    "Advances in Neural Information Processing Systems",
    2022,
    "arXiv:2205.15449",
)

_MIXTURE = Reference(
    "eschenhagen2021mixtures",
    "Eschenhagen, Runa and Daxberger, Erik and Hennig, Philipp and Kristiadi,"
    " Agustinus",
    "Mixtures of Laplace Approximations for Improved Post-Hoc Uncertainty in Deep"
    " Learning",
    "Bayesian Deep Learning Workshop, NeurIPS",
    2021,
    "arXiv:2111.03577",
)
_RANDOMIZED = Reference(
    "osband2018randomized",
    "Osband, Ian and Aslanides, John and Cassirer, Albin",
    "Randomized Prior Functions for Deep Reinforcement Learning",
    "Advances in Neural Information Processing Systems",
    2018,
    "arXiv:1806.03335",
)
_ANCHORED = Reference(
    "pearce2020uncertainty",
    "Pearce, Tim and Leibfried, Felix and Brintrup, Alexandra",
    "Uncertainty in Neural Networks: Approximately Bayesian Ensembling",
    "International Conference on Artificial Intelligence and Statistics",
    2020,
    "arXiv:1810.05546",
)
_SNAPSHOT = Reference(
    "huang2017snapshot",
    "Huang, Gao and Li, Yixuan and Pleiss, Geoff and Liu, Zhuang and Hopcroft, John E."
    " and Weinberger, Kilian Q.",
    "Snapshot Ensembles: Train 1, Get M for Free",
    "International Conference on Learning Representations",
    2017,
    "arXiv:1704.00109",
)
_NTKGP = Reference(
    "he2020bayesian",
    "He, Bobby and Lakshminarayanan, Balaji and Teh, Yee Whye",
    "Bayesian Deep Ensembles via the Neural Tangent Kernel",
    "Advances in Neural Information Processing Systems",
    2020,
    "arXiv:2007.05864",
)
_SWAG = Reference(
    "maddox2019simple",
    "Maddox, Wesley J. and Garipov, Timur and Izmailov, Pavel and Vetrov, Dmitry and"
    " Wilson, Andrew Gordon",
    "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
    "Advances in Neural Information Processing Systems",
    2019,
    "arXiv:1902.02476",
)
_DROPOUT = Reference(
    "gal2016dropout",
    "Gal, Yarin and Ghahramani, Zoubin",
    "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep"
    " Learning",
    "International Conference on Machine Learning",
    2016,
    "arXiv:1506.02142",
)
_CYCLICAL = Reference(
    "zhang2020cyclical",
    "Zhang, Ruqi and Li, Chunyuan and Zhang, Jianyi and Chen, Changyou and Wilson,"
    " Andrew Gordon",
    "Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning",
    "International Conference on Learning Representations",
    2020,
    "arXiv:1902.03932",
)
_NUMPYRO = Reference(
    "phan2019composable",
    "Phan, Du and Pradhan, Neeraj and Jankowiak, Martin",
    "Composable Effects for Flexible and Accelerated Probabilistic Programming in"
    " NumPyro",
    "arXiv preprint",
    2019,
    "arXiv:1912.11554",
)

_BY_NAME: Mapping[str, Reference] = {
    "Laplace": _LAPLACE,
    "KFAC": _KFAC,
    "NTKGP": _NTK,
    "NNGP": _NNGP,
    "LabelRegression": _NNGP,
    "WideEnsemble": _WIDE,
    "EllipticalSlice": _SLICE,
    "ComputationAware": _AWARE,
    "DeepEnsemble": _ENSEMBLE,
    "Mixture": _MIXTURE,
    "RandomizedPrior": _RANDOMIZED,
    "Anchored": _ANCHORED,
    "Snapshot": _SNAPSHOT,
    "NTKGPParam": _NTKGP,
    "NTKGPFn": _NTKGP,
    "NTKGPLin": _NTKGP,
    "NUTS": _NUTS,
    "SWAG": _SWAG,
    "MCDropout": _DROPOUT,
    "Variational": _NUMPYRO,
    "SGMCMC": _CYCLICAL,
}


def references(document: Document) -> tuple[Reference, ...]:
    """The works behind a run: the paper, its scores, and its methods' constructors."""
    names = {
        name
        for method in document["methods"]
        for name in re.findall(r"\b([A-Za-z_]\w*)\(", method["text"])
    }
    found = [reference for name, reference in _BY_NAME.items() if name in names]
    # two methods may have one work
    return (_PAPER, _SCORES, *dict.fromkeys(found))


def bibtex(document: Document) -> str:
    """The references of a run as BibTeX entries."""
    return "\n\n".join(_entry(reference) for reference in references(document))


def _entry(reference: Reference) -> str:
    kind, _, number = reference.identifier.partition(":")
    fields = {
        "author": reference.authors,
        "title": "{" + reference.title + "}",
        "journal": reference.venue,
        "year": str(reference.year),
    }
    fields |= (
        {"eprint": number, "archivePrefix": "arXiv"}
        if kind == "arXiv"
        else {"doi": number}
    )
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@article{{{reference.key},\n{lines}\n}}"
