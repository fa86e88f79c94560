"""PaPs where the published code breaks, its masks beside masks made one by one, and what it is trained with."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.classifier.ltae import ConfigError
from models.segmentation import instance_masks
from models.segmentation.instance_masks import MaskNetwork, Masks, boxes, masks
from models.segmentation.losses import Truth, center_loss, losses, truth
from models.segmentation.paps import Paps, PapsConfig, Prediction, highest_in_zones, panoptic
from models.segmentation.published import load_paps
from models.segmentation.targets import targets
from models.segmentation.utae import UtaeConfig
from research.experiments.published_segmentation import Sizes, paps_outputs, paps_state

UTAE = UtaeConfig(channels=3, classes=5, encoder=(8, 8, 16), decoder=(8, 8, 16), width=16, heads=4)


def network(**settings: object) -> Paps:
    torch.manual_seed(0)
    return Paps(PapsConfig(UTAE, **settings))  # type: ignore[arg-type]


def series(number: int = 2, dates: int = 2, size: tuple[int, int] = (16, 24)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(number, dates, 3, *size, generator=random), torch.tensor([[3.0, 90.0]]).expand(number, 2)[
        :, :dates
    ]


def one_by_one(net: MaskNetwork, shape: Tensor, saliency: Tensor, at: tuple[int, int], side: tuple[int, int]) -> Tensor:
    """Return a mask (H, W) in its image, NaN outside of its box."""
    height, width = saliency.shape
    top, left = at[0] - side[0] // 2, at[1] - side[1] // 2
    whole = functional.interpolate(shape[None, None], size=side, mode="bilinear", align_corners=False)[0, 0]
    y0, x0, y1, x1 = max(0, top), max(0, left), min(height, top + side[0]), min(width, left + side[1])
    x = whole[y0 - top : y1 - top, x0 - left : x1 - left] + saliency[y0:y1, x0:x1]
    y = functional.relu(net.norm(net.conv1(x[None, None])))
    y = net.conv3(functional.relu(net.conv2(y)))[0, 0]
    out = torch.full_like(saliency, torch.nan)
    out[y0:y1, x0:x1] = x.sigmoid() * y.sigmoid()
    return out


@pytest.mark.parametrize("pixels", [2**16, 64, 1])
def test_masks_of_many_sizes_are_those_made_one_by_one(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Boxes of one pixel, beyond every edge, larger than the image; passes of many candidates or of one."""
    monkeypatch.setattr(instance_masks, "CPU_PIXELS", pixels)
    random = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    net, number, height, width = MaskNetwork(), 40, 13, 22
    saliency = torch.randn(2, 1, height, width, generator=random)
    shapes = 2 * torch.randn(number, 7, 7, generator=random)
    image = torch.randint(0, 2, (number,), generator=random)
    row, column = (
        torch.randint(0, height, (number,), generator=random),
        torch.randint(0, width, (number,), generator=random),
    )
    size = 30 * torch.rand(number, 2, generator=random) ** 2
    size[0], size[1], size[2] = torch.tensor([0.2, 0.1]), torch.tensor([1e9, 2.5]), torch.tensor([400.0, 300.0])
    found = boxes(row, column, size, height, width)
    with torch.no_grad():
        got = masks(net, shapes, saliency, image, found, torch.arange(number))
        dense = torch.full((number, 2 * height * width), torch.nan)
        dense[got.candidate, got.pixel] = got.value
        assert dense.isfinite().sum() == len(got.value)  # no pixel twice
        for n in range(number):
            if n == 1:  # 2**20 rows are too many to make one by one
                continue
            side = tuple(max(1, round(float(one))) for one in size[n])
            expected = torch.full((2, height, width), torch.nan)
            expected[image[n]] = one_by_one(net, shapes[n], saliency[image[n], 0], (int(row[n]), int(column[n])), side)  # type: ignore[arg-type]
            torch.testing.assert_close(dense[n].view_as(expected), expected, atol=2e-6, rtol=0, equal_nan=True)
        some = torch.tensor([5, 3])
        above = masks(net, shapes, saliency, image, found, some, above=0.3)
    assert set(above.candidate.tolist()) <= {3, 5}
    assert len(above.value) == sum(int((dense[n] > 0.3).sum()) for n in (3, 5)) > 0


def test_masks_have_gradients_of_all_that_makes_them() -> None:
    net = MaskNetwork()
    shapes, saliency = torch.randn(3, 4, 4, requires_grad=True), torch.randn(1, 1, 8, 8, requires_grad=True)
    image, place = torch.zeros(3, dtype=torch.long), torch.tensor([1, 4, 7])
    found = boxes(place, place, torch.tensor([[3.0, 5.0], [4.0, 4.0], [6.0, 2.0]]), 8, 8)
    masks(net, shapes, saliency, image, found, torch.arange(3)).value.sum().backward()  # type: ignore[no-untyped-call]
    for one in (shapes, saliency, *net.parameters()):
        assert one.grad is not None
        assert one.grad.abs().sum() > 0


