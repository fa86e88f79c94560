"""The blind review of a sample: what satellites saw of a parcel, without a word of what was found of it."""

from fastapi import APIRouter, HTTPException, Request, Response

from monitor.quality.verdicts import CHOICES
from web.console.frame import PageRoute, Seen, SignedIn, page
from web.parameters import Key
from web.routes import quality as api

MOST_SAMPLES = 50
router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/console/quality")
def samples(request: Request, who: SignedIn, connection: Seen) -> Response:
    """Show the samples, and how many parcels of each wait for the verdict of who is signed in."""
    found = api.samples(request, who, connection, limit=MOST_SAMPLES).samples
    return page(request, "samples.html", samples=found, may_review=who.role != "reader")


@router.get("/console/quality/{sample}")
def review(request: Request, who: SignedIn, connection: Seen, sample: Key) -> Response:
    """Show one parcel after the other; its script asks the API for them."""
    if who.role == "reader":
        raise HTTPException(403, "a reader reviews nothing: ask for the role of an inspector")
    found = api.samples(request, who, connection, before=sample + 1, limit=1).samples
    if not found or found[0].sample != sample:
        raise HTTPException(404, f"there is no sample {sample}")
    return page(request, "review.html", sample=found[0], choices=CHOICES)
