"""Text from outside, made safe for each view.

Labels, names, reasons and commands come from files and from users. `plain` removes what
no view can show; the other functions quote what means something to one view. HTML is
escaped by jinja2, and the terminal view builds text objects without markup.
"""

import re
import unicodedata


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\u00a0": "~",
    "\u202f": r"\,",
    "\u2212": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "µ": r"$\mu$",
    "…": r"\ldots{}",
    "–": "--",
}


def plain(text: object) -> str:
    r"""One line of printable text: no control, direction or unpaired characters.

    >>> plain("a\n\x1b[31mb\u202ec")
    'a [31mbc'
    """
    spaced = re.sub(r"[\t\n\r\f\v\u2028\u2029\x85]+", " ", str(text))
    return "".join(c for c in spaced if unicodedata.category(c) not in _UNSHOWN).strip()


_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def shorten(text: str, length: int) -> str:
    """The text, its end replaced by an ellipsis beyond a length.

    >>> shorten("Laplace (KFAC)", 9)
    'Laplace …'
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def markdown(text: object) -> str:
    r"""Quote text for GitHub-flavored Markdown, also inside a table.

    >>> markdown("a|b <img> [x](y) p_0")
    'a\\|b &lt;img&gt; [x]\\(y) p\\_0'
    """
    quoted = plain(text).replace("&", "&amp;")
    quoted = re.sub(r"([\\`*_{}#|~$])", r"\\\1", quoted)
    quoted = quoted.replace("<", "&lt;").replace(">", "&gt;")
    quoted = re.sub(r"\]([(\[:])", r"]\\\1", quoted)
    return quoted.replace("://", "\\://").replace("www.", "www\\.")


def fence(text: str) -> str:
    """The shortest code fence that the text does not contain."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def latex(text: object) -> str:
    r"""Quote text for LaTeX.

    >>> latex(r"\input{x} 90 %")
    '\\textbackslash{}input\\{x\\} 90 \\%'
    """
    return "".join(_LATEX.get(c, c) for c in plain(text))


def cell(text: object) -> str:
    """Quote text for a CSV cell, so that no spreadsheet takes it for a formula.

    >>> cell("=1+1"), cell("MAP")
    ("'=1+1", 'MAP')
    """
    shown = plain(text)
    return "'" + shown if shown.startswith(("=", "+", "-", "@")) else shown
