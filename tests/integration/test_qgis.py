"""The contract's views in QGIS: the layers of docs/parcelwatch.qlr and the lines of docs/sql.md, as a reader and as an inspector."""

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, get_args

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from monitor.alerts.lifecycle import State
from tests.filled_store import hail_on
from tests.logins import login

ROOT = Path(__file__).parents[2]
LAYERS = ROOT / "docs" / "parcelwatch.qlr"
PYTHON = os.environ.get("PARCELWATCH_TEST_QGIS_PYTHON", "/usr/bin/python3")
"""QGIS is installed for the system's Python, not for ours."""
OPEN = "#d55e00"
"""The colour of open alerts."""


def test_the_layers_ask_for_what_the_contract_has() -> None:
    views = json.loads((ROOT / "docs/schemas/sql-contract.json").read_text())["views"]
    layers = ET.parse(LAYERS).getroot().findall(".//maplayer")
    assert len(layers) == 2
    for layer in layers:
        source = layer.findtext("datasource") or ""
        key, view = re.findall(r"key='(\w+)' table=\"parcelwatch\".\"(\w+)\" \(geom\)", source)[0]
        asked = [
            one
            for place in (layer.find("temporal"), layer.find("renderer-v2"))
            if place is not None
            for one in (place.get("startField"), place.get("endField"), place.get("attr"))
            if one
        ]
        assert {key, "geom", *asked} <= views[view].keys()
        assert key == next(iter(views[view]))  # which QGIS proposes
    states = [one.get("value", "") for one in layers[0].findall(".//category")]
    assert sorted(states) == sorted(get_args(State))


@pytest.fixture(scope="module")
def qgis() -> str:
    """The Python that QGIS is installed for."""
    try:
        subprocess.run([PYTHON, "-c", "import qgis.core"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(
            "QGIS is not installed (Debian: python3-qgis, qgis-providers), or not for PARCELWATCH_TEST_QGIS_PYTHON"
        )
    return PYTHON


def seen(qgis: str, address: str, folder: Path) -> Any:
    """Return what a login sees in QGIS."""
    service = "\n".join(f"{name}={value}" for name, value in conninfo_to_dict(address).items())
    (folder / "services").write_text(f"[parcelwatch]\n{service}\n")
    (page,) = re.findall(
        r"^```python\n([^`]*QgsVectorLayer.*?)^```", (ROOT / "docs/sql.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len([line for line in page.splitlines() if line]) < 10
    (folder / "lines.py").write_text(page.replace("'r'", "'north'"))
    its = {"PATH": "/usr/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [qgis, str(ROOT / "tests/qgis_layers.py"), str(LAYERS), "lines.py"],
        cwd=folder,
        env=its | {"PGSERVICEFILE": str(folder / "services")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_sees_their_parcels_and_alerts_in_qgis(qgis: str, filled_dsn: str, tmp_path: Path) -> None:
    hail_on(filled_dsn)
    with (
        psycopg.connect(filled_dsn, autocommit=True) as owner,
        login(filled_dsn, "parcelwatch_reader") as rita,
        login(filled_dsn, "parcelwatch_inspector") as anna,
    ):
        owner.execute("""insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
                         select parcel_key, '2025-03-01', '2025-03-01', '2', 'wheat' from parcels where source_id like '%-hail-_'""")
        owner.execute(
            "insert into parcelwatch_access.region_grants select %s, region_key, 'ann', now() from regions where code = 'north'",
            [conninfo_to_dict(anna)["user"]],
        )
        for address, regions in ((rita, ["north", "south"]), (anna, ["north"])):
            extent = owner.execute(
                """select ST_XMin(box), ST_YMin(box), ST_XMax(box), ST_YMax(box) from (
                       select ST_Extent(geom) as box from parcels join regions using (region_key) where code = any(%s)) parcels""",
                [regions],
            ).fetchone()
            assert extent is not None
            told = seen(qgis, address, tmp_path)
            ids = sorted(
                f"{region}-{nr}" for region in regions for nr in ("1", *(f"hail-{one}" for one in range(1, 13)))
            )
            for name, key in (("Alerts by state", "alert_key"), ("Parcels", "parcel_key")):
                layer = told["layers"][name]
                assert (layer["is_valid"], layer["key"], layer["kind"], layer["crs"]) == (
                    True,
                    [key],
                    "MultiPolygon",
                    "EPSG:4326",
                )
                assert layer["ids"] == ids
                assert layer["extent"] == pytest.approx(extent)
            assert told["warned"] == []
            assert told["wheat"] == [f"north-hail-{nr}" for nr in range(1, 10)]
            assert (tmp_path / "wheat.png").read_bytes().startswith(b"\x89PNG")
            assert {when: OPEN in colours for when, colours in told["pictures"].items()} == {
                "all": True,
                "before": False,
                "during": True,
            }
