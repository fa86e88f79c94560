"""The form of a blind review: a page or a table that shows what was observed of parcels, and nothing that was found of them.

Rows of a history pass through `observed` first, so that whatever is added to histories stays out until it is named there.
"""

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from db.history import HistoryRow
from db.quality import FormRow
from monitor.quality.verdicts import CHOICES
from terminal.output import inert, printable

SHOWN: Final = ("s1", "s2", "ndvi")
"""Kinds of a history's rows that a reviewer may see: observations, and the daily curve that was made of them."""
COLUMNS: Final = ("sample", "item", "parcel", "declared", "area_ha", "longitude", "latitude", "verdict", "why", "by")


@dataclass(frozen=True)
class Sheet:
    """What a form shows of one parcel."""

    row: FormRow
    figure: bytes
    """PNG."""
    chips: Sequence[tuple[str, bytes]] = ()
    """Pictures cut from scenes, each with its caption, as PNG."""


def observed(rows: Iterable[HistoryRow]) -> list[HistoryRow]:
    """Return what was observed, of all that is known of a parcel."""
    return [one for one in rows if one.kind in SHOWN]


def table(sample_key: int, rows: Iterable[FormRow], by: str) -> str:
    """Return the form as CSV, to be filled in; what a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for one in rows:
        writer.writerow(
            {
                "sample": sample_key,
                "item": one.item,
                "parcel": inert(one.source_id),
                "declared": inert(one.declared_crop or "nothing"),
                "area_ha": "" if one.area_ha is None else f"{one.area_ha:.2f}",
                "longitude": "" if one.longitude is None else f"{one.longitude:.5f}",
                "latitude": "" if one.latitude is None else f"{one.latitude:.5f}",
                "by": inert(by),
            }
        )
    return out.getvalue()


def page(sample_key: int, title: str, sheets: Iterable[Sheet], by: str) -> Iterator[str]:
    """Yield the form as one page that needs nothing else: it is filled in, in a browser, and saved as the CSV to import."""
    choices = "".join(f"<li><b>{name.replace('_', ' ')}</b>: {escape(means)}</li>" for name, means in CHOICES.items())
    yield (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f'<body data-sample="{sample_key}"><h1>{escape(title)}</h1><p>Say of each parcel what you see. A reason is needed wherever '
        f'the parcel is not as it was declared. Reviewer: <input id=by value="{escape(printable(by))}"></p><ul>{choices}</ul>'
    )
    for one in sheets:
        yield _sheet(one)
    yield f"<p><button onclick=save()>Save as CSV</button></p><script>{_SCRIPT}</script></body></html>\n"


def _sheet(sheet: Sheet) -> str:
    row = sheet.row
    place = "" if row.longitude is None else f", at {row.latitude:.5f} N {row.longitude:.5f} E"
    area = "" if row.area_ha is None else f", {row.area_ha:.2f} ha"
    declared = escape(printable(row.declared_crop or "nothing"))
    chips = "".join(
        f'<figure><img src="{_data(png)}" alt=""><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, png in sheet.chips
    )
    radios = "".join(
        f'<label><input type=radio name="v{row.item}" value="{name}">{name.replace("_", " ")}</label> '
        for name in CHOICES
    )
    return (
        f'<section data-item="{row.item}"><h2>{row.item}: declared {declared}</h2>'
        f"<p>parcel {escape(printable(row.source_id))}{area}{place}</p>"
        f'<img src="{_data(sheet.figure)}" alt="NDVI and backscatter of the season">{chips}'
        f'<p>{radios}</p><p><input class=why placeholder="why" size=80></p></section>'
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


_STYLE: Final = (
    "body{font:16px sans-serif;margin:2em auto;max-width:60em}img{max-width:100%}"
    "section{border-top:1px solid;page-break-after:always}"
)
_SCRIPT: Final = r"""
function save() {
  const cell = text => '"' + String(text).replace(/"/g, '""') + '"';
  const lines = [['sample', 'item', 'verdict', 'why', 'by']];
  for (const one of document.querySelectorAll('section')) {
    const chosen = one.querySelector('input[type=radio]:checked');
    if (chosen) lines.push([document.body.dataset.sample, one.dataset.item, chosen.value, one.querySelector('.why').value,
                            document.getElementById('by').value]);
  }
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([lines.map(line => line.map(cell).join(',')).join('\r\n')], {type: 'text/csv'}));
  link.download = 'sample-' + document.body.dataset.sample + '.csv';
  link.click();
}
"""
