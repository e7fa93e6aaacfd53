"""The report as one HTML page: no scripts, nothing loaded, always the same bytes."""

from . import figures
from .document import Document, validate
from .escape import plain
from .methods import short_label
from .page import Page
from .sections import CODE_WORDS, anchors, sections, subtitle, title
from .sections.blocks import Figure, Listing, Missing, Table, Text


def page(document: Document, baseline: Document | None = None) -> str:
    """The whole report.

    Args:
        document: a run document; checked first.
        baseline: another run, to tell what changed since; checked too.

    Returns:
        HTML text. Everything from the document is escaped.

    Raises:
        DocumentError: the document is not usable.
        ModuleNotFoundError: jinja2 or matplotlib is not installed.
    """
    validate(document)
    if baseline is not None:
        validate(baseline)
    made = document["provenance"]
    return render(
        Page(
            title=title(document),
            subtitle=subtitle(document),
            verdict=tuple(document["verdict"]),
            sections=sections(document, baseline),
            draw=lambda key: figures.drawn(document, key),
            version=plain(made.get("ntkuq") or "version not recorded"),
            created=plain(made.get("created") or "date not recorded"),
            schema=document["schema"],
        )
    )


def render(page: Page) -> str:
    """A page of any kind of document.

    Returns:
        HTML text. Everything in it is escaped.

    Raises:
        ModuleNotFoundError: jinja2 or matplotlib is not installed.
    """
    import jinja2
    from markupsafe import Markup

    def drawing(figure: Figure) -> Markup:
        # The figure's labels were escaped when it was written as SVG.
        return Markup(  # noqa: S704
            figures.as_svg(
                lambda: page.draw(figure.key),
                figure.key,
                figure.title,
                figure.description,
            )
        )

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ntkuq.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=page.title,
        subtitle=page.subtitle,
        verdict=page.verdict,
        sections=page.sections,
        kind=_kind,
        drawing=drawing,
        dark_colors=figures.dark_colors(),
        plain=plain,
        short_label=short_label,
        words={**CODE_WORDS, **page.words},
        anchors=anchors(page.sections),
        version=page.version,
        created=page.created,
        schema=page.schema,
    )


def _kind(block: object) -> str:
    """Which part of the template shows a block."""
    names = {
        Table: "table",
        Text: "text",
        Listing: "listing",
        Figure: "figure",
        Missing: "missing",
    }
    return names[type(block)]
