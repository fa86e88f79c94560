"""The streaming L-TAE: positional code, logits, and dates that do not know of each other."""

import math

import pytest
import torch

from models.ltae import Attention, LtaeConfig, StreamingLtae, positional_code


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


@pytest.mark.parametrize("date_norm", [False, True])
def test_a_date_alone_is_as_among_others(date_norm: bool) -> None:
    torch.manual_seed(0)
    ltae = StreamingLtae(LtaeConfig(date_norm=date_norm)).eval()
    embeddings, day = torch.randn(7, 128), torch.arange(7.0) * 20
    logits, values = ltae.attend(embeddings, day)
    for row in range(7):
        alone = ltae.attend(embeddings[row : row + 1], day[row : row + 1])
        torch.testing.assert_close(alone[0][0], logits[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone[1][0], values[row], atol=1e-5, rtol=0)


def test_attention_dropout_drops_whole_values_of_a_head_and_keeps_logits() -> None:
    torch.manual_seed(0)
    ltae = StreamingLtae(LtaeConfig(attention_dropout=0.5))
    embeddings, day = torch.randn(50, 128), torch.zeros(50)
    logits, values = ltae.eval().attend(embeddings, day)
    dropped_logits, dropped = ltae.train().attend(embeddings, day)
    ratio = dropped / values
    zero = dropped.eq(0).all(2)
    assert dropped_logits.equal(logits)
    assert 0.4 < zero.float().mean() < 0.6
    torch.testing.assert_close(ratio[~zero], torch.full_like(ratio[~zero], 2.0))
