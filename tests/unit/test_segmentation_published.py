"""The published U-TAE and PaPs: their reference files reproduced to 1e-5, and other sizes, batches and dates of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.published_weights import PublishedError, kind_of
from models.segmentation.published import OUTPUTS, largest_differences, load_paps, load_utae
from research.experiments.published_segmentation import Sizes, paps_outputs, paps_state, utae_outputs, utae_state

REFERENCE = Path(os.environ.get("PARCELWATCH_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
TOLERANCE = 1e-5

SMALL = Sizes()
OTHERS = (
    (SMALL, 2, 3, (16, 24)),
    (SMALL, 1, 1, (24, 16)),
    (
        Sizes(channels=1, classes=2, encoder=(16, 32, 32), decoder=(24, 16, 32), width=48, heads=16, key=2),
        1,
        2,
        (8, 12),
    ),
    (
        Sizes(channels=13, classes=20, encoder=(8, 32), decoder=(4, 32), width=24, heads=8, head=(8, 12), shape=5),
        3,
        2,
        (8, 8),
    ),
)
KEPT = ("center_mask", "saliency", "semantic", "pano_instance")


def inputs_of(sizes: Sizes, series: int, dates: int, size: tuple[int, int], seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "images": torch.randn(series, dates, sizes.channels, *size, generator=random),
        "positions": torch.randint(0, 700, (series, dates), generator=random).sort(1).values,
    }


def reference(name: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    file = REFERENCE / name
    if not file.is_file():
        pytest.skip(f"no reference tensors: {file} (PARCELWATCH_REFERENCE)")
    with np.load(file, allow_pickle=False) as stored:
        arrays = {one.removeprefix("out/"): torch.from_numpy(stored[one]) for one in stored.files}
    weights: dict[str, object] = {
        one.removeprefix("weights/"): array for one, array in arrays.items() if one.startswith("weights/")
    }
    return weights, arrays


def test_outputs_of_utae_are_the_published_ones() -> None:
    weights, arrays = reference("utae_s2.npz")
    found = largest_differences(load_utae(weights), arrays)
    assert found.keys() == {"logits", "attention"}
    assert max(found.values()) <= TOLERANCE
    form = utae_outputs(
        {name: one for name, one in weights.items() if isinstance(one, Tensor)}, arrays["images"], arrays["positions"]
    )
    for name, one in form.items():
        torch.testing.assert_close(one, arrays[name], atol=TOLERANCE, rtol=0)


def test_outputs_of_paps_are_the_published_ones() -> None:
    weights, arrays = reference("paps_s2.npz")
    found = largest_differences(load_paps(weights), arrays)
    assert len(found) == 10
    assert max(found.values()) <= TOLERANCE
    assert found["center_mask"] == found["instance_boxes"] == found["pano_instance"] == 0
    form = paps_outputs(
        {name: one for name, one in weights.items() if isinstance(one, Tensor)}, arrays["images"], arrays["positions"]
    )
    for name in ("center_mask", "instance_boxes", "semantic", "pano_instance"):
        torch.testing.assert_close(form[name].float(), arrays[name].float(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("channels", "classes", "parameters"), [(10, 19, 1_086_969), (10, 20, 1_087_260), (3, 19, 1_082_937)]
)
def test_parameters_are_as_many_as_published(channels: int, classes: int, parameters: int) -> None:
    published = Sizes(channels, classes, (64, 64, 64, 128), (32, 32, 64, 128), 256, 16, 4)
    assert sum(one.numel() for one in load_utae(utae_state(published)).parameters()) == parameters


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("sizes", "series", "dates", "size"), OTHERS, ids=range(len(OTHERS)))
def test_any_sizes_are_read_from_the_weights(
    sizes: Sizes, series: int, dates: int, size: tuple[int, int], seed: int
) -> None:
    state, inputs = utae_state(sizes, seed), inputs_of(sizes, series, dates, size, seed)
    outputs = utae_outputs(state, inputs["images"], inputs["positions"])
    assert outputs["logits"].std() > 0.05
    found = largest_differences(load_utae(state), {**inputs, **outputs})
    assert max(found.values()) <= TOLERANCE

    state = paps_state(sizes, seed)
    outputs = paps_outputs(state, inputs["images"], inputs["positions"])
    # Fields were drawn, and some candidates were not.
    assert 2 < outputs["pano_instance"].unique().numel() < len(outputs["size"])  # type: ignore[no-untyped-call]
    network = load_paps(state)
    found = largest_differences(network, {**inputs, **{name: outputs[name] for name in OUTPUTS[type(network)]}})
    assert len(found) == 10
    assert max(found.values()) <= TOLERANCE


def test_the_form_itself_is_no_better_than_its_float32() -> None:
    """What 1e-5 leaves out is rounding that any float32 evaluation has: against float64 ours is as near as the form's own."""
    state, inputs = utae_state(SMALL), inputs_of(SMALL, 2, 3, (16, 16))
    exact = utae_outputs(state, inputs["images"], inputs["positions"], dtype=torch.float64)
    found = largest_differences(load_utae(state), {**inputs, **exact})
    for name, one in utae_outputs(state, inputs["images"], inputs["positions"]).items():
        assert found[name] <= 2 * float((one - exact[name]).abs().max()) + 1e-6


