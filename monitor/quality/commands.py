"""`parcelwatch quality`: random samples, blind reviews, and what lights are worth with that."""

import json
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from db import chips
from db import quality as store
from db.connect import Connection, engine
from db.quality import StoredSampleRow, VerdictRow
from db.seasons import season_by_name
from devstack.addresses import resolve_dsn
from monitor.errors import NotFound
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson, CollectionOption, SeasonOption, TimeOption
from monitor.inspection.listing import records
from monitor.quality import filled, form, review, samples, sampling
from monitor.quality.sampling import Allocation
from monitor.quality.verdicts import CHOICES
from terminal.output import console, plain, progress
from terminal.times import shown

app = typer.Typer(no_args_is_help=True, help="Measure what lights are worth, also of parcels that nobody alerted.")
reviews = typer.Typer(no_args_is_help=True, help="Review sampled parcels without seeing what was found of them.")
app.add_typer(reviews, name="review")

SampleArgument = Annotated[
    int, typer.Argument(metavar="SAMPLE", min=1, max=2**63 - 1, help="as `quality list` shows it")
]
ByOption = Annotated[
    str | None, typer.Option(help="who reviews, else the user of this machine", callback=arguments.note)
]
MOST_FORM_BYTES = 2**26
"""Size of a filled form; chosen as a thousand times what a sample needs."""


def _expected(given: list[str]) -> list[str]:
    """Check shares of wrong lights as LIGHT=SHARE; raises BadParameter."""
    for one in given:
        light, _, share = one.partition("=")
        try:
            is_right = light in sampling.EXPECTED_WRONG and 0 < float(share) < 1
        except ValueError:
            is_right = False
        if not is_right:
            lights = ", ".join(sampling.EXPECTED_WRONG)
            raise typer.BadParameter(
                f"{arguments.storable(one)!r}: write LIGHT=SHARE, as red=0.3, a share between 0 and 1; lights: {lights}"
            )
    return given


def _allocation(name: str) -> str:
    if name not in ("proportional", "neyman"):
        raise typer.BadParameter(f"{arguments.storable(name)!r} is no allocation; known: proportional, neyman")
    return name


# More than six: the options of the command line.
@app.command()
def sample(
    season: Annotated[str, typer.Option(help="season of the parcels", callback=arguments.storable)],
    why: Annotated[str, typer.Option("--why", help="why, in a sentence", callback=arguments.note)],
    collection: CollectionOption = None,
    as_known_at: TimeOption = None,
    half_width: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="wanted of the interval of the share of wrong lights among all parcels"),
    ] = 0.03,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="of that interval")] = 0.95,
    size: Annotated[int | None, typer.Option(min=1, help="a number of parcels, in the place of --half-width")] = None,
    allocation: Annotated[str, typer.Option(help="proportional, neyman", callback=_allocation)] = "proportional",
    minimum: Annotated[int, typer.Option(min=1, help="parcels of each stratum at least")] = 2,
    crops: Annotated[int, typer.Option(min=0, help="most frequent crops that have strata of their own")] = 10,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="expected share of wrong lights, as red=0.3", callback=lambda v: _expected(v or [])),
    ] = None,
    second: Annotated[float, typer.Option(min=0, max=1, help="share that two people review")] = 0.1,
    seed: Annotated[str | None, typer.Option(help="else one by chance; it is stored", callback=arguments.note)] = None,
    by: Annotated[
        str | None, typer.Option(help="who draws, else the user of this machine", callback=arguments.note)
    ] = None,
) -> None:
    """Draw a random sample of all parcels, stratified by light and crop."""
    expected = {light: float(share) for light, _, share in (one.partition("=") for one in expect or [])}
    with engine(resolve_dsn()).begin() as connection:
        order = samples.Order(
            season=season_by_name(connection, season),
            collection=arguments.the_collection(connection, season, collection),
            by=by or arguments.operator(),
            why=why,
            seed=seed or secrets.token_hex(8),
            as_known_at=as_known_at,
            allocation=cast(Allocation, allocation),
            confidence=confidence,
            half_width=half_width,
            n=size,
            minimum=minimum,
            n_crops=crops,
            expected_wrong={**sampling.EXPECTED_WRONG, **expected},
            second_share=second,
        )
        drawn = samples.draw(connection, order, datetime.now(UTC))
    n_parcels = sum(one.n_parcels for one in drawn.strata)
    console.print(
        plain(
            f"sample {drawn.sample_key}: {drawn.n} of {n_parcels} parcels in {len(drawn.strata)} strata, "
            f"as known at {shown(drawn.as_known_at)}, seed {order.seed}"
        ),
        soft_wrap=True,
    )
    console.print(
        f"expected half-width {drawn.half_width:.3f} at {confidence:g}; next: "
        f"`parcelwatch quality review export {drawn.sample_key} form.html`",
        soft_wrap=True,
    )


