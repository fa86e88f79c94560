"""Fusion of series of images: what each scheme computes, what dropout may leave out, how large networks are."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from models.classifier.ltae import ConfigError
from models.segmentation.at_rest import from_checkpoint, to_checkpoint
from models.segmentation.network import (
    Fusion,
    ImageSeries,
    ModalityConfig,
    PanopticNetwork,
    SegmentationConfig,
    SegmentationNetwork,
    interpolated,
    loss_of,
    parameters,
    single,
    without_dates,
)
from models.segmentation.paps import Paps, PapsConfig
from models.segmentation.utae import Utae, UtaeConfig

SMALL = UtaeConfig(1, 4, (8, 8, 8, 8), (8, 8, 8, 8), width=16, heads=4, key=2, head=(8,), norm="season")
MODALITIES = (ModalityConfig("s2", 3, 0.4), ModalityConfig("s1a", 2, 0.2), ModalityConfig("s1d", 2, 0.2))
PUBLISHED = (ModalityConfig("s2", 10), ModalityConfig("s1a", 3), ModalityConfig("s1d", 3))


def config(fusion: Fusion = "late", auxiliary: bool = False, n: int = 3) -> SegmentationConfig:
    return SegmentationConfig(MODALITIES[:n], SMALL, fusion, auxiliary)


def batch(dates: tuple[int, ...] = (3, 4, 5), patches: int = 2, seed: int = 0) -> dict[str, ImageSeries]:
    random = torch.Generator().manual_seed(seed)
    return {
        one.name: ImageSeries(
            torch.randn(patches, n, one.channels, 16, 16, generator=random),
            torch.rand(patches, n, generator=random).sort(1).values * 300,
            torch.ones(patches, n, dtype=torch.bool),
        )
        for one, n in zip(MODALITIES, dates, strict=True)
    }


def without(series: ImageSeries, patch: int) -> ImageSeries:
    valid = series.valid.clone()
    valid[patch] = False
    return replace(series, valid=valid)


def scalar_interpolation(series: ImageSeries, day: Tensor) -> np.ndarray:
    """Interpolate each pixel by itself with numpy, which holds both ends."""
    images, valid = series.images.numpy(), series.valid.numpy()
    out = np.zeros((len(day), day.shape[1], *images.shape[2:]))
    for patch, c, y, x in product(range(len(day)), *map(range, images.shape[2:])):
        if valid[patch].any():
            days, values = series.day[patch].numpy()[valid[patch]], images[patch, valid[patch], c, y, x]
            order = days.argsort()
            out[patch, :, c, y, x] = np.interp(day[patch].numpy(), days[order], values[order])
    return out


def test_radar_is_interpolated_and_held_at_both_ends() -> None:
    random = torch.Generator().manual_seed(1)
    valid = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]).bool()
    series = ImageSeries(torch.randn(3, 5, 2, 2, 3, generator=random), torch.rand(3, 5, generator=random) * 100, valid)
    day = torch.tensor([[-50.0, 20.0, 55.0, 400.0]] * 3)
    found = interpolated(series, day)
    np.testing.assert_allclose(found.numpy(), scalar_interpolation(series, day), atol=1e-5)
    exact = interpolated(series, series.day[:, :1])[0, 0]
    torch.testing.assert_close(exact, series.images[0, 0])


def test_one_modality_is_the_network_of_one_series() -> None:
    torch.manual_seed(0)
    network, one = SegmentationNetwork(config(n=1)).eval(), batch()["s2"]
    alone = single(network)
    assert isinstance(alone, Utae)
    assert alone.config == replace(SMALL, channels=3)
    torch.testing.assert_close(network(batch()).logits, alone(one.images, one.day), rtol=0, atol=0)
    fields = PanopticNetwork(config(n=1), PapsConfig(SMALL, min_confidence=0.1)).eval()
    masks = single(fields)
    assert isinstance(masks, Paps)
    assert masks.config.min_confidence == 0.1
    torch.testing.assert_close(
        vars(fields(batch())) | {"masks": None}, vars(masks(one.images, one.day)) | {"masks": None}, rtol=0, atol=0
    )
    with pytest.raises(ConfigError, match="fuses s2, s1a"):
        single(SegmentationNetwork(config(n=2)))


@pytest.mark.parametrize("fusion", ["early", "late", "decision"])
def test_a_network_at_rest_is_itself(fusion: Fusion) -> None:
    networks: list[SegmentationNetwork | PanopticNetwork] = [SegmentationNetwork(config(fusion, fusion != "early"))]
    if fusion != "decision":
        networks.append(PanopticNetwork(config(fusion), PapsConfig(SMALL, shape=8, mask_threshold=0.3)))
    for network in networks:
        again, about = from_checkpoint(to_checkpoint(network, {"classes": ["a"]}))
        assert type(again) is type(network)
        assert again.config == network.config
        assert about == {"classes": ["a"]}
        assert all(torch.equal(one, network.state_dict()[name]) for name, one in again.state_dict().items())
        if isinstance(again, PanopticNetwork):
            assert (again.head.config.shape, again.head.config.mask_threshold) == (8, 0.3)


def test_decision_is_the_mean_of_the_logits_of_what_was_seen() -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(config("decision")).eval()
    some = {**batch(), "s2": without(batch()["s2"], 1)}
    out = network(some)
    torch.testing.assert_close(out.logits[0], torch.stack([one[0] for one in out.auxiliary.values()]).mean(0))
    torch.testing.assert_close(out.logits[1], (out.auxiliary["s1a"][1] + out.auxiliary["s1d"][1]) / 2)


def test_late_fusion_reads_every_modality_and_has_auxiliary_heads_in_training_only() -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(config("late", auxiliary=True))
    out = network(batch())
    assert set(out.auxiliary) == {"s2", "s1a", "s1d"}
    loss_of(out, torch.randint(0, 4, (2, 16, 16))).backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is not None for one in network.parameters())
    network.eval()
    before = network(batch())
    assert before.auxiliary == {}
    for name in MODALITIES:
        other = {**batch(), name.name: batch(seed=1)[name.name]}
        assert not torch.equal(network(other).logits, before.logits)


@pytest.mark.parametrize("fusion", ["early", "late", "decision"])
def test_padded_dates_and_absent_modalities_change_nothing(fusion: Fusion) -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(config(fusion)).eval()
    some = {**batch(), "s1a": without(batch()["s1a"], 0)}
    padded = {
        name: ImageSeries(
            torch.cat([one.images, torch.full_like(one.images[:, :1], 9)], 1),
            torch.cat([one.day, torch.full_like(one.day[:, :1], 50)], 1),
            torch.cat([one.valid, torch.zeros_like(one.valid[:, :1])], 1),
        )
        for name, one in some.items()
    }
    torch.testing.assert_close(network(padded).logits, network(some).logits, atol=1e-5, rtol=1e-5)
    assert network(some).logits.isfinite().all()


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_fields_of_fused_levels(fusion: Fusion) -> None:
    torch.manual_seed(0)
    network = PanopticNetwork(config(fusion)).eval()
    zones = torch.ones(2, 16, 16, dtype=torch.long)
    zones[:, 8:] = 2
    found = network(batch(), zones)
    assert found.at[:, 0].tolist() == [0, 0, 1, 1]
    assert found.classes.shape == (4, 4)
    changed = network({**batch(), "s1d": batch(seed=2)["s1d"]}, zones)
    assert not torch.equal(found.heatmap, changed.heatmap)


def test_dropout_leaves_dates_out_at_its_rates_and_never_all() -> None:
    some, random = batch((50, 50, 50), patches=8), torch.Generator().manual_seed(0)
    kept = without_dates(some, config(), random)
    shares = [float(kept[one.name].valid.float().mean()) for one in MODALITIES]
    np.testing.assert_allclose(shares, [0.6, 0.8, 0.8], atol=0.06)
    for fusion, needed in (("late", ["s2", "s1a", "s1d"]), ("early", ["s2"])):
        few = batch((1, 1, 1), patches=64)
        left = without_dates(few, config(fusion), random)  # type: ignore[arg-type]
        assert torch.stack([left[name].valid.any(1) for name in needed]).any(0).all()
        assert left["s2"].valid.all() == (fusion == "early")  # its only date
    padded = {name: without(one, 0) for name, one in some.items()}
    assert not any(one.valid[0].any() for one in without_dates(padded, config(), random).values())


def test_void_alone_has_a_loss_and_auxiliary_heads_weigh_half() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        out = SegmentationNetwork(config("decision"))(batch())
    assert float(loss_of(out, torch.full((2, 16, 16), 19))) == 0
    target = torch.randint(0, 4, (2, 16, 16))
    alone = sum(float(loss_of(out._replace(logits=one), target, 0)) for one in out.auxiliary.values())
    assert float(loss_of(out, target)) == pytest.approx(float(loss_of(out, target, 0)) + 0.5 * alone, rel=1e-5)


def test_numbers_of_parameters() -> None:
    utae = UtaeConfig(1, 19)
    one = {m.name: parameters(SegmentationNetwork(SegmentationConfig((m,), utae))) for m in PUBLISHED}
    assert one == {"s2": 1_086_969, "s1a": 1_082_937, "s1d": 1_082_937}
    decision = SegmentationNetwork(SegmentationConfig(PUBLISHED, utae, "decision"))
    assert parameters(decision) == sum(one.values())
    late = SegmentationNetwork(SegmentationConfig(PUBLISHED, utae, "late", auxiliary=True))
    plain = SegmentationNetwork(SegmentationConfig(PUBLISHED, utae, "late"))
    assert (
        parameters(late) == parameters(plain) == parameters(plain, inference=False) < parameters(late, inference=False)
    )


def test_configurations() -> None:
    some = config("late", auxiliary=True)
    assert SegmentationConfig.from_json(json.loads(json.dumps(some.to_json()))) == some
    for wrong in (
        lambda: config("early", auxiliary=True),
        lambda: SegmentationConfig((), SMALL),
        lambda: config("mid"),  # type: ignore[arg-type]
        lambda: PanopticNetwork(config("decision")),
        lambda: SegmentationConfig.from_json({}),
        lambda: SegmentationNetwork(config())({"s2": batch()["s2"]}),
    ):
        with pytest.raises(ConfigError):
            wrong()
