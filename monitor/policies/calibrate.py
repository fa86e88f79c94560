"""`parcelwatch policy calibrate`: the red threshold of a rule with its guarantee, chosen on held-out truth and written into the policy."""

import json
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from db.connect import Connection, engine
from db.quality import StoredSampleRow, samples
from db.seasons import Season, season_by_name
from devstack.addresses import resolve_dsn
from monitor.alerts.rules import RULES
from monitor.errors import NotFound, PolicyError
from monitor.inspection import arguments
from monitor.policies import truth
from monitor.policies.lines import keys
from monitor.policies.policy import Policy, Red, checked, read_policy
from monitor.policies.risk import choose
from terminal.output import console, plain, printable


# More than six: the options of the command line.
def calibrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a policy in TOML (docs/policies.md)")],
    rule: Annotated[str, typer.Option(help="a rule, or an obligation of the policy", callback=arguments.storable)],
    verdicts: Annotated[
        Path | None,
        typer.Option("--truth", metavar="CSV", help="source_id and verdict of parcels drawn at random from all"),
    ] = None,
    from_quality: Annotated[
        bool, typer.Option("--from-quality", help="a reviewed sample of the store in the place of --truth")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, max=2**63 - 1, help="of --from-quality, else the newest of the season")
    ] = None,
    risk: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="share of all parcels that may be falsely red")
    ] = 0.001,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="that it is no more")] = 0.9,
    season: arguments.SeasonOption = None,
    collection: arguments.CollectionOption = None,
    as_known_at: arguments.TimeOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="to write to, else into the policy's file")] = None,
) -> None:
    """Choose from which confidence a rule's departures may be red, so that false reds are bounded, and write it into the policy."""
    policy = read_policy(file)
    if (verdicts is None) != from_quality:
        raise typer.BadParameter("give the truth either as --truth CSV or --from-quality")
    if from_quality and as_known_at is not None:
        raise typer.BadParameter("--as-known-at belongs to --truth: a sample has its own time")
    known = [*RULES, *(one.name for one in policy.obligation)]
    if rule not in known:
        raise typer.BadParameter(f"{rule!r} is no rule and no obligation of this policy; known: {', '.join(known)}")
    with engine(resolve_dsn()).connect() as connection:
        if verdicts is None:
            held = truth.of_sample(connection, _sample(connection, season, collection, sample), rule)
        else:
            of, its = _group(connection, season, collection)
            held = truth.of_file(connection, verdicts, of, its, rule, as_known_at)
    chosen = choose(held.truth, risk, confidence)
    red = Red(
        rule=rule,
        above=chosen.above,
        risk=risk,
        confidence=confidence,
        n=chosen.n,
        source=printable(held.source),
        source_sha256=held.sha256,
        chosen_on=datetime.now(UTC).date(),
    )
    written = _write(file, out or file, red)
    console.print(
        plain(
            f"{rule}: red from a confidence of {chosen.above:g} on; of {chosen.n:,} parcels with a verdict {chosen.n_red:,} are red "
            f"there, {chosen.n_false:,} of them falsely. At most {1000 * risk:g} of 1,000 parcels are, with {confidence:.0%} confidence"
        ),
        soft_wrap=True,
    )
    console.print(
        plain(f"written to {out or file}; raise its version ({written.version}) before it is put in force"),
        soft_wrap=True,
    )


def _sample(connection: Connection, season: str | None, collection: str | None, wanted: int | None) -> StoredSampleRow:
    """Return the sample that is wanted, else the newest."""
    found = [one for one in samples(connection, season, collection) if wanted in (None, one.sample_key)]
    if not found:
        raise NotFound("no such sample is drawn; `parcelwatch quality list` shows those that are")
    return found[-1]


def _group(connection: Connection, season: str | None, collection: str | None) -> tuple[Season, str]:
    """Return the season and collection of the parcels in a file; raises NotFound where they have to be named."""
    found = arguments.groups(connection, season, collection)
    if len(found) != 1:
        stored = ", ".join(f"{one.collection} in {one.season}" for one in found) or "no parcels"
        raise NotFound(f"of which parcels are the verdicts? name them with --season and --collection; stored: {stored}")
    return season_by_name(connection, found[0].season), found[0].collection


def _write(file: Path, out: Path, red: Red) -> Policy:
    """Write a policy with a table [[red]]; nothing is written where it would not be valid. Raises PolicyError."""
    try:
        text = with_red(file.read_text(encoding="utf-8-sig"), red)
        policy = checked(out, text)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"{error.filename or out}: {error.strerror or error}") from error
    return policy


def with_red(text: str, red: Red) -> str:
    """Return the text of a policy with a table [[red]] at its end, in the place of the one that the rule had; all else stays as written.

    A day that the former table sets is kept.
    """
    tables = tomllib.loads(text).get("red", [])
    place = next((nr for nr, one in enumerate(tables) if one["rule"] == red.rule), None)
    lines = text.splitlines()
    if place is not None:
        own = [line for path, line in keys(text) if path[:2] == ["red", str(place)]]
        del lines[own[0] - 1 : own[-1]]
        red = red.model_copy(update={"not_before": tables[place].get("not_before")})
    while lines and not lines[-1].strip():
        del lines[-1]
    said = {name: value for name, value in red.model_dump().items() if value is not None}
    return "\n".join([*lines, "", "[[red]]", *(f"{name} = {_toml(value)}" for name, value in said.items()), ""])


def _toml(value: object) -> str:
    """Return a number, a day or printable text as TOML writes it."""
    return value.isoformat() if isinstance(value, date) else json.dumps(value, ensure_ascii=False)
