"""The templates of every HTML page: values are escaped, and an undefined one is an error."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **context: Any) -> str:
    """The page that a template of this folder makes."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "number": number, "p": p_value}
    environment.filters["whole"] = whole
    return environment.get_template(template).render(**context)


def percent(value: float | None) -> str:
    """A share."""
    return "–" if value is None else f"{value:.1%}"


def points(value: float | None) -> str:
    """A difference of shares, in percentage points."""
    return "–" if value is None else f"{value * 100:+.1f}"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number."""
    return "–" if value is None else f"{value:.{digits}f}"


def whole(value: int | None) -> str:
    """A whole number."""
    return "–" if value is None else f"{value:,}"


def p_value(value: float | None, at_floor: bool | None = False) -> str:
    """A p-value with two digits that count; no more than that where it is at its floor."""
    return "–" if value is None else f"{'≤ ' if at_floor else ''}{value:.2g}"
