"""What obligations on field work say of a simulated season, beside its truth."""

from research.bench.field_work_asked import lights
from research.simulator.config import SimulatorConfig
from research.simulator.season import simulate_season


def test_what_was_done_in_time_is_not_red_and_what_was_late_mostly_is() -> None:
    table = lights(simulate_season(SimulatorConfig(year=2024, seed=7, n_parcels=60, n_pixels=1)))
    assert (table[["green", "yellow", "red", "not valid"]].sum(axis=1) == table["asked"]).all()
    row = {(one["kind"], one["truth"]): one for one in table.reset_index().to_dict("records")}
    assert row["harvested", "in time"]["reds"] == 0
    assert row["harvested", "later"]["red"] > row["harvested", "later"]["asked"] / 2
    assert sum(one["reds"] for (kind, _), one in row.items() if kind == "tilled") == 0
    assert row["not_tilled", "not tilled"]["reds"] == 0
