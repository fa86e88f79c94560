"""An evidence bundle as PDF: tagged for readers aloud (PDF/UA-1), the same bytes on any day.

By typst: one wheel, no system packages, its own clock off. weasyprint needs Pango and fontconfig from the machine.
"""

import base64
import json
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.ft2font import FT2Font

from monitor.inspection import bundle_words as words
from monitor.inspection.bundle import Bundle, title
from monitor.inspection.bundle_page import curve
from monitor.inspection.bundle_words import COMPOSITE_TITLES, COMPOSITE_WORDS, Table
from monitor.inspection.figure import COLOUR

_TEMPLATE: Final = Path(__file__).with_name("bundle.typ")
# matplotlib's own fonts: the same on every machine, and letters of more scripts than typst's have.
_FONTS: Final = Path(mpl.get_data_path()) / "fonts" / "ttf"


def pdf(bundle: Bundle) -> bytes:
    """Return the document as PDF."""
    import typst  # only a PDF needs it

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundle.typ").write_bytes(_TEMPLATE.read_bytes())
        (folder / "curve.svg").write_bytes(curve(bundle))
        shown = json.dumps(_shown(bundle, folder), ensure_ascii=False)

        def made(text: str) -> bytes:
            (folder / "document.json").write_text(text, encoding="utf-8")
            compiled: bytes = typst.compile(
                str(folder / "bundle.typ"),
                root=str(folder),
                font_paths=[str(_FONTS)],
                ignore_system_fonts=True,
                format="pdf",
                pdf_standards="ua-1",
            )
            return compiled

        try:
            return made(shown)
        except typst.TypstError:
            # A letter and the marks on it are set in one font, and PDF/UA-1 refuses those of which none has all (U+1D165 on "a").
            return made(_displayable(shown))


def _displayable(text: str) -> str:
    """Return text with a replacement for each character that the template's font lacks, regular or bold."""
    regular, bold = (FT2Font(str(_FONTS / f"DejaVuSans{cut}.ttf")).get_charmap() for cut in ("", "-Bold"))
    return "".join(char if ord(char) in regular and ord(char) in bold else "\N{REPLACEMENT CHARACTER}" for char in text)


def _shown(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Return what the template shows; pictures are written beside it."""
    document = bundle.document
    by_kind = sorted(document["pictures"], key=lambda one: tuple(COMPOSITE_TITLES).index(one["composite"]))
    groups = []
    for composite, group in groupby(by_kind, key=lambda one: one["composite"]):
        shown = []
        for one in group:
            file = None
            if one["missing"] is None:
                file = f"{one['role']}-{composite}.png"
                (folder / file).write_bytes(base64.b64decode(one["png_base64"]))
            shown.append(
                {
                    "file": file,
                    "missing": words.text(one["missing"]),
                    "alt": words.alternative(one, document) if file else "",
                    "caption": words.caption(one),
                }
            )
        groups.append({"title": COMPOSITE_TITLES[composite], "words": COMPOSITE_WORDS[composite], "shown": shown})
    return {
        "title": words.text(title(document)),
        "as_known_at": words.minute(document["as_known_at"]),
        "in_plain_words": words.text(document["in_plain_words"]),
        "why": words.text(document["why"]),
        "colour": COLOUR.get(document["alert"]["colour"], "#555555"),
        "facts": words.facts(document),
        "reading": words.READING,
        "pictures": groups,
        "curve_words": words.CURVE_WORDS,
        "curve_alt": words.CURVE_ALT,
        "tables": [_table(one) for one in words.tables(document)],
        "limits": words.LIMITS,
    }


def _table(table: Table) -> dict[str, Any]:
    """Return a table with its columns' widths, as their longest cells are, within bounds."""
    widths = [
        min(max(len(str(cell)) for cell in column), 40) + 4 for column in zip(table.headers, *table.rows, strict=True)
    ]
    return {"caption": words.text(table.caption), "headers": table.headers, "rows": table.rows, "widths": widths}