def test_an_image_is_answered_alike_in_any_batch() -> None:
    net = _as_image(load_paps(paps_state(Sizes())))
    images, day = (
        torch.randn(3, 2, 3, 16, 24, generator=torch.Generator().manual_seed(5)),
        torch.tensor([[3.0, 90.0]]).expand(3, 2),
    )
    images[1] *= 4
    with torch.no_grad():
        whole = net(images, day)
        fields = panoptic(whole, net.config)
        for n in range(3):
            alone = net(images[n : n + 1], day[:1])
            assert alone.centers.shape == (1, 16, 24)
            assert alone.centers[0].equal(whole.centers[n])
            assert panoptic(alone, net.config).instances[0].equal(fields.instances[n])
    assert fields.instances.max() > 1


def _as_image(net: Paps) -> Paps:
    other = Paps(PapsConfig(net.config.utae))
    other.load_state_dict(net.state_dict())
    return other.eval()


def test_the_mean_over_the_batch_is_the_published_one() -> None:
    state = paps_state(Sizes())
    images, day = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor([[9.0], [9.0]])
    images[1] *= 6
    published, ours = load_paps(state), _as_image(load_paps(state))
    of_batch, of_image = (paps_outputs(state, images, day, mean_of_batch=one)["center_mask"] for one in (True, False))
    assert not of_batch.equal(of_image)
    with torch.no_grad():
        assert published(images, day).centers.equal(of_batch)
        assert ours(images, day).centers.equal(of_image)


def heads_of(net: Paps, centers: list[tuple[int, int, int]], number: int = 2) -> Prediction:
    """Return the prediction of a network whose heat map is high at these places alone."""
    levels = [torch.randn(number, c, 4 * 2**i, 6 * 2**i) for i, c in enumerate(reversed(UTAE.decoder))]
    heat = torch.full((number, 1, 16, 24), -4.0)
    heat -= 1e-3 * torch.rand(heat.shape)
    for image, row, column in centers:
        heat[image, 0, row, column] = 3.0
    net.head.heat.forward = lambda _: heat  # type: ignore[method-assign]
    return net.head(levels)  # type: ignore[no-any-return]


@pytest.mark.parametrize("centers", [[(0, 3, 4)], [(1, 15, 23)], [(0, 3, 4), (0, 9, 9), (1, 2, 2)]])
def test_any_number_of_confident_candidates(centers: list[tuple[int, int, int]]) -> None:
    net = network().eval()
    with torch.no_grad():
        prediction = heads_of(net, centers)
        fields = panoptic(prediction, net.config)
    found = prediction.at[prediction.confidence >= 0.2]
    assert found.tolist() == [list(one) for one in centers]
    assert prediction.classes.shape == (len(prediction.at), 5)
    assert set(fields.candidate.unique().tolist()) <= {-1, *(prediction.confidence >= 0.2).nonzero()[:, 0].tolist()}  # type: ignore[no-untyped-call]
    scores = fields.class_scores(prediction)
    assert scores.shape == (2, 5, 16, 24)
    assert (scores != 0).any(1).equal(fields.instances > 0)


@pytest.mark.parametrize("is_training", [True, False])
def test_no_candidate_at_all_is_well_formed(is_training: bool) -> None:
    """A heat map that is the same everywhere has no pixel above its mean; an image without fields has no zone."""
    net = network().train(is_training)
    with torch.no_grad():
        for one in (net.head.heat[1].norm.weight, net.head.heat[1].norm.bias):  # type: ignore[union-attr]
            one.zero_()  # type: ignore[operator]
    prediction = net(*series())
    fields = panoptic(prediction, net.config)
    assert [len(one) for one in (prediction.at, prediction.confidence, prediction.size, prediction.boxes)] == [0] * 4
    assert prediction.classes.shape == (0, 5)
    assert prediction.boxes.shape == (0, 4)
    assert fields.instances.eq(0).all()
    assert fields.instances.shape == (2, 16, 24)
    assert fields.class_scores(prediction).equal(torch.zeros(2, 5, 16, 24))
    empty = np.zeros((16, 24), np.int64)
    of = truth([targets(empty, empty)] * 2)
    trained = net(*series(), zones=of.zones)
    assert len(trained.at) == 0
    total = losses(trained, of).total
    assert total.isfinite()
    total.backward()  # type: ignore[no-untyped-call]


