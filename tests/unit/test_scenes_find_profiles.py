"""Profiles of catalogues: the shipped ones read what their catalogues write; a broken one is told by file and key."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from db.sensors import S2_BANDS
from ingest.imagery.stac import scene_from_item
from ingest.scenes.profiles import ProfileError, load_profile, shipped_profiles

WHOLE = """
title = "Mine"
api = "https://stac.example.org/v1/"
[sensors.S2]
collections = ["s2"]
"""


def test_three_catalogues_are_shipped() -> None:
    assert set(shipped_profiles()) == {"copernicus", "earth-search", "planetary-computer"}


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_shipped_profile_knows_every_band(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert {*S2_BANDS, "SCL"} <= set(profile.reading("S2").assets)
    assert profile.overlap >= timedelta(hours=6)
    if "S1" not in profile.sensors:
        with pytest.raises(ProfileError, match=r"no \[sensors\.S1\]; it has S2"):
            profile.reading("S1")


def test_terrain_corrected_radar_of_the_planetary_computer() -> None:
    """Its items neither say what they measure nor when they were published."""
    item: dict[str, Any] = {
        "id": "S1A_IW_GRDH_1SDV_20230502T172441_20230502T172506_048356_05D0F5_rtc",
        "properties": {
            "datetime": "2023-05-02T17:24:53.5Z",
            "start_datetime": "2023-05-02T17:24:41Z",
            "end_datetime": "2023-05-02T17:25:06Z",
            "platform": "SENTINEL-1A",
            "sat:orbit_state": "ascending",
            "sat:relative_orbit": 88,
            "proj:epsg": 32631,
        },
        "assets": {"vv": {"href": "vv.tif"}, "vh": {"href": "vh.tif"}},
    }
    scene = scene_from_item(item, load_profile("planetary-computer").reading("S1"))
    assert (scene.radiometry, scene.bands["VV"].unit, scene.direction) == ("gamma0", "linear", "ascending")
    assert f"{scene.available_at:%H:%M:%S}" == "17:25:06"


def test_own_profile_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        WHOLE + 'names.available_at = ["issued"]\nassets.B02 = ["b2"]\nfixed."card4l:measurement_type" = "sigma0"\n'
    )
    profile = load_profile(str(file))
    assert (profile.name, profile.api) == (str(file), "https://stac.example.org/v1")
    reading = profile.reading("S2")
    assert reading.available_at == ("issued",)
    assert (reading.assets["B02"], reading.assets["B03"]) == (("b2",), ("B03", "green", "B03_10m"))
    assert reading.fixed == {"card4l:measurement_type": "sigma0"}
    assert profile.overlap == timedelta(days=10)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("title = ", "not TOML"),
        (WHOLE.replace("api", "url"), r"mine\.toml: api: Field required"),
        (WHOLE.replace("https://", ""), r"mine\.toml: api: "),
        (WHOLE.replace("collections", "collection"), r"mine\.toml: sensors\.S2\.collections: Field required"),
        (WHOLE.replace("S2]", "S3]"), r"mine\.toml: sensors\.S3"),
        (
            WHOLE + 'names.observed = ["x"]',
            r"mine\.toml: sensors\.S2\.names: 'observed' is no fact of a scene; known: ",
        ),
        (WHOLE + "\n[access]\nkind = 'ftp'", r"mine\.toml: access\.kind: "),
        (WHOLE + "\n[access]\nkind = 's3'", r"mine\.toml: access: endpoint is needed where kind is s3"),
        (WHOLE + "\n[access]\nkind = 'sas'", r"mine\.toml: access: token_api is needed where kind is sas"),
        (WHOLE.replace("title", "page_size = 0\ntitle"), r"mine\.toml: page_size: "),
    ],
)
def test_what_is_wrong_is_told_by_file_and_key(text: str, match: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ProfileError, match=match) as caught:
        load_profile(str(file))
    assert "\n" not in str(caught.value)


def test_unknown_name() -> None:
    with pytest.raises(ProfileError, match="neither a readable TOML file nor one of copernicus, earth-search"):
        load_profile("earthsearch")
