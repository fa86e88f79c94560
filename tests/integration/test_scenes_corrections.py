"""A scene whose files or item are mended is corrected by cutting it again: a new revision, no conflict, no old value."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from db import found_scenes
from ingest.stream.producer import ObservationProducer
from tests.integration.test_scenes_work import Killed, half_sent, killing
from tests.made_scenes import START, World, blanked, check_optical, inside, optical, s1_item, s2_item, world

BOXES = {"a": (2.2, 2.2, 20.2, 20.2), "b": (30.2, 2.2, 60.2, 20.2), "c": (2.2, 34.2, 20.2, 60.2)}


@pytest.fixture
def chain(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    with world(dsn, bootstrap, topic_prefix, tmp_path) as made:
        made.store_parcels(BOXES)
        yield made


def retry(chain: World) -> None:
    with chain.engine.begin() as connection:
        assert found_scenes.retry(connection, None, ["cut", "failed"], chain.now())
    chain.work()


def check(chain: World, numbers: dict[str, np.ndarray], revisions: dict[str, int]) -> None:
    found = chain.current()
    assert {name: row["revision"] for name, row in found.items()} == revisions
    for name, row in found.items():
        check_optical(row, numbers, inside(BOXES[name]))
    assert chain.rows("select reason from dead_letters") == []
    assert (chain.the_scene().state, chain.the_scene().adds_up) == ("cut", True)


def test_a_mended_file_corrects_what_was_stored(chain: World, tmp_path: Path) -> None:
    whole = optical(1)
    wrong = {name: values.copy() for name, values in whole.items()}
    wrong["B04"][:26] = 1500
    chain.add(s2_item(tmp_path, wrong))
    chain.work()
    check(chain, wrong, {"a": 0, "b": 0, "c": 0})
    s2_item(tmp_path, whole)
    retry(chain)
    check(chain, whole, {"a": 1, "b": 1, "c": 0})
    retry(chain)
    check(chain, whole, {"a": 1, "b": 1, "c": 0})


def test_what_a_mended_file_does_not_show_is_withdrawn(chain: World, tmp_path: Path) -> None:
    whole = optical(1)
    chain.add(s2_item(tmp_path, whole))
    chain.work()
    s2_item(tmp_path, blanked(whole, slice(0, 26)))
    retry(chain)
    check(chain, whole, {"c": 0})
    assert chain.the_scene().withdrawn == 2
    s2_item(tmp_path, whole)
    retry(chain)
    check(chain, whole, {"a": 2, "b": 2, "c": 0})


@pytest.mark.parametrize("stored_first", [True, False])
def test_a_file_mended_after_a_worker_died_is_a_new_revision(chain: World, tmp_path: Path, stored_first: bool) -> None:
    wrong, whole = optical(1), optical(2)
    chain.add(s2_item(tmp_path, wrong))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ObservationProducer, "send", killing(half_sent))
        with pytest.raises(Killed):
            chain.worker().run(threading.Event())
    if stored_first:
        chain.consumer.catch_up()
    s2_item(tmp_path, whole)
    chain.now.put_forward(timedelta(minutes=5))
    chain.work()
    check(chain, whole, dict.fromkeys(BOXES, 1))


def test_a_mended_unit_corrects_backscatter(chain: World, tmp_path: Path) -> None:
    power = {name: np.full((64, 64), 0.05, np.float32) for name in ("VV", "VH")}
    item = s1_item(tmp_path, power, start=START, stored={"unit": "amplitude"})
    chain.add(item)
    chain.work()
    parsed = json.loads(item.read_text().replace("amplitude", "linear"))
    item.write_text(json.dumps(parsed))
    chain.add(item)
    chain.work()
    found = chain.current("s1")
    assert {row["revision"] for row in found.values()} == {1}
    assert {round(row["vv"], 6) for row in found.values()} == {0.05}
