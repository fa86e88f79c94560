"""The bench of U-TAE at a small size: the same outputs, and every figure."""

from research.bench.segmentation import measured


def test_ours_gives_what_the_published_form_gives_and_a_date_more_what_the_season_gives() -> None:
    found = measured(dates=3, size=16, rounds=1)
    assert found["max_abs_diff"] < 1e-5 < found["largest_logit"]
    assert found["incremental_max_abs_diff"] < 1e-5
    assert found["state_mb"] > 0
    assert found["incremental_speedup"] > 0
