"""What only the whole file can show of a parcel: shared ids, repeated and overlapping outlines."""

import pyproj
import pytest
import shapely

from ingest.parcels.columns import ParcelColumns, load_agency, recognise, shipped_agencies
from ingest.parcels.errors import ParcelFileError
from ingest.parcels.geometry import Outlines, measure
from ingest.parcels.overlaps import MAX_OVERLAP
from ingest.parcels.texts import id_part, storable
from ingest.parcels.validation import validate

EAST, NORTH = 600_000.0, 5_700_000.0


def outlines_of(*columns: float | None) -> Outlines:
    """Fields of 100 m x 100 m, `column` fields to the east; None: no outline."""
    boxes = [
        None if c is None else shapely.box(EAST + 100 * c, NORTH, EAST + 100 * c + 100, NORTH + 100) for c in columns
    ]
    return measure([None if box is None else shapely.to_wkb(box) for box in boxes], pyproj.CRS("EPSG:32631"))


def test_sound_parcels_side_by_side_keep_their_ids() -> None:
    assert validate(["a", "b", "c"], outlines_of(0, 1, 2), MAX_OVERLAP) == (["a", "b", "c"], [None, None, None])


def test_the_first_parcel_of_an_id_keeps_it() -> None:
    source_id, reason = validate(["a", "a", "b", "a"], outlines_of(0, 1, 2, 3), MAX_OVERLAP)
    assert source_id == ["a", "a#2", "b", "a#3"]
    assert reason == [None, "duplicate_id", None, "duplicate_id"]


def test_an_id_made_up_never_takes_one_that_the_file_uses() -> None:
    source_id, _ = validate(["a", "a", "a#2", None, "#1"], outlines_of(0, 1, 2, 3, 4), MAX_OVERLAP)
    assert source_id[:1] + source_id[2:3] + source_id[4:] == ["a", "a#2", "#1"]
    assert len(set(source_id)) == 5


def test_parcels_without_id_are_kept_and_numbered() -> None:
    assert validate([None, "a", None], outlines_of(0, 1, 2), MAX_OVERLAP) == (
        ["#1", "a", "#2"],
        ["no_id", None, "no_id"],
    )


def test_a_repeated_outline_is_kept_once() -> None:
    _, reason = validate(["a", "b", "c"], outlines_of(0, 1, 1), MAX_OVERLAP)
    assert reason == [None, None, "duplicate_geometry"]


@pytest.mark.parametrize(("shift", "verdict"), [(0.95, None), (0.5, "overlaps_other")])
def test_overlap_beyond_the_limit_ends_both(shift: float, verdict: str | None) -> None:
    _, reason = validate(["a", "b", "c"], outlines_of(0, shift, 5), MAX_OVERLAP)
    assert reason == [verdict, verdict, None]


def test_the_first_fault_is_kept() -> None:
    _, reason = validate(["a", "a"], outlines_of(0, None), MAX_OVERLAP)
    assert reason == [None, "no_geometry"]


def test_every_shipped_agency_loads() -> None:
    assert {"be_vlg", "ch", "delineation", "dk", "fi", "fiboa", "nl_brp", "parcelwatch", "simulator"} == set(
        shipped_agencies()
    )
    for name in shipped_agencies():
        assert load_agency(name).title


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["parcel_id", "region", "crop_code", "crop_name", "hcat_code"], "simulator"),
        (["gid", "land_use", "crop_code", "crop_name"], "nl_brp"),
        (["id", "area", "crop:code", "crop:name", "admin:country_code"], "fiboa"),
        (["gid", "crop_code", "crop_name"], None),
        (["id", "category", "gewas", "gewascode", "jaar", "status"], "nl_brp"),
        (["fid", "category", "gewas", "gewascode", "jaar", "status"], "nl_brp"),
        (["fid", "CAT_GEWASCATEGORIE", "GWS_GEWASCODE", "GWS_GEWAS"], "nl_brp"),
        (["category", "gewas", "gewascode", "jaar", "status"], None),
        ([], None),
    ],
)
def test_a_file_is_recognised_by_its_columns(columns: list[str], name: str | None) -> None:
    found = recognise(columns)
    assert (found[0] if found else None) == name


def test_an_agencys_layout_is_the_one_that_fits_the_file() -> None:
    agency = load_agency("nl_brp")
    assert agency.fitting(["gid", "crop_code", "crop_name"]).id == ("gid",)
    assert agency.fitting(["id", "fid", "gewas", "gewascode"]).id == ("id",)
    assert agency.fitting(["fid", "GWS_GEWASCODE", "GWS_GEWAS"]).crop_code == "GWS_GEWASCODE"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("A0\0\0", ("A0", True)),
        ("A\0B", ("A\0B", False)),
        (None, (None, True)),
        ("\0", (None, True)),
        ("Øst 1", ("Øst 1", True)),
        ("x" * 201, ("x" * 201, False)),
        ("a\u202eb", ("a\u202eb", False)),
        ("a\ud800", ("a\ud800", False)),
    ],
)
def test_an_id_is_taken_as_it_is_or_not_at_all(given: str | None, made: tuple[str | None, bool]) -> None:
    assert id_part(given) == made


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("wh\0eat", ("wh eat", True)),
        ("\x1b[31m red", ("[31m red", True)),
        (None, (None, True)),
        ("\t\n", (None, True)),
        ("x" * 201, (None, False)),
        ("blé\ud800", ("blé", True)),
        ("[/red]", ("[/red]", True)),
    ],
)
def test_other_texts_are_made_storable(given: str | None, made: tuple[str | None, bool]) -> None:
    assert storable(given) == made


def test_columns_are_named_once() -> None:
    assert ParcelColumns(id=("a", "b"), crop_code="c", crop_name="c").named() == ("a", "b", "c")


def test_an_unknown_agency_says_which_there_are() -> None:
    with pytest.raises(ParcelFileError, match="neither a readable TOML file nor one of be_vlg, ch"):
        load_agency("atlantis")
