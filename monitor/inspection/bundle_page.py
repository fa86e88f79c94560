"""An evidence bundle as one HTML page: pictures and curve inside it, nothing from elsewhere, no script.

Text from outside (crops, parcels, reasons) is only ever escaped text: no markup of it, no attribute but `alt`, no address. Beside that
the page forbids itself everything but its own style and pictures (Content-Security-Policy).
"""

import base64
import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from monitor.inspection import bundle_words as words
from monitor.inspection.bundle import Bundle, title
from monitor.inspection.bundle_words import COMPOSITE_TITLES, COMPOSITE_WORDS, Table
from monitor.inspection.figure import STYLE, Setting, season_figure

_CSS: Final = Path(__file__).with_name("bundle.css").read_text(encoding="utf-8")
_LONG: Final = 24
"""Letters of the longest word that is never broken."""
_OPEN: Final = 1
"""Tables that stand open: the log; the others unfold."""


def page(bundle: Bundle) -> bytes:
    """Return the page."""
    document = bundle.document
    style = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    parts = [
        f"<h1>{_text(title(document))}</h1>",
        f"<p>As known at {_text(words.minute(document['as_known_at']))}.</p>",
        "<h2>Why</h2>",
        f"<p>{_text(document['in_plain_words'])}</p>",
        f'<p class="why {_colour(document)}">{_text(document["why"])}</p>',
        "<h2>The alert</h2>",
        f"<dl>{''.join(f'<dt>{_text(what)}</dt><dd>{_text(said)}</dd>' for what, said in words.facts(document))}</dl>",
        "<h2>Pictures before and after</h2>",
        f"<p>{_text(words.READING)}</p>",
        *_pictures(document),
        "<h2>The season</h2>",
        f"<p>{_text(words.CURVE_WORDS)}</p>",
        _wide("Curves of the season", _image(curve(bundle), "svg+xml", words.CURVE_ALT)),
        "<h2>Records</h2>",
        *(_table(one, is_open=place < _OPEN) for place, one in enumerate(words.tables(document))),
        f"<h2>What this page is</h2><p>{_text(words.LIMITS)}</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(title(document))}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    ).encode()


def curve(bundle: Bundle) -> bytes:
    """Return the figure of the season as SVG: the same bytes on any day, with letters as outlines."""
    alert = bundle.document["alert"]
    declared = f"declared: {alert['declared_crop'] or 'nothing'}"
    subtitle = f"{declared}; as known at {words.minute(bundle.document['as_known_at'])}"
    # What a user's own style of matplotlib says, and the salt of names in the file, which is random otherwise.
    fixed: Any = {"svg.hashsalt": "parcelwatch", "svg.fonttype": "path"}
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # names in scripts that the font lacks become boxes
        mpl.rcParams.update(
            {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith(("backend", "date.epoch"))}
        )
        mpl.rcParams.update(fixed)
        figure = season_figure(
            bundle.rows,
            f"{alert['collection']} {alert['parcel']}, season {alert['season']}",
            Setting(bundle.season, subtitle),
        )
        file = io.BytesIO()
        with mpl.rc_context(STYLE):
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _pictures(document: Mapping[str, Any]) -> Iterable[str]:
    by_kind = sorted(document["pictures"], key=lambda one: tuple(COMPOSITE_TITLES).index(one["composite"]))
    for composite, group in groupby(by_kind, key=lambda one: one["composite"]):
        yield f"<h3>{_text(COMPOSITE_TITLES[composite])}</h3><p>{_text(COMPOSITE_WORDS[composite])}</p>"
        yield f'<div class="pair">{"".join(_picture(one, document) for one in group)}</div>'


def _picture(one: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    said = f"<figcaption>{_text(words.caption(one))}</figcaption>"
    if one["missing"] is not None:
        return f'<figure><div class="missing">No picture: {_text(one["missing"])}.</div>{said}</figure>'
    shown = _image(base64.b64decode(one["png_base64"]), "png", words.alternative(one, document))
    return f"<figure>{shown}{said}</figure>"


def _image(content: bytes, kind: str, alternative: str) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(content).decode()}" alt="{_text(alternative)}">'


def _table(table: Table, *, is_open: bool) -> str:
    if not table.rows:
        return f"<p>{_text(table.caption)}: none.</p>"
    head = "".join(f'<th scope="col">{_text(one)}</th>' for one in table.headers)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in table.rows)
    caption = _text(table.caption)
    inner = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    shown = _wide(table.caption, inner)
    if is_open:
        return shown
    return f"<details><summary>{_text(table.caption)} ({len(table.rows)})</summary>{shown}</details>"


def _wide(label: str, inner: str) -> str:
    """Return what may be wider than a telephone: it scrolls by itself, by keys too."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{_text(label)}">{inner}</div>'


def _cells(row: Sequence[str]) -> str:
    return "".join(f'<td class="long">{_text(one)}</td>' if _is_long(one) else f"<td>{_text(one)}</td>" for one in row)


def _is_long(cell: str) -> bool:
    """Return whether a cell has a word that must be broken: a digest, a scene's name."""
    return max((len(word) for word in cell.split()), default=0) > _LONG


def _colour(document: Mapping[str, Any]) -> str:
    colour = document["alert"]["colour"]
    return colour if colour in words.SHAPES else ""


def _text(value: object) -> str:
    """Return text from anywhere as HTML shows it literally, in an element or a quoted attribute."""
    return escape(words.text(value), quote=True)