def test_a_confidence_given_with_the_reference_counts() -> None:
    state, inputs = {**paps_state(SMALL), "min_confidence": torch.tensor([0.2])}, inputs_of(SMALL, 2, 2, (16, 16))
    confidence = paps_outputs(state, inputs["images"], inputs["positions"])["confidence"]
    median = float(confidence.median()) + 1e-4
    expected = paps_outputs(state, inputs["images"], inputs["positions"], min_confidence=median)
    kept = {name: expected[name] for name in KEPT}
    network = load_paps(state)
    assert largest_differences(network, {**inputs, **kept})["pano_instance"] >= 1
    found = largest_differences(
        network, {**inputs, **kept, "min_confidence": torch.tensor(median, dtype=torch.float64)}
    )
    assert max(found.values()) <= TOLERANCE
    assert (
        largest_differences(load_paps({**state, "min_confidence": torch.tensor([median])}), {**inputs, **kept})[
            "pano_instance"
        ]
        == 0
    )


def test_dates_that_are_zero_everywhere_are_padding() -> None:
    """A series with padding between its dates has the outputs of the series without, and no attention there."""
    for state, load in ((utae_state(SMALL), load_utae), (paps_state(SMALL), load_paps)):
        inputs = inputs_of(SMALL, 2, 3, (16, 16))
        expected = (
            utae_outputs(state, inputs["images"], inputs["positions"])
            if load is load_utae
            else paps_outputs(state, inputs["images"], inputs["positions"])
        )
        if load is load_utae:
            attention = torch.zeros(SMALL.heads, 2, 5, 2, 2)
            attention[:, :, [0, 2, 3]] = expected["attention"]
            expected["attention"] = attention
        images, positions = torch.zeros(2, 5, SMALL.channels, 16, 16), torch.full((2, 5), 77)
        images[:, [0, 2, 3]], positions[:, [0, 2, 3]] = inputs["images"], inputs["positions"]
        found = largest_differences(load(state), {**expected, "images": images, "positions": positions})
        assert max(found.values()) <= TOLERANCE


def test_positions_for_all_series_or_for_each() -> None:
    state, inputs = utae_state(SMALL), inputs_of(SMALL, 2, 2, (16, 16))
    inputs["positions"] = inputs["positions"][0]
    found = largest_differences(
        load_utae(state), {**inputs, **utae_outputs(state, inputs["images"], inputs["positions"])}
    )
    assert max(found.values()) <= TOLERANCE


def test_a_state_dict_as_training_scripts_store_it() -> None:
    for state, load, kind in ((utae_state(SMALL), load_utae, "utae"), (paps_state(SMALL), load_paps, "paps")):
        parallel = {f"module.{name}": one for name, one in state.items()}
        for stored in ({"epoch": 3, "state_dict": parallel, "optimizer": {}}, {"model_state_dict": state}, parallel):
            assert kind_of(stored) == kind
            ours, plain = load(stored).state_dict(), load(state).state_dict()
            assert all(one.equal(plain[name]) for name, one in ours.items())


