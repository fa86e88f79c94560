"""The streaming L-TAE: positional code, logits, and dates that do not know of each other."""

import math

import pytest
import torch

from models.classifier.ltae import Attention, ConfigError, Ltae, LtaeConfig, Norm, SeasonNorm, positional_code


def test_positional_code_is_the_published_formula() -> None:
    code = positional_code(torch.tensor([0.0, 37.0, 290.0]), 16, 1000.0)
    for row, day in zip(code, [0, 37, 290], strict=True):
        for i in range(16):
            angle = day / 1000 ** (2 * (i // 2) / 16)
            assert row[i].item() == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)


def test_attention_is_query_times_keys() -> None:
    torch.manual_seed(0)
    attention = Attention(width=32, heads=4, key=8)
    dates = torch.randn(5, 32)
    keys = attention.keys(dates).view(5, 4, 8)
    expected = (keys * attention.query).sum(2) / math.sqrt(8)
    torch.testing.assert_close(attention(dates), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["none", "date"])
def test_a_date_alone_is_as_among_others(norm: Norm) -> None:
    torch.manual_seed(0)
    ltae = Ltae(LtaeConfig(norm=norm)).eval()
    embeddings, day = torch.randn(7, 128), torch.arange(7.0) * 20
    logits, values = ltae.attend(embeddings, day, torch.zeros(len(day)).long())
    for row in range(7):
        alone = ltae.attend(embeddings[row : row + 1], day[row : row + 1], torch.zeros(1).long())
        torch.testing.assert_close(alone[0][0], logits[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone[1][0], values[row], atol=1e-5, rtol=0)


def test_attention_dropout_drops_whole_values_of_a_head_and_keeps_logits() -> None:
    torch.manual_seed(0)
    ltae = Ltae(LtaeConfig(attention_dropout=0.5))
    embeddings, day = torch.randn(50, 128), torch.zeros(50)
    logits, values = ltae.eval().attend(embeddings, day, day.long())
    dropped_logits, dropped = ltae.train().attend(embeddings, day, day.long())
    ratio = dropped / values
    zero = dropped.eq(0).all(2)
    assert dropped_logits.equal(logits)
    assert 0.4 < zero.float().mean() < 0.6
    torch.testing.assert_close(ratio[~zero], torch.full_like(ratio[~zero], 2.0))


def test_the_norm_over_a_season_is_the_published_layer_norm_of_each_parcel_alone() -> None:
    """Ragged parcels whose rows are mixed, far from zero mean: that of torch, to float32's last digits."""
    torch.manual_seed(0)
    parcel = torch.tensor([4, 1, 4, 0, 1, 4, 4, 0, 1, 0])
    dates = torch.randn(10, 32) * 0.01 + 30
    norm = SeasonNorm(32, None)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    got = norm(dates, parcel)
    for one in (0, 1, 4):
        mine = dates[parcel == one].double()
        expected = torch.nn.functional.layer_norm(mine, mine.shape, eps=1e-5) * norm.weight + norm.bias
        torch.testing.assert_close(got[parcel == one].double(), expected, atol=2e-3, rtol=0)
    assert norm(dates[:0], parcel[:0]).shape == (0, 32)


def test_a_pinned_norm_gives_each_date_its_own_affine_map() -> None:
    torch.manual_seed(0)
    norm = SeasonNorm(8, 3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    dates = torch.randn(2, 3, 8)
    expected = torch.nn.functional.layer_norm(dates.transpose(1, 2), (8, 3), norm.weight, norm.bias).transpose(1, 2)
    got = norm(dates.flatten(0, 1), torch.tensor([0, 0, 0, 2, 2, 2]))
    torch.testing.assert_close(got.view(2, 3, 8), expected, atol=1e-6, rtol=0)
    mixed = norm(dates.transpose(0, 1).flatten(0, 1), torch.tensor([0, 2, 0, 2, 0, 2]))
    torch.testing.assert_close(mixed.view(3, 2, 8).transpose(0, 1), expected, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="pinned to seasons of 3 dates, a parcel has 2"):
        norm(torch.randn(5, 8), torch.tensor([0, 0, 0, 2, 2]))
