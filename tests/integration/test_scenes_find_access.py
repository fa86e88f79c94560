"""Files of catalogues opened by GDAL: over HTTP by ranges, with tokens, from an object store; half files are told."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio

from ingest.imagery.errors import SceneError
from ingest.imagery.raster import Raster
from ingest.imagery.scene import Band, Grid, Scene
from ingest.scenes.access import KEYS, Access, NoKeys, unsigned
from ingest.scenes.http_retries import Clock, Http, Patience, SourceRefused, SourceUnavailable
from ingest.scenes.profiles import CatalogueProfile, load_profile
from tests.stac_server import Answer, Asked, Fault, StacServer

NOW = datetime(2024, 5, 20, 12, tzinfo=UTC)
GRID = Grid("EPSG:32631", 600_000.0, 5_700_000.0, 10.0, 1024, 1024)
VALUES = np.random.default_rng(1).integers(1, 10_000, (1024, 1024)).astype(np.uint16)


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random numbers, so that nothing of the file can be guessed or compressed away (2 MB)."""
    file = tmp_path_factory.mktemp("cog") / "B02.tif"
    with rasterio.open(
        file,
        "w",
        driver="COG",
        width=1024,
        height=1024,
        count=1,
        dtype="uint16",
        crs=GRID.crs,
        blocksize=256,
        transform=rasterio.Affine(*GRID.transform),
        overviews="NONE",
    ) as written:
        written.write(VALUES, 1)
    return file


@pytest.fixture
def server(cog: Path) -> Iterator[StacServer]:
    with StacServer(files={"B02.tif": cog}) as started:
        yield started


def scene(href: str) -> Scene:
    band = Band(href, "reflectance", 1e-4, 0.0, 0.0)
    return Scene("S2", "S2A_x", NOW, NOW, "S2A", 94, {"B02": band}, GRID)


def read(opened: Scene, row: int = 0, column: int = 0, size: int = 1024) -> np.ndarray:
    with Raster(opened, "B02", opened.bands["B02"], GRID) as raster:
        return raster.read(row, column, size, size)


def access(
    profile: CatalogueProfile, environment: dict[str, str] | None = None, now: Callable[[], datetime] = lambda: NOW
) -> Access:
    http = Http("tokens", Patience(tries=3), Clock(now, lambda _: False, lambda low, _: low), lambda _: None)
    return Access(profile, environment or {}, http, now)


def profile_at(folder: Path, text: str) -> CatalogueProfile:
    file = folder / "mine.toml"
    file.write_text(f'title = "t"\napi = "http://a"\n[access]\n{text}\n[sensors.S2]\ncollections = ["x"]\n')
    return load_profile(str(file))


def test_plain_address_is_read_by_ranges(server: StacServer) -> None:
    opened = access(load_profile("earth-search")).scene(scene(server.file("B02.tif")))
    assert np.array_equal(read(opened, 256, 512, 256), VALUES[256:512, 512:768])
    assert np.array_equal(read(opened), VALUES)
    assert {asked.headers.get("Range", "")[:6] for asked in server.asked if asked.method == "GET"} == {"bytes="}


@pytest.mark.parametrize("status", [429, 503])
def test_rate_limit_of_files_passes(server: StacServer, status: int) -> None:
    server.faults = [Fault("/files/", status=status, method="GET", after=1)]
    assert np.array_equal(read(scene(server.file("B02.tif"))), VALUES)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/files/", cut=0.5, times=1000, after=1, method="GET"),
        Fault("/files/", cut=0.5, times=1000),
        Fault("/files/", status=404, times=1000, after=1, method="GET"),
    ],
    ids=["half of the pixels", "half of everything", "gone while it is read"],
)
def test_half_a_file_is_unreadable_and_may_pass(server: StacServer, fault: Fault, cog: Path) -> None:
    server.files["other.tif"] = cog.read_bytes()  # GDAL keeps what it has read of an address
    server.faults = [fault]
    with pytest.raises(SceneError, match=r"cannot be read: .*; fetch it again") as caught:
        read(scene(server.file(f"other.tif?{id(fault)}")))
    assert (caught.value.cause, caught.value.may_pass) == ("unreadable", True)


