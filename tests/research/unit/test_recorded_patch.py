"""The recorded patch: a year of dates with declared crops, and which drawn fields its picture calls found."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from research.bench.delineate import app
from research.bench.recorded_patch import _found, read


def test_a_field_is_found_where_it_is_a_known_one_on_declared_land() -> None:
    known = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [2, 2, 2, 0]])
    drawn = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [1, 2, 3, 5]])
    assert _found(drawn, known).tolist() == [0, 0, 0, 0, 0, 1]
    assert _found(np.zeros((3, 4), int), known).tolist() == [0]


def test_its_last_year_is_drawn_and_shown(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    folder = data_dir("be-flanders-patches")
    patch = read(folder)
    assert patch.images.shape == (len(patch.dates), 10, *patch.crops.shape)
    assert (patch.dates[-1] - patch.dates[0]).days <= 365
    assert np.isnan(patch.clear_images[~patch.is_clear.any((1, 2))]).all()
    answer = CliRunner().invoke(app, ["flanders", str(folder), "--picture", str(tmp_path / "patch.png")])
    assert answer.exit_code == 0, answer.output
    assert f"{'watershed known':<24}{patch.known.max()}" in answer.output
    with Image.open(tmp_path / "patch.png") as shown:
        assert shown.width > 1000