@app.command("list")
def list_samples(season: SeasonOption = None, collection: CollectionOption = None, as_json: AsJson = False) -> None:
    """List samples, and how far their reviews are."""
    with engine(resolve_dsn()).connect() as connection:
        rows = store.samples(connection, season, collection)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(asdict(row), default=str))
        return
    if not rows:
        console.print("no sample is drawn: `parcelwatch quality sample`")
        return
    columns = {
        "sample": [str(row.sample_key) for row in rows],
        "collection, season": [plain(f"{row.collection}, {row.season}") for row in rows],
        "as known at": [f"{row.as_known_at:%Y-%m-%d %H:%M}" for row in rows],
        "parcels": [f"{row.n_sampled} of {row.n_parcels}" for row in rows],
        "reviewed": [str(row.n_reviewed) for row in rows],
        "seed": [plain(row.seed) for row in rows],
        "why": [plain(row.reason) for row in rows],
    }
    console.print(records(columns))


@app.command()
def pictures(
    sample: SampleArgument,
    stop: Annotated[
        bool, typer.Option("--stop", help="let later scenes be, and retention remove what was cut")
    ] = False,
) -> None:
    """End the pictures of the sampled parcels that every later scene is cut to (--stop), or begin them again."""
    with engine(resolve_dsn()).begin() as connection:
        review.the_sample(connection, sample)
        keys = [one.parcel_key for one in store.form_rows(connection, sample)]
        if stop:
            chips.unsample(connection, keys)
        else:
            chips.sample(connection, keys, datetime.now(UTC))
    console.print(f"{len(keys)} parcels {'have no further pictures' if stop else 'have pictures of every later scene'}")


@reviews.command()
def export(
    sample: SampleArgument,
    file: Annotated[Path, typer.Argument(help="FILE.html, a page with curves to fill in; or FILE.csv, a table")],
    by: ByOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many parcels")] = None,
    as_known_at: TimeOption = None,
) -> None:
    """Write the form of the parcels that a person is still to review; it says nothing of what was found of them."""
    if file.suffix.lower() not in (".html", ".csv"):
        raise typer.BadParameter(f"{arguments.storable(file.name)!r} is neither .html nor .csv")
    who = by or arguments.operator()
    with engine(resolve_dsn()).connect() as connection:
        its = review.the_sample(connection, sample)
        rows = review.left_to_review(connection, sample, who)[:limit]
        if not rows:
            raise NotFound(f"nothing of sample {sample} is left for {who} to review")
        try:
            if file.suffix.lower() == ".csv":
                file.write_text(form.table(sample, rows, who), encoding="utf-8", newline="")
            else:
                _write_page(connection, its, rows, who, file, as_known_at)
        except OSError as error:
            raise NotFound(f"{arguments.storable(str(file))} cannot be written: {error.strerror}") from error
    console.print(plain(f"{len(rows)} parcels for {who}: {file}"), soft_wrap=True)


# More than six: what a page is made of.
def _write_page(
    connection: Connection, its: StoredSampleRow, rows: Any, who: str, file: Path, as_known_at: datetime | None
) -> None:
    season = season_by_name(connection, its.season)
    title = f"Review of sample {its.sample_key}: {its.collection}, season {its.season}"
    with file.open("w", encoding="utf-8") as out, progress("form") as steps:
        sheets = review.sheets(connection, its, rows, season, as_known_at)
        for nr, part in enumerate(form.page(its.sample_key, title, sheets, who)):
            out.write(part)
            steps.to(min(nr, len(rows)), len(rows), "parcels")


