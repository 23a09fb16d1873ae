"""HTML pages from the Jinja templates in `templates/`; Jinja escapes all text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asr_platform.analysis.text import counted, enumerated, enumerated_trials, short_value
from trainables.evaluation.metrics import objective_text

if TYPE_CHECKING:  # importing it takes a second
    import plotly.graph_objects as go

PLOTLY = {"config": {"responsive": True, "displayModeBar": False}, "include_plotlyjs": False, "full_html": False}

TEMPLATES = Environment(
    loader=PackageLoader("asr_platform.reporting"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
for function in (counted, enumerated, enumerated_trials, objective_text, short_value):
    TEMPLATES.filters[function.__name__] = function


class Figure(NamedTuple):
    """A figure of the report with its texts.

    Args:
        caption: description of the figure.
        conclusion: result that the figure shows.
        note: remark in small type.
    """

    figure: go.Figure
    caption: str
    conclusion: str
    note: str = ""

    def html(self, id: str) -> Markup:
        """The figure as an HTML element with this id, as wide as the page."""
        return Markup(self.figure.to_html(**PLOTLY, div_id=id))


def rendered(template: str, **values: Any) -> str:
    """Renders a template, such as `report.html.jinja`, with these values."""
    return TEMPLATES.get_template(template).render(**values)