def test_token_is_fetched_once_and_renewed_before_it_ends(server: StacServer, tmp_path: Path) -> None:
    profile = profile_at(tmp_path, f'kind = "sas"\ntoken_api = "{server.url}/token/"\nkey_variable = "MY_KEY"')
    moment = NOW

    def answer(asked: Asked) -> Answer:
        number = sum(one.path.startswith("/token") for one in server.asked)
        assert asked.headers["Ocp-Apim-Subscription-Key"] == "key"
        return Answer({"token": f"sig=secret{number}", "msft:expiry": (moment + timedelta(hours=1)).isoformat()})

    server.routes["GET /token/.*"] = answer
    signed = access(profile, {"MY_KEY": "key"}, lambda: moment)
    href = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/31/U/B02.tif"
    assert signed.opened(href) == f"{href}?sig=secret1"
    assert signed.opened(href + "?x=1") == f"{href}?x=1&sig=secret1"
    assert signed.opened(href.replace("l2a01", "l2a02")).endswith("?sig=secret2")
    assert [one.path for one in server.asked] == [
        "/token/sentinel2l2a01/sentinel2-l2",
        "/token/sentinel2l2a02/sentinel2-l2",
    ]
    moment = NOW + timedelta(minutes=51)
    assert signed.opened(href).endswith("sig=secret3")
    assert signed.opened("https://example.org/B02.tif") == "https://example.org/B02.tif"
    assert unsigned(signed.opened(href)) == href


def test_token_that_is_not_given(server: StacServer, tmp_path: Path) -> None:
    profile = profile_at(tmp_path, f'kind = "sas"\ntoken_api = "{server.url}/token"')
    href = "https://a.blob.core.windows.net/b/B02.tif"
    with pytest.raises(SourceRefused, match="404"):
        access(profile).opened(href)
    server.routes["GET /token/.*"] = lambda _: Answer({"message": "no"})
    with pytest.raises(SourceUnavailable, match="no token with an expiry"):
        access(profile).opened(href)


def test_object_store_by_keys_of_the_environment(
    server: StacServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = profile_at(tmp_path, f'kind = "s3"\nendpoint = "127.0.0.1:{server.port}"\nsecure = false')
    server.routes["(GET|HEAD) /eodata/Sentinel-2/B02.tif"] = lambda asked: server._file(
        Asked(asked.method, "/files/B02.tif", "", None, asked.headers, b"")
    )
    keys = dict(zip(KEYS, ("my-key", "my-secret"), strict=True))
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    opened = access(profile, keys)
    with opened.environment():
        assert np.array_equal(read(opened.scene(scene("s3://eodata/Sentinel-2/B02.tif"))), VALUES)
    signatures = {asked.headers.get("Authorization", "") for asked in server.asked}
    assert all("Credential=my-key/" in signature for signature in signatures)
    assert "my-secret" not in str(server.asked)


def test_object_store_needs_its_keys() -> None:
    with pytest.raises(NoKeys, match="need AWS_SECRET_ACCESS_KEY in the environment"):
        access(load_profile("copernicus"), {"AWS_ACCESS_KEY_ID": "x"}).opened("s3://eodata/B02.jp2")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/files/", status=404, times=1000),
        Fault("/files/", cut=0.5, times=1000),
        Fault("/files/", cut=0.5, times=1000, after=1, method="GET"),
        Fault("/files/", body=b"II*\0 half", times=1000),
    ],
    ids=["404", "half", "half of the pixels", "short"],
)
def test_same_process_reads_it_when_it_is_whole(server: StacServer, fault: Fault) -> None:
    """GDAL keeps what it saw of an address; a scene that is tried again must not see that."""
    server.faults = [fault]
    href = server.file("B02.tif")
    with access(load_profile("earth-search")).environment():
        with pytest.raises(SceneError):
            read(scene(href))
        server.faults = []
        assert np.array_equal(read(scene(href)), VALUES)
