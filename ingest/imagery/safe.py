"""Sentinel-2 L2A products as ESA publishes them: a SAFE folder, or a zip of one, read by its own metadata.

    MTD_MSIL2A.xml                          times, orbit, baseline, BOA_QUANTIFICATION_VALUE, BOA_ADD_OFFSET, image files
    GRANULE/.../MTD_TL.xml                  tile, coordinate system, upper left corner, sizes
    GRANULE/.../IMG_DATA/R10m|R20m|R60m     JP2, one band each

    reflectance = (DN + BOA_ADD_OFFSET) / BOA_QUANTIFICATION_VALUE; no offset before baseline 04.00; DN 0 is no data

Source: Sentinel-2 Products Specification Document, issue 14.9, 4.9; S2 processing baseline page on SentiWiki.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final
from xml.etree import ElementTree

from db.sensors import S2_BANDS
from ingest.imagery.bounded import LARGEST_XML, ZIP_ERRORS, parsed_xml, read_file, read_member, zip_members
from ingest.imagery.checksums import Checksum, from_manifest
from ingest.imagery.errors import SceneError
from ingest.imagery.scene import LONGEST_SIDE, SCL, Band, Grid, Scene

_BAND_IDS: Final = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Bands by their number in the metadata."""
_IMAGE: Final = re.compile(r"_(B\d\d|B8A|SCL)_(\d\d)m$")
_CODE: Final = re.compile(r"EPSG:\d{1,9}")
_MEMBER: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
"""An image within the product: no path that leaves it."""
_GRANULE: Final = re.compile(r"_(\d{8}T\d{6})$")
"""Of a granule's folder, L2A_T31UFS_A041029_20230501T105623: the start of its datastrip."""


def scene_from_safe(path: Path, revision: int = 0, available_at: datetime | None = None) -> Scene:
    """Return the scene of a SAFE folder or zip.

    Args:
        path: ....SAFE or ....zip.
        revision: as the ledger counts.
        available_at: when the product could be had; None: when it was made.

    Raises SceneError: unreadable, bad_metadata.
    """
    name = path.name.removesuffix(".zip").removesuffix(".SAFE")
    try:
        root, read = (
            _zipped(path)
            if path.suffix == ".zip"
            else (str(path), lambda member: read_file(path / member, LARGEST_XML))
        )
        product = parsed_xml(read("MTD_MSIL2A.xml"))
        files = {
            found: member for member in _texts(product, "IMAGE_FILE") if (found := _IMAGE.search(member)) is not None
        }
        if strange := next((member for member in files.values() if not _MEMBER.fullmatch(member)), None):
            raise ValueError(f"IMAGE_FILE {strange[:80]!r} lies outside of the product")
        granule = PurePosixPath(next(iter(files.values()), "")).parents[2]
        tile = parsed_xml(read(str(granule / "MTD_TL.xml")))
        scene = _scene(name, root, product, tile, files, revision, available_at)
        published = _checksums(root, read)
        scene = replace(
            scene, bands={band: replace(its, checksum=published.get(its.href)) for band, its in scene.bands.items()}
        )
        strip = _GRANULE.search(granule.name)
        return replace(scene, part=_time(strip[1])) if strip else scene
    except (OSError, *ZIP_ERRORS) as error:
        file = getattr(error, "filename", None)
        shown = f"{Path(file).name}: {getattr(error, 'strerror', None)}" if file else str(error)[:200]
        raise SceneError(name, "unreadable", f"{path}: {shown}; fetch it again") from error
    except (ElementTree.ParseError, ValueError, IndexError) as error:
        raise SceneError(name, "bad_metadata", f"{path}: {str(error)[:200]}; is it a whole L2A product?") from error


def _zipped(path: Path) -> tuple[str, Callable[[str], bytes]]:
    """Return the product folder within a zip as GDAL calls it, and a reader of its members."""
    folder = next((name.split("/")[0] for name in zip_members(path) if ".SAFE/" in name), None)
    if folder is None or not _MEMBER.fullmatch(folder):
        raise ValueError("no SAFE folder in the zip")

    def read(member: str) -> bytes:
        return read_member(path, f"{folder}/{member}", LARGEST_XML)

    return f"/vsizip/{path}/{folder}", read


