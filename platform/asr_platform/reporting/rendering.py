"""HTML pages from the Jinja templates in `templates/`."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader

TEMPLATES = Environment(
    loader=PackageLoader("asr_platform.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def rendered(template: str, **values: Any) -> str:
    """The page of a template, such as `report.html.jinja`; all values are escaped but those that are `Markup`."""
    return TEMPLATES.get_template(template).render(**values)
