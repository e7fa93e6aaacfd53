"""Which uncertainty to trust for a JAX network, at what cost, and why.

The names are listed in `__init__.pyi` and load on first use, so that `import ntkuq`
answers at once: JAX, NumPyro, ArviZ and matplotlib load where they are needed.

Doctest:
    >>> import ntkuq as nq
    >>> nq.Gaussian.__name__
    'Gaussian'
"""

from importlib import metadata

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = metadata.version("ntkuq")