def _checksums(root: str, read: Callable[[str], bytes]) -> dict[str, Checksum]:
    """Return the checksums that the manifest says, by address; none where a product came without its manifest."""
    try:
        manifest = parsed_xml(read("manifest.safe"))
    except (FileNotFoundError, KeyError):
        return {}
    published = {}
    for stream in manifest.iterfind(".//{*}byteStream"):
        place, said = stream.find("{*}fileLocation"), stream.find("{*}checksum")
        if place is not None and said is not None:
            member = place.get("href", "").removeprefix("./")
            checksum = from_manifest(said.get("checksumName", ""), said.text or "")
            if checksum:
                published[f"{root}/{member}"] = checksum
    return published


def _scene(  # the two documents, and what the product's names add
    name: str,
    root: str,
    product: ElementTree.Element,
    tile: ElementTree.Element,
    files: dict[re.Match[str], str],
    revision: int,
    available_at: datetime | None,
) -> Scene:
    quantification = float(_text(product, "BOA_QUANTIFICATION_VALUE"))
    offsets = dict.fromkeys(_BAND_IDS, 0.0)
    for element in product.iterfind(".//{*}BOA_ADD_OFFSET"):
        offsets[_BAND_IDS[int(element.attrib["band_id"])]] = float(element.text or "")
    finest: dict[str, tuple[int, str]] = {}
    for image, member in files.items():
        band, resolution = image[1], int(image[2])
        finest[band] = min(finest.get(band, (resolution, member)), (resolution, member))
    bands = {
        band: Band(f"{root}/{member}.jp2", "reflectance", 1 / quantification, offsets[band] / quantification, 0.0)
        for band, (_, member) in finest.items()
        if band in S2_BANDS
    }
    if SCL in finest:
        bands[SCL] = Band(f"{root}/{finest[SCL][1]}.jp2", "class", nodata=0.0)
    start = _time(_text(product, "DATATAKE_SENSING_START"))
    platform = _text(product, "SPACECRAFT_NAME").replace("Sentinel-", "S")
    return Scene(
        sensor="S2",
        scene_id=name,
        observed_at=start,
        available_at=available_at or _time(_text(product, "GENERATION_TIME")),
        platform=platform,
        relative_orbit=int(_text(product, "SENSING_ORBIT_NUMBER")),
        bands=bands,
        grid=_grid(tile),
        datatake=f"{platform}_{start:%Y%m%dT%H%M%S}",
        tile=_text(tile, "TILE_ID").split("_")[-2].removeprefix("T"),
        baseline=_text(product, "PROCESSING_BASELINE"),
        processed_at=_time(_text(product, "GENERATION_TIME")),
        revision=revision,
    )


def _grid(tile: ElementTree.Element) -> Grid:
    size, place = tile.find(".//{*}Size[@resolution='10']"), tile.find(".//{*}Geoposition[@resolution='10']")
    if size is None or place is None:
        raise ValueError("MTD_TL.xml names no 10 m grid")
    if not _CODE.fullmatch(code := _text(tile, "HORIZONTAL_CS_CODE")):
        raise ValueError(f"HORIZONTAL_CS_CODE {code[:40]!r} is no EPSG code")
    columns, rows = int(_text(size, "NCOLS")), int(_text(size, "NROWS"))
    if not (0 < columns <= LONGEST_SIDE and 0 < rows <= LONGEST_SIDE):
        raise ValueError(f"{columns} x {rows} pixels are no tile")
    return Grid(code, float(_text(place, "ULX")), float(_text(place, "ULY")), 10.0, columns, rows)


def _texts(element: ElementTree.Element, tag: str) -> list[str]:
    return [(found.text or "").strip() for found in element.iterfind(f".//{{*}}{tag}")]


def _text(element: ElementTree.Element, tag: str) -> str:
    found = _texts(element, tag)
    if not found:
        raise ValueError(f"{tag} is not in the metadata")
    return found[0]


def _time(text: str) -> datetime:
    """Return a time of the metadata, UTC whether it says so or not."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
