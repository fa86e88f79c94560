"""Tables of experiments: seeds averaged, noise respected, nothing bold that seeds alone could make."""

from pathlib import Path

import pytest

from research.experiments.tables import (
    Cell,
    Measurement,
    cells,
    differences,
    markdown,
    noise,
    pooled_sd,
    read_csv,
    rich_table,
    winners,
    write_csv,
)


def measured(scheme: str, values: list[float], at: str = "end", draw: int = 0) -> list[Measurement]:
    return [Measurement(scheme, "both", seed, draw, 1.0, at, "mIoU", value) for seed, value in enumerate(values)]


def test_draws_of_a_seed_are_averaged_before_seeds_are_compared() -> None:
    found = [*measured("late", [0.8, 0.9]), *measured("late", [0.6, 0.9], draw=1)]
    cell = cells(found, "mIoU")[("late", "both"), "end"]
    assert cell.n == 2
    assert cell.mean == pytest.approx(0.8)
    assert cell.sd == pytest.approx(0.2 / 2**0.5)  # of 0.7 and 0.9


def test_the_spread_is_pooled_over_rows_and_a_single_seed_has_none() -> None:
    sd, dof = pooled_sd([Cell(0.5, 0.01, 3), Cell(0.6, 0.03, 3), Cell.of([0.7])])
    assert dof == 4
    assert sd == pytest.approx(0.0005**0.5)
    assert noise(Cell.of([0.7]), Cell.of([0.9]), [Cell.of([0.7]), Cell.of([0.9])]) == float("inf")


def test_noise_is_that_of_a_t_test_with_the_pooled_spread() -> None:
    a, b = Cell(0.5, 0.02, 3), Cell(0.6, 0.02, 3)
    assert noise(a, b, [a, b]) == pytest.approx(2.776 * 0.02 * (2 / 3) ** 0.5, rel=1e-3)  # t(0.975, 4) = 2.776


def test_a_clear_best_is_bold_and_one_within_noise_is_not() -> None:
    clear = [*measured("late", [0.90, 0.91, 0.92]), *measured("early", [0.70, 0.71, 0.72])]
    assert "**0.910 ± 0.010**" in markdown(clear, "mIoU")
    close = [*measured("late", [0.90, 0.91, 0.92]), *measured("early", [0.895, 0.905, 0.915])]
    assert "**0" not in markdown(close, "mIoU")
    assert markdown(close, "mIoU").count("≈") == 2
    one_seed = [*measured("late", [0.9]), *measured("early", [0.1])]
    assert "≈" not in markdown(one_seed, "mIoU")
    assert "**0" not in markdown(one_seed, "mIoU")


def test_small_can_be_best() -> None:
    column = {("a", ""): Cell(0.1, 0.001, 3), ("b", ""): Cell(0.9, 0.001, 3)}
    assert winners(column, "smallest") == {("a", "")}
    assert winners(column) == {("b", "")}


def test_differences_are_bold_where_seeds_could_not_make_them() -> None:
    found = [*measured("S2", [0.5, 0.52]), *measured("late", [0.8, 0.82]), *measured("mid", [0.505, 0.525])]
    table = differences(found, "mIoU", ("S2", "both"))
    assert "| late | both | **+0.300** |" in table
    assert "| mid | both | +0.005 |" in table
    assert "| S2 |" not in table
    assert "**+" not in differences([one for one in found if one.seed == 0], "mIoU", ("S2", "both"))
    assert differences(found, "mIoU", ("S1", "both")) == ""


def test_missing_cells_stay_empty() -> None:
    found = [*measured("late", [0.8], at="May"), *measured("S2", [0.5], at="June")]
    assert "| late | both | 0.800 |  |" in markdown(found, "mIoU")
    assert rich_table(found, "mIoU").row_count == 2


def test_csv_round_trip(tmp_path: Path) -> None:
    found = measured("late, all", [0.1, 1 / 3])
    write_csv(tmp_path / "x.csv", found)
    assert read_csv(tmp_path / "x.csv") == found
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="holds no measurements: its columns are a, b"):
        read_csv(tmp_path / "y.csv")