def test_one_candidate_can_be_trained_on() -> None:
    net = network().train()
    instances = np.zeros((16, 24), np.int64)
    instances[4:9, 3:12] = 8
    of = truth([targets(instances, instances // 4)])
    prediction = net(*series(1), zones=of.zones)
    assert len(prediction.at) == 1
    losses(prediction, of).total.backward()  # type: ignore[no-untyped-call]
    missing = [name for name, one in net.named_parameters() if one.grad is None]
    assert missing == []
    assert all(one.grad.isfinite().all() for one in net.parameters() if one.grad is not None)


def two_images() -> Truth:
    instances, semantic = np.zeros((2, 16, 24), np.int64)
    instances[2:7, 2:8], instances[2:7, 8:20], instances[9:16, 0:24] = 5, 9, 12
    semantic[instances == 5], semantic[instances == 9], semantic[instances == 12] = 1, 2, 19
    one = np.zeros((16, 24), np.int64)
    one[5:9, 5:9] = 1
    return truth([targets(instances, semantic), targets(one, 3 * one)])


def test_training_lowers_every_loss_and_finds_the_fields() -> None:
    net, of = network().train(), two_images()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    images, day = series()
    images = images * 0.3 + of.instances[:, None, None].float()
    first = None
    for _ in range(40):
        found = losses(net(images, day, zones=of.zones), of)
        first = found if first is None else first
        optimiser.zero_grad()
        found.total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert first is not None
    for name in ("center", "size", "classes", "shape"):
        assert getattr(found, name) < 0.9 * getattr(first, name), name


def test_half_precision_leaves_heat_map_sizes_and_masks_whole() -> None:
    """Half the digits would make neighbours of the heat map equal: each of them a centre."""
    net, of = network().train(), two_images()
    with torch.autocast("cpu", torch.bfloat16):
        prediction = net(*series(), zones=of.zones)
        found = losses(prediction, of)
    assert prediction.saliency.dtype == torch.bfloat16
    for one in (prediction.heatmap, prediction.size, prediction.masks.value, found.total):
        assert one.dtype == torch.float32
    found.total.backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is not None and one.grad.isfinite().all() for one in net.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        eight = net.eval()(*series())
    whole = net(*series())
    assert len(eight.at) == pytest.approx(len(whole.at), rel=0.1)


def test_a_series_without_a_date_has_an_answer_and_changes_no_other() -> None:
    net = network().eval()
    images, day = series()
    valid = torch.tensor([[True, True], [False, False]])
    with torch.no_grad():
        whole, alone = net(images, day, valid), net(images[:1], day[:1])
        torch.testing.assert_close(whole.heatmap[:1], alone.heatmap, atol=1e-6, rtol=0)
        assert whole.heatmap.isfinite().all()
        assert net(images, day, torch.zeros(2, 2, dtype=torch.bool)).heatmap.isfinite().all()
        images[1] = torch.nan
        assert net(images, day, valid).heatmap.equal(whole.heatmap)


def test_there_is_one_center_in_each_zone_where_the_heat_is_highest() -> None:
    heat = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    zones = torch.zeros(2, 12, 12, dtype=torch.long)
    zones[0, :, :5], zones[0, :, 5:], zones[1, :6] = 7, 10**12, 7
    heat[1, 0, 2, 3] = heat[1, 0, 4, 1] = 2.0  # equal: the first counts
    centers = highest_in_zones(heat, zones)
    assert centers.sum((1, 2)).tolist() == [2, 1]
    assert centers[1, 2, 3]
    for zone in (7, 10**12):
        inside = heat[0, 0].where(zones[0] == zone, -1.0)
        assert centers[0].flatten()[inside.argmax()]
    assert not highest_in_zones(heat, torch.zeros_like(zones)).any()


def made(boxes_of: list[tuple[int, float, list[int]]], pixels: int = 12, images: int = 1) -> Prediction:
    """Return a prediction of masks that are whole: image, confidence and pixels of each candidate."""
    none = torch.zeros(images, 1, 1, pixels)
    image = torch.tensor([one[0] for one in boxes_of])
    at = torch.stack([image, torch.zeros_like(image), torch.arange(len(boxes_of))], 1)
    value, candidate, pixel = [], [], []
    for n, (where, _, inside) in enumerate(boxes_of):
        value += [0.41] * len(inside) + [0.4]
        candidate += [n] * (len(inside) + 1)
        pixel += [where * pixels + one for one in inside] + [where * pixels + pixels - 1]
    confidence = torch.tensor([one[1] for one in boxes_of])
    packed = Masks(torch.tensor(value), torch.tensor(candidate), torch.tensor(pixel))
    number = len(boxes_of)
    return Prediction(
        none, none, torch.zeros(images, 1, pixels, dtype=torch.bool), at, confidence, torch.ones(number, 2),
        torch.eye(number), torch.zeros(number, 4), packed,
    )  # fmt: skip


def test_the_most_confident_come_first_and_half_must_be_left() -> None:
    prediction = made([
        (0, 0.5, [0, 1, 2, 3]),  # third: 2 of 4 are left, which is no more than half
        (0, 0.9, [2, 3, 4]),  # first
        (0, 0.6, [4, 5, 6]),  # second: 2 of 3 are left
        (0, 0.19, [9]),  # not confident
        (0, 0.3, []),  # no pixel above the threshold
        (0, 0.2, [8]),  # just confident
        (1, 0.4, [0, 1]),  # another image
    ], images=2)  # fmt: skip
    fields = panoptic(prediction, PapsConfig(UTAE))
    assert fields.instances[:, 0].tolist() == [[0, 0, 1, 1, 1, 2, 2, 0, 5, 0, 0, 0], [1, 1, *[0] * 10]]
    assert fields.candidate[:, 0].tolist() == [[-1, -1, 1, 1, 1, 2, 2, -1, 5, -1, -1, -1], [6, 6, *[-1] * 10]]
    assert fields.class_scores(prediction).argmax(1)[0, 0, 2:7].tolist() == [1, 1, 1, 2, 2]
    more = panoptic(prediction, PapsConfig(UTAE, min_remaining=0.4, min_confidence=0.1))
    assert more.instances[0, 0].tolist() == [3, 3, 1, 1, 1, 2, 2, 0, 5, 6, 0, 0]


def test_losses_by_hand() -> None:
    of = two_images()
    net = network().train()
    with torch.no_grad():
        prediction = net(*series(), zones=of.zones)
        found = losses(prediction, of)
        assert len(prediction.at) == 4
        size, classes, shape, entropy, pixels = 0.0, [], 0.0, 0.0, 0
        fields = {(0, 1): (5, 6, 1), (0, 2): (5, 12, 2), (0, 3): (7, 24, 19), (1, 1): (4, 4, 3)}
        for n, (image, row, column) in enumerate(prediction.at.tolist()):
            zone = int(of.zones[image, row, column])
            h, w, label = fields[image, zone]
            size += abs(h - float(prediction.size[n, 0])) / h + abs(w - float(prediction.size[n, 1])) / w
            if label != 19:
                classes.append(-float(prediction.classes[n].log_softmax(0)[label]))
            for value, pixel in zip(
                *(
                    one[prediction.masks.candidate == n].tolist()
                    for one in (prediction.masks.value, prediction.masks.pixel)
                ),
                strict=True,
            ):
                i, j = divmod(pixel - image * 16 * 24, 24)
                is_field = int(of.instances[image, i, j]) == zone
                scores = torch.tensor([1 - value, value])
                shape -= float(scores.log_softmax(0)[int(is_field)])
                entropy -= math.log(value if is_field else 1 - value)
                pixels += 1
        x0, y0, x1, y1 = prediction.boxes.unbind(1)
        assert pixels == int(((x1 - x0) * (y1 - y0)).sum())  # each box whole
    assert float(found.size) == pytest.approx(size / 4, rel=1e-5)
    assert float(found.classes) == pytest.approx(sum(classes) / 3, rel=1e-5)
    assert float(found.shape) == pytest.approx(shape / pixels, rel=1e-5)
    assert float(losses(prediction, of, shape="entropy").shape) == pytest.approx(entropy / pixels, rel=1e-5)
    assert float(found.total) == pytest.approx(
        sum(float(one) for one in (found.center, found.size, found.classes, found.shape))
    )
    with pytest.raises(ConfigError, match="the loss of shapes is one of published, entropy, not 'dice'"):
        losses(prediction, of, shape="dice")  # type: ignore[arg-type]


def test_the_loss_of_centers_by_hand() -> None:
    heat, target = torch.tensor([[[0.8, 0.3], [0.5, 0.1]]]), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])
    expected = -(math.log(0.8) + math.log(0.1) + 0.5**4 * math.log(0.7) + math.log(0.5)) / 2
    assert float(center_loss(heat, target)) == pytest.approx(expected, rel=1e-6)
    assert float(center_loss(heat, torch.zeros_like(target))) == pytest.approx(
        -sum(math.log(1 - one) for one in (0.8, 0.3, 0.5, 0.1)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"shape": 0}, "a shape has at least 1 cell a side, not 0"),
        ({"mean": "set"}, "one of image, batch, not 'set'"),
        ({"min_remaining": 1.5}, "min_remaining is between 0 and 1, not 1.5"),
    ],
)
def test_settings_that_do_not_fit_are_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PapsConfig(UTAE, **setting)  # type: ignore[arg-type]
