"""The run document and its views: page, Markdown, tables, terminal.

A run document (`run.json`) holds everything a report says; the views only draw it. The
names are listed in `__init__.pyi` and load on first use: a view of a stored run needs
no JAX.
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