@reviews.command()
def record(
    sample: SampleArgument,
    item: Annotated[int, typer.Argument(metavar="ITEM", min=1, max=2**31 - 1, help="the parcel's number in the form")],
    verdict: Annotated[str, typer.Option(help=", ".join(CHOICES), callback=arguments.storable)],
    why: Annotated[str, typer.Option("--why", help="why, in a sentence", callback=arguments.note)],
    by: ByOption = None,
) -> None:
    """Record a verdict on one parcel of a sample. A later one of the same reviewer counts in its place; both are kept."""
    if verdict not in CHOICES:
        raise typer.BadParameter(f"{verdict!r} is no verdict; known: {', '.join(CHOICES)}")
    who = by or arguments.operator()
    with engine(resolve_dsn()).begin() as connection:
        its = review.the_sample(connection, sample)
        if item > its.n_sampled:
            raise NotFound(f"sample {sample} has no item {item}; it has 1 to {its.n_sampled}")
        store.record_verdicts(connection, sample, [VerdictRow(item, verdict, who, why)], datetime.now(UTC))
    console.print(plain(f"{verdict.replace('_', ' ')} by {who}: item {item} of sample {sample}"), soft_wrap=True)


@reviews.command("import")
def import_form(
    sample: SampleArgument,
    file: Annotated[Path, typer.Argument(help="the form, filled in, as CSV")],
    by: Annotated[
        str | None, typer.Option(help="who reviewed, where a line does not say", callback=arguments.note)
    ] = None,
) -> None:
    """Record the verdicts of a filled form: all of them, or none where a line is wrong."""
    name = arguments.storable(str(file))
    try:
        if file.stat().st_size > MOST_FORM_BYTES:
            raise NotFound(f"{name} is larger than {MOST_FORM_BYTES >> 20} MiB: it is no form of a review")
        content = file.read_bytes()
    except OSError as error:
        raise NotFound(f"{name} cannot be read: {error.strerror}") from error
    with engine(resolve_dsn()).begin() as connection:
        its = review.the_sample(connection, sample)
        lines = filled.read(content, sample, range(1, its.n_sampled + 1), by)
        wrong = [one for one in lines if isinstance(one, filled.Wrong)]
        verdicts = [one for one in lines if isinstance(one, VerdictRow)]
        for one in wrong:
            typer.echo(f"{name} line {one.line} {one.why}", err=True)
        if wrong:
            raise NotFound(f"{name}: {len(wrong)} wrong {'line' if len(wrong) == 1 else 'lines'}: nothing was recorded")
        if not verdicts:
            raise NotFound(f"{name} has no verdict in it")
        store.record_verdicts(connection, sample, verdicts, datetime.now(UTC))
    console.print(plain(f"{len(verdicts)} verdicts recorded on sample {sample}"), soft_wrap=True)


@app.command("report")
def show_report(
    season: SeasonOption = None,
    collection: CollectionOption = None,
    sample: Annotated[int | None, typer.Option(min=1, max=2**63 - 1, help="only this sample")] = None,
    budget: Annotated[list[int] | None, typer.Option(min=1, help="a number of inspections; may be given again")] = None,
    as_known_at: TimeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
) -> None:
    """Report false reds and false greens with their intervals, and what the first inspections find."""
    with engine(resolve_dsn()).connect() as connection:
        stored = store.samples(connection, season, collection)
        if sample is not None:
            stored = [one for one in stored if one.sample_key == review.the_sample(connection, sample).sample_key]
        groups = {(one.season, one.collection) for one in arguments.groups(connection, season, collection)}
        if sample is not None:
            groups = {(one.season, one.collection) for one in stored}
        said = review.reported(connection, stored, groups, budget or [], as_known_at)
    if as_json:
        typer.echo(json.dumps(said, default=str))
        return
    from monitor.quality.printed import print_report

    print_report(said)
