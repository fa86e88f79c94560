"""The published classifier: the reference file of the published code, reproduced to 1e-5."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.published import POSITION_TABLE, load_published

REFERENCE = Path(os.environ.get("PARCELWATCH_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
FILE = REFERENCE / "parcel_s2_t24.npz"
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no reference tensors: {FILE} (PARCELWATCH_REFERENCE)")


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE, allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def weights(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("weights/"): one for name, one in reference.items() if name.startswith("weights/")}


def test_outputs_are_the_published_ones(reference: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    network = load_published(weights)
    inputs = [reference[name] for name in ("pixels", "mask", "geometry")]
    with torch.no_grad():
        embeddings = network.embed(*inputs)
        temporal = network.summarise(embeddings, reference["positions"])
        logits = network(*inputs, reference["positions"])
    for got, name in ((embeddings, "embeddings"), (temporal, "temporal"), (logits, "logits")):
        torch.testing.assert_close(got, reference[name], atol=TOLERANCE, rtol=0)


def test_the_folded_encoder_embeds_as_the_published_one(
    reference: dict[str, Tensor], weights: dict[str, Tensor]
) -> None:
    network = load_published(weights).folded()
    got = network.embed(reference["pixels"], reference["mask"], reference["geometry"])
    torch.testing.assert_close(got, reference["embeddings"], atol=TOLERANCE, rtol=0)


def test_the_position_table_is_recomputed_exactly(reference: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    from models.ltae import positional_code

    code = positional_code(reference["positions"].float(), 16, 1000.0).repeat(1, 16)
    torch.testing.assert_close(code, weights[POSITION_TABLE], atol=1e-6, rtol=0)


def test_another_state_dict_is_refused(weights: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="not a published"):
        load_published({name: one for name, one in weights.items() if "inconv" not in name})
    with pytest.raises(ValueError, match="not a published"):
        load_published({**weights, "decoder.9.weight": torch.zeros(1)})
