"""The published classifier: its reference file reproduced to 1e-5, and any other sizes, dates, masks and forms of it."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.classifier.ltae import ConfigError, positional_code
from models.classifier.packed_series import Batch, Series
from models.classifier.published import OUTPUTS, POSITION_TABLE, PublishedPseLtae, largest_differences, load_published
from models.published_weights import PublishedError

REFERENCE = Path(os.environ.get("PARCELWATCH_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
FILE = REFERENCE / "parcel_s2_t24.npz"
TOLERANCE = 1e-5

reference_file = pytest.mark.skipif(not FILE.is_file(), reason=f"no reference tensors: {FILE} (PARCELWATCH_REFERENCE)")


@dataclass(frozen=True)
class Sizes:
    """Of a published network, published ones where nothing is said."""

    channels: int = 10
    dates: int = 9
    classes: int = 20
    pixel_widths: tuple[int, ...] = (32, 64)
    geometry: int = 4
    embedding: int = 128
    width: int = 256
    heads: int = 16
    key: int = 8
    outputs: int = 128
    decoder: tuple[int, ...] = (64, 32)


OTHERS = (
    Sizes(),
    Sizes(channels=3, dates=1, classes=2),
    Sizes(channels=13, dates=70, classes=44, decoder=(48,)),
    Sizes(channels=1, dates=2, pixel_widths=(16, 24, 40), geometry=0, embedding=96, decoder=(64, 32, 16)),
    Sizes(dates=5, width=64, heads=4, key=16, outputs=80, pixel_widths=(8,), geometry=2, decoder=()),
    Sizes(dates=3, width=32, heads=16, key=2),
)


def published_state(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """A state dict under published names, its batch norms as if trained, attention drawn as published."""
    random = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def normal(*shape: int, sd: float = 1.0) -> Tensor:
        return sd * torch.randn(*shape, generator=random)

    def linear(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = (
            normal(outputs, inputs, sd=inputs**-0.5),
            normal(outputs, sd=0.1),
        )

    def batch_norm(name: str, size: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + normal(size, sd=0.1), normal(size, sd=0.1)
        state[f"{name}.running_mean"] = normal(size, sd=0.3)
        state[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=random)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def layer_norm(name: str, *shape: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + normal(*shape, sd=0.1), normal(*shape, sd=0.1)

    inputs = sizes.channels
    for layer, width in enumerate(sizes.pixel_widths):
        linear(f"spatial_encoder.mlp1.{layer}.lin", inputs, width)
        batch_norm(f"spatial_encoder.mlp1.{layer}.bn", width)
        inputs = width
    linear("spatial_encoder.mlp2.0", 2 * inputs + sizes.geometry, sizes.embedding)
    batch_norm("spatial_encoder.mlp2.1", sizes.embedding)
    layer_norm("temporal_encoder.inlayernorm", sizes.embedding)
    linear("temporal_encoder.inconv.0", sizes.embedding, sizes.width)
    state["temporal_encoder.inconv.0.weight"] = state["temporal_encoder.inconv.0.weight"][..., None]
    layer_norm("temporal_encoder.inconv.1", sizes.width, sizes.dates)
    state["temporal_encoder.attention_heads.Q"] = normal(sizes.heads, sizes.key, sd=math.sqrt(2 / sizes.key))
    linear("temporal_encoder.attention_heads.fc1_k", sizes.width, sizes.heads * sizes.key)
    linear("temporal_encoder.mlp.0", sizes.width, sizes.outputs)
    batch_norm("temporal_encoder.mlp.1", sizes.outputs)
    layer_norm("temporal_encoder.outlayernorm", sizes.outputs)
    inputs = sizes.outputs
    for layer, width in enumerate(sizes.decoder):
        linear(f"decoder.{3 * layer}", inputs, width)
        batch_norm(f"decoder.{3 * layer + 1}", width)
        inputs = width
    linear(f"decoder.{3 * len(sizes.decoder)}", inputs, sizes.classes)
    return state


def as_printed(state: dict[str, Tensor], inputs: dict[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """The published outputs, parcel by parcel and date by date, in float64, as the paper has it."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].flatten(1).T + w[f"{name}.bias"]

    def batch_norm(name: str, x: Tensor) -> Tensor:
        scaled = (x - w[f"{name}.running_mean"]) / torch.sqrt(w[f"{name}.running_var"] + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def layer_norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape, w[f"{name}.weight"], w[f"{name}.bias"])

    def embedding(pixels: Tensor, mask: Tensor, geometry: Tensor) -> Tensor:
        z = pixels.T  # (S, C)
        for layer in range(len(sizes.pixel_widths)):
            z = torch.relu(
                batch_norm(f"spatial_encoder.mlp1.{layer}.bn", linear(f"spatial_encoder.mlp1.{layer}.lin", z))
            )
        n = mask.sum()
        mean = (z * mask[:, None]).sum(0) / n
        n = torch.where(n == 1, 2, n)  # one pixel: n = 1
        sd = torch.sqrt(((z - mean) ** 2 * mask[:, None]).sum(0) / (n - 1) + 1e-31)
        out = linear("spatial_encoder.mlp2.0", torch.cat([mean, sd, geometry]))
        return batch_norm("spatial_encoder.mlp2.1", out)

    def season(embeddings: Tensor, days: Tensor) -> Tensor:
        h = torch.stack(
            [linear("temporal_encoder.inconv.0", layer_norm("temporal_encoder.inlayernorm", e)) for e in embeddings]
        )
        h = layer_norm("temporal_encoder.inconv.1", h.T).T  # over (channels, dates)
        d = sizes.width // sizes.heads
        code = [
            [(math.cos if i % 2 else math.sin)(day / 1000 ** (2 * (i // 2) / d)) for i in range(d)]
            for day in days.tolist()
        ]
        h = h + torch.tensor(code, dtype=torch.float64).repeat(1, sizes.heads)
        keys = linear("temporal_encoder.attention_heads.fc1_k", h).view(-1, sizes.heads, sizes.key)
        heads = []
        for head in range(sizes.heads):
            logits = keys[:, head] @ w["temporal_encoder.attention_heads.Q"][head] / math.sqrt(sizes.key)
            heads.append(torch.softmax(logits, 0) @ h[:, d * head : d * (head + 1)])
        out = torch.relu(batch_norm("temporal_encoder.mlp.1", linear("temporal_encoder.mlp.0", torch.cat(heads))))
        return layer_norm("temporal_encoder.outlayernorm", out)

    def decoded(x: Tensor) -> Tensor:
        for layer in range(len(sizes.decoder)):
            x = torch.relu(batch_norm(f"decoder.{3 * layer + 1}", linear(f"decoder.{3 * layer}", x)))
        return linear(f"decoder.{3 * len(sizes.decoder)}", x)

    pixels = inputs["pixels"].double()
    b, t, _, s = pixels.shape
    mask = inputs.get("mask", torch.ones(b, s)).double()
    mask = mask if mask.ndim == 3 else mask[:, None].expand(b, t, s)
    geometry = inputs.get("geometry", torch.zeros(b, 0)).double()
    geometry = geometry if geometry.ndim == 3 else geometry[:, None].expand(b, t, -1)
    days = inputs["positions"].expand(b, t)
    embeddings = torch.stack(
        [torch.stack([embedding(pixels[p, i], mask[p, i], geometry[p, i]) for i in range(t)]) for p in range(b)]
    )
    temporal = torch.stack([season(embeddings[p], days[p]) for p in range(b)])
    logits = torch.stack([decoded(one) for one in temporal])
    return {"embeddings": embeddings.float(), "temporal": temporal.float(), "logits": logits.float()}


def inputs_of(sizes: Sizes, parcels: int = 3, pixels: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs; the first parcel has one valid pixel."""
    random = torch.Generator().manual_seed(seed)
    mask = (torch.rand(parcels, pixels, generator=random) < 0.7).float()
    mask[:, 0] = 1
    mask[0, 1:] = 0
    return {
        "pixels": torch.randn(parcels, sizes.dates, sizes.channels, pixels, generator=random),
        "mask": mask,
        "geometry": torch.randn(parcels, sizes.geometry, generator=random),
        "positions": torch.randint(0, 366, (sizes.dates,), generator=random).sort().values,
    }


def assert_both_paths(network: PublishedPseLtae, reference: dict[str, Tensor]) -> None:
    for one in (network, network.folded()):
        found = largest_differences(one, reference)
        assert found.keys() == reference.keys() & set(OUTPUTS)
        assert max(found.values()) <= TOLERANCE


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE, allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def weights(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("weights/"): one for name, one in reference.items() if name.startswith("weights/")}


@reference_file
def test_outputs_are_the_published_ones(reference: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    assert_both_paths(load_published(weights), reference)


@reference_file
def test_the_position_table_is_recomputed_exactly(reference: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    code = positional_code(reference["positions"].float(), 16, 1000.0).repeat(1, 16)
    torch.testing.assert_close(code, weights[POSITION_TABLE], atol=1e-6, rtol=0)
    positions = load_published(weights).positions
    assert positions is not None
    assert positions.tolist() == reference["positions"].tolist()


@reference_file
def test_the_literal_form_of_this_test_is_the_published_one(
    reference: dict[str, Tensor], weights: dict[str, Tensor]
) -> None:
    got = as_printed(weights, reference, Sizes(dates=24))
    for name in OUTPUTS:
        torch.testing.assert_close(got[name], reference[name], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sizes", OTHERS, ids=range(len(OTHERS)))
def test_any_sizes_are_read_from_the_weights(sizes: Sizes) -> None:
    state, inputs = published_state(sizes), inputs_of(sizes)
    assert_both_paths(load_published(state), {**inputs, **as_printed(state, inputs, sizes)})


@pytest.mark.parametrize("parcels", [1, 4])
@pytest.mark.parametrize("pixels", [1, 2, 33])
def test_any_number_of_parcels_and_pixels(parcels: int, pixels: int) -> None:
    sizes = Sizes()
    state, inputs = published_state(sizes), inputs_of(sizes, parcels, pixels)
    assert_both_paths(load_published(state), {**inputs, **as_printed(state, inputs, sizes)})


def test_a_mask_geometry_and_positions_for_each_date_or_none() -> None:
    sizes = Sizes()
    state, inputs = published_state(sizes), inputs_of(sizes)
    random = torch.Generator().manual_seed(5)
    by_date = (torch.rand(3, 9, 6, generator=random) < 0.5).float()
    by_date[..., 2] = 1
    forms: list[dict[str, Tensor]] = [
        {**inputs, "mask": by_date},
        {**inputs, "mask": inputs["mask"].bool()},
        {**inputs, "geometry": torch.randn(3, 9, 4, generator=random)},
        {**inputs, "positions": torch.randint(0, 400, (3, 9), generator=random)},
        {name: one for name, one in inputs.items() if name != "mask"},
    ]
    for form in forms:
        assert_both_paths(load_published(state), {**form, **as_printed(state, form, sizes)})


def test_any_subset_of_the_outputs() -> None:
    sizes = Sizes()
    state, inputs = published_state(sizes), inputs_of(sizes)
    outputs = as_printed(state, inputs, sizes)
    for name in OUTPUTS:
        assert_both_paths(load_published(state), {**inputs, name: outputs[name]})
    alone = {"pixels": inputs["pixels"], "mask": inputs["mask"], "geometry": inputs["geometry"]}
    assert_both_paths(load_published(state), {**alone, "embeddings": outputs["embeddings"]})
    with pytest.raises(PublishedError, match="no positions are given, and the weights store no position table"):
        largest_differences(load_published(state), {**alone, "logits": outputs["logits"]})


def test_a_state_dict_as_training_scripts_store_it() -> None:
    sizes = Sizes()
    state, inputs = published_state(sizes), inputs_of(sizes)
    expected = {**inputs, **as_printed(state, inputs, sizes)}
    parallel = {f"module.{name}": one for name, one in state.items()}
    for stored in ({"epoch": 3, "state_dict": state, "optimizer": {}}, {"state_dict": parallel}, parallel):
        assert_both_paths(load_published(stored), expected)
    assert_both_paths(
        load_published({name: one.double() for name, one in state.items() if "tracked" not in name}), expected
    )


@pytest.mark.parametrize("first", [0, 1])
def test_positions_come_from_the_table_where_none_are_given(first: int) -> None:
    """A table of as many days as dates, or of positions 0 to T of which the published code uses 1 to T."""
    sizes = Sizes()
    days = torch.arange(1, 10) if first else torch.tensor([3, 7, 30, 31, 88, 120, 250, 364, 1100])
    table = positional_code(torch.arange(10.0) if first else days.float(), 16, 1000.0).repeat(1, 16)
    state, inputs = published_state(sizes), {**inputs_of(sizes), "positions": days}
    outputs = as_printed(state, inputs, sizes)
    del inputs["positions"]
    assert_both_paths(load_published({**state, POSITION_TABLE: table}), {**inputs, **outputs})
    with pytest.raises(PublishedError, match="not the published code of period 1000"):
        load_published({**state, POSITION_TABLE: torch.rand(9, 256)})


def test_a_wrong_output_and_one_that_is_no_number_are_seen() -> None:
    sizes = Sizes()
    state, inputs = published_state(sizes), inputs_of(sizes)
    outputs = as_printed(state, inputs, sizes)
    outputs["temporal"][1, 5] += 0.25
    outputs["logits"][0, 0] = math.nan
    found = largest_differences(load_published(state), {**inputs, **outputs})
    assert found["embeddings"] <= TOLERANCE
    assert found["temporal"] == pytest.approx(0.25, abs=1e-4)
    assert math.isnan(found["logits"])


def test_parcels_without_a_valid_pixel_are_finite() -> None:
    """The published form divides by zero there; with the count held at one it is ours."""
    sizes = Sizes()
    inputs = inputs_of(sizes)
    inputs["mask"][1] = 0
    network = load_published(published_state(sizes))
    for one in (network, network.folded()):
        assert one(*inputs.values()).isfinite().all()
    empty, full = (
        {**inputs, "mask": torch.zeros(3, 6)},
        {**inputs, "pixels": torch.randn(3, 9, 10, 6), "mask": torch.zeros(3, 6)},
    )
    assert network(*empty.values()).equal(network(*full.values()))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("pixels", (3, 9, 10), "no input `pixels`"),
        ("pixels", (0, 9, 10, 6), "no input `pixels`"),
        ("pixels", (3, 9, 4, 6), r"pixels is \(3, 9, 4, 6\), these weights take \(3, 9, 10, 6\)"),
        ("pixels", (3, 8, 10, 6), r"pixels is \(3, 8, 10, 6\)"),
        ("mask", (3, 7), r"mask is \(3, 7\)"),
        ("geometry", (3, 3), r"geometry is \(3, 3\)"),
        ("positions", (8,), r"positions is \(8,\)"),
        ("logits", (3, 19), r"logits is \(3, 19\), these weights give \(3, 20\)"),
    ],
)
def test_tensors_that_do_not_fit_the_weights_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    sizes = Sizes()
    reference = {**inputs_of(sizes), "logits": torch.zeros(3, 20), name: torch.zeros(shape)}
    with pytest.raises(PublishedError, match=message):
        largest_differences(load_published(published_state(sizes)), reference)


def test_a_reference_without_what_is_needed_is_named() -> None:
    sizes = Sizes()
    network, inputs = load_published(published_state(sizes)), inputs_of(sizes)
    with pytest.raises(PublishedError, match="nothing to compare with"):
        largest_differences(network, inputs)
    with pytest.raises(PublishedError, match="no input `geometry`"):
        largest_differences(network, {"pixels": inputs["pixels"], "embeddings": torch.zeros(3, 9, 128)})


def test_another_state_dict_is_refused() -> None:
    state = published_state(Sizes())
    for broken, message in (
        ({name: one for name, one in state.items() if "inconv" not in name}, r"it lacks temporal_encoder\.inconv\.0\."),
        ({name: one for name, one in state.items() if name != "decoder.6.bias"}, "decoder.4.bias"),
        ({name: one for name, one in state.items() if "decoder" not in name}, "decoder.0.bias"),
        ({**state, "decoder.9.weight": torch.zeros(1)}, "not a state dict of the published"),
        ({**state, "spatial_encoder.mlp1.0.lin.weight": torch.zeros(32, 10, 2)}, "size mismatch"),
        (
            {**state, "spatial_encoder.mlp2.3.weight": torch.zeros(1)},
            "it has 'spatial_encoder.mlp2.3.weight'; known are",
        ),
        ({**state, "in_conv.conv.weight": torch.zeros(1)}, "it has 'in_conv.conv.weight'; known are"),
        ({"in_conv.conv.weight": torch.zeros(1)}, r"it lacks spatial_encoder\.mlp1\."),
        ({"epoch": 3}, "'epoch' is no tensor"),
        ({}, "it lacks spatial_encoder"),
    ):
        with pytest.raises(PublishedError, match=message) as refused:
            load_published(broken)
        assert "\n" not in str(refused.value)
    with pytest.raises(PublishedError, match="2 names are given, the weights have 20 of class"):
        load_published(state, classes=("wheat", "beet"))


def test_the_network_is_a_classifier_of_whole_seasons() -> None:
    """The same weights through the packed path: a parcel's dates, no padding; another number of dates is refused."""
    sizes = Sizes()
    state, inputs = published_state(sizes), inputs_of(sizes)
    network = load_published(state).network
    series = Series(
        inputs["pixels"].flatten(0, 1),
        inputs["mask"].bool().repeat_interleave(9, 0),
        inputs["positions"].float().repeat(3),
        torch.arange(3).repeat_interleave(9),
    )
    logits = network(Batch({"s2": series}, inputs["geometry"])).logits
    torch.testing.assert_close(logits, as_printed(state, inputs, sizes)["logits"], atol=TOLERANCE, rtol=0)
    batch = Batch({"s2": series.take(torch.arange(26))}, inputs["geometry"])
    with pytest.raises(ConfigError, match="pinned to seasons of 9 dates, a parcel has 8"):
        network(batch)
    with pytest.raises(ConfigError, match="cannot stream: its norm is taken over the dates of a whole season"):
        network.encode(batch, network.initial_states(3))
