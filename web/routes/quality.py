"""The blind review of a sample, and what it says of the lights."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, Field, model_validator

from db import access, history
from db import quality as store
from db.access import Principal
from db.connect import Connection
from db.quality import FormRow, StoredSampleRow, VerdictRow
from monitor.errors import NotFound
from monitor.quality import review
from monitor.quality.form import observed
from monitor.quality.verdicts import CHOICES, Verdict
from web.parameters import BIGINT, AsKnownAt, Key, Limit, Note, Text
from web.principals import Asked, Who, having

router = APIRouter(prefix="/api/quality", tags=["quality"])
Reviewer = Annotated[Principal, Depends(having("inspector", "operator", "admin"))]
Reporter = Annotated[Principal, Depends(having("reader", "operator", "admin"))]


class Sample(BaseModel):
    """A random sample of parcels."""

    sample: int
    season: str
    collection: str
    as_known_at: datetime
    n_left: int
    """Parcels on which your verdict is wanted."""


class Samples(BaseModel):
    """The newest samples."""

    samples: list[Sample]
    choices: Mapping[Verdict, str]
    """What can be said of a parcel."""
    next: str | None


class Observed(BaseModel):
    """An observation, or a day of the curve that was made of them."""

    at: datetime
    kind: str
    """s1, s2 or ndvi."""
    relative_orbit: int | None
    ndvi: float | None
    ndvi_sd: float | None
    vv_db: float | None
    vh_db: float | None


class Picture(BaseModel):
    """A picture of the parcel."""

    caption: str
    png: str


class Item(BaseModel):
    """A parcel to review: nothing here says what was found of it."""

    sample: int
    item: int
    parcel: str
    declared_crop: str | None
    area_ha: float | None
    longitude: float | None
    latitude: float | None
    observed: list[Observed]
    pictures: list[Picture]
    n_left: int


class GivenVerdict(BaseModel):
    """What a reviewer says of a parcel."""

    item: Annotated[int, Field(ge=1, le=2**31 - 1)]
    verdict: Verdict
    reason: Note | None = None

    @model_validator(mode="after")
    def _has_reason(self) -> "GivenVerdict":
        if self.reason is None and self.verdict != "as_declared":
            raise ValueError(f"a reason is needed for {self.verdict}")
        return self


class Report(BaseModel):
    """What lights are worth."""

    as_known_at: datetime | None
    samples: list[dict[str, Any]]
    """Of each sample shares of wrong lights with their intervals, by rule and region."""
    alerts: list[dict[str, Any]]
    """Of the alerts that people decided on, how many were false: never added to the sample's."""


@router.get("/samples")
def samples(
    request: Request,
    who: Who,
    connection: Asked,
    season: Text | None = None,
    collection: Text | None = None,
    before: Annotated[int | None, Query(ge=1, le=BIGINT, description="only samples with a lower number")] = None,
    limit: Limit = 20,
) -> Samples:
    """List the newest samples with parcels that you see, and how many of these wait for your verdict."""
    with access.deciding(connection):
        stored = store.samples(connection, season, collection)[::-1]
        found: list[Sample] = []
        for one in stored:
            if len(found) <= limit and (before is None or one.sample_key < before):
                found += [_sample(connection, one, who)] if store.form_rows(connection, one.sample_key) else []
    shown, following = found[:limit], None
    if len(found) > limit:
        url = request.url.include_query_params(before=shown[-1].sample)
        following = f"{url.path}?{url.query}"
    return Samples(samples=shown, choices=CHOICES, next=following)


@router.get("/samples/{sample}/next")
def next_item(who: Reviewer, connection: Asked, sample: Key) -> Item:
    """Return the next parcel of a sample that is yours to review, with what was observed of it. 404 where none is left."""
    with access.deciding(connection):
        _of(connection, sample)
        left = review.left_to_review(connection, sample, who.name)
        if not left:
            raise HTTPException(404, f"nothing of sample {sample} is left for {who.name} to review")
        row = left[0]
        known = observed(history.parcel_history(connection, row.parcel_key, None, None, None))
        since = store.pictured_since(connection, sample)
        shown = review.pictures(connection, row.parcel_key, since, None, with_images=False) if since else []
    names = Item.model_fields.keys() & row.__dict__
    return Item(
        sample=sample,
        parcel=row.source_id,
        observed=[Observed(**{name: getattr(one, name) for name in Observed.model_fields}) for one in known],
        pictures=[Picture(caption=review.caption(one), png=f"/api/chips/{one.chip_key}.png") for one in shown],
        n_left=len(left),
        **{name: getattr(row, name) for name in names},
    )


@router.post("/samples/{sample}/verdicts", status_code=201)
def record_verdict(who: Reviewer, connection: Asked, sample: Key, given: GivenVerdict) -> Sample:
    """Record your verdict on a parcel of a sample. A later one counts in its place; both are kept."""
    with access.deciding(connection):
        its, rows = _of(connection, sample)
        if given.item not in {row.item for row in rows}:
            raise HTTPException(404, f"sample {sample} has no item {given.item}")
        verdict = VerdictRow(given.item, given.verdict, who.name, given.reason)
        store.record_verdicts(connection, sample, [verdict], datetime.now(UTC))
        return _sample(connection, its, who)


@router.get("/report")
def quality_report(
    _: Reporter,
    connection: Asked,
    season: Text | None = None,
    collection: Text | None = None,
    sample: Annotated[int | None, Query(ge=1, le=BIGINT)] = None,
    budget: Annotated[list[Annotated[int, Field(ge=1, le=10**9)]] | None, Query(max_length=20)] = None,
    as_known_at: AsKnownAt = None,
) -> Report:
    """Report false reds and false greens with their intervals, and what the first inspections find."""
    with access.deciding(connection):
        stored = store.samples(connection, season, collection)
        if sample is not None:
            stored = [one for one in stored if one.sample_key == sample]
            if not stored:
                raise HTTPException(404, f"there is no sample {sample}")
        groups = {(one.season, one.collection) for one in stored}
        if season is not None and collection is not None:
            groups.add((season, collection))
        return Report(**review.reported(connection, stored, groups, budget or [], as_known_at))


def _of(connection: Connection, sample: int) -> tuple[StoredSampleRow, list[FormRow]]:
    """Return a sample and its parcels that are seen; raises 404 where there is none."""
    rows = store.form_rows(connection, sample)
    if not rows:
        raise HTTPException(404, f"there is no sample {sample}")
    try:
        return review.the_sample(connection, sample), rows
    except NotFound:
        raise HTTPException(404, f"there is no sample {sample}") from None


def _sample(connection: Connection, row: StoredSampleRow, who: Principal) -> Sample:
    n_left = len(review.left_to_review(connection, row.sample_key, who.name))
    return Sample(
        sample=row.sample_key, season=row.season, collection=row.collection, as_known_at=row.as_known_at, n_left=n_left
    )
