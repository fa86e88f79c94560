"""What is described of a sensor in one place agrees with what is in the others."""

from typing import get_args

import pytest

from db import tables
from db.observations import KEY
from db.sensors import SENSORS, Sensor
from ingest.stream.schemas import SCHEMAS
from monitor.features import sensor_of


@pytest.mark.parametrize("sensor", get_args(Sensor))
def test_what_is_stored_of_a_sensor_has_a_column_and_comes_in_its_message(sensor: Sensor) -> None:
    stored = SENSORS[sensor]
    columns = set(tables.metadata.tables[stored.table].columns.keys())
    assert columns == {*KEY, "recorded_at", *stored.values}
    (schema,) = (one for one in SCHEMAS.values() if one.sensor == sensor)
    assert {*stored.values} - {"scene_key"} <= {name.lower() for name in schema.arrow.names}
    assert set(stored.series) <= {*columns, "direction_nr"}


def test_a_modality_states_its_sensor() -> None:
    assert {name: sensor_of(name) for name in ("s2", "s1a", "s1d", "s1")} == {
        "s2": "S2",
        "s1a": "S1",
        "s1d": "S1",
        "s1": "S1",
    }
    with pytest.raises(KeyError):
        sensor_of("s3")