def test_another_state_dict_is_refused_in_one_line() -> None:
    utae, paps = utae_state(SMALL), paps_state(SMALL)
    for load, broken, message in (
        (load_utae, {**utae, "in_conv.extra": torch.zeros(1)}, "published U-TAE: it has 'in_conv.extra'"),
        (load_utae, {name: one for name, one in utae.items() if "in_norm" not in name}, "temporal.norm_in"),
        (
            load_utae,
            {name: one for name, one in utae.items() if "heads.Q" not in name},
            "no 'temporal.attention.query'",
        ),
        (load_utae, {name: one for name, one in utae.items() if "out_conv" not in name}, "published U-TAE: "),
        (load_utae, {**utae, "in_conv.conv.conv.0.weight": torch.zeros(8, 3, 5, 5)}, "size mismatch"),
        (load_utae, {**utae, "in_conv.conv.conv.2.weight": torch.zeros(1)}, "first.0.none.weight"),
        (load_utae, {**utae, "down_blocks.0.down.conv.0.weight": torch.zeros(8)}, "size mismatch"),
        (load_utae, paps, "it has 'encoder.in_conv"),
        (load_paps, utae, "published PaPs: it has 'in_conv"),
        (load_paps, {**paps, "encoder.other": torch.zeros(1)}, "published PaPs: it has 'other'"),
        (load_paps, {name: one for name, one in paps.items() if "mask_cnn" not in name}, "head.mask.conv1.weight"),
        (load_paps, {**paps, "shape_mlp.3.weight": torch.zeros(7, 22)}, "size mismatch"),
        (load_paps, {**paps, "min_confidence": torch.tensor([1.5])}, "min_confidence is between 0 and 1, not 1.5"),
        (load_paps, {**paps, "min_confidence": torch.tensor([0.1, 0.2])}, "published PaPs: "),
        (load_paps, {"epoch": 3}, "'epoch' is no tensor"),
    ):
        with pytest.raises(PublishedError, match=message) as refused:
            load(broken)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(2, 3, 16, 16)}, "no input `images`"),
        ({"images": torch.zeros(2, 0, 3, 16, 16)}, "no input `images`"),
        ({"images": torch.zeros(2, 2, 4, 16, 16)}, "images have 4 channels, these weights take 3"),
        ({"images": torch.zeros(2, 2, 3, 16, 20)}, "images are 16 x 20, these weights take multiples of 8 from 16 on"),
        ({"images": torch.zeros(2, 2, 3, 8, 16)}, "images are 8 x 16"),
        ({"positions": torch.zeros(3)}, r"no input `positions` of 2 dates or \(2, 2\): it is \(3,\)"),
        ({"logits": torch.zeros(2, 4, 16, 16)}, r"logits is \(2, 4, 16, 16\), these weights give \(2, 5, 16, 16\)"),
    ],
)
def test_tensors_that_do_not_fit_the_weights_are_named(changed: dict[str, Tensor], message: str) -> None:
    whole = {**inputs_of(SMALL, 2, 2, (16, 16)), "logits": torch.zeros(2, 5, 16, 16), **changed}
    with pytest.raises(PublishedError, match=message):
        largest_differences(load_utae(utae_state(SMALL)), whole)


def test_what_is_missing_is_named() -> None:
    network, inputs = load_utae(utae_state(SMALL)), inputs_of(SMALL, 1, 2, (16, 16))
    with pytest.raises(PublishedError, match="nothing to compare with: none of logits, attention is there"):
        largest_differences(network, inputs)
    with pytest.raises(PublishedError, match="no input `positions` of 2 dates"):
        largest_differences(network, {"images": inputs["images"], "logits": torch.zeros(1, 5, 16, 16)})


def test_a_wrong_output_is_seen() -> None:
    state, inputs = paps_state(SMALL), inputs_of(SMALL, 2, 2, (16, 16))
    outputs = paps_outputs(state, inputs["images"], inputs["positions"])
    outputs["pano_instance"][0, 0, 0] += 1
    outputs["instance_boxes"][2, 1] -= 1
    outputs["size"][1, 0] = torch.nan
    found = largest_differences(load_paps(state), {**inputs, **outputs})
    assert found["pano_instance"] == found["instance_boxes"] == 1
    assert np.isnan(found["size"])
