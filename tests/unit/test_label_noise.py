"""Labels of which some are wrong: the corrected loss answers for the class, not for the label."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.classifier.calibration import fit_temperature
from models.classifier.label_noise import as_labelled, confusion_of

CLASSES, SHARE = 3, 0.2


def noisy(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Points of three classes far apart, their classes, and labels of which a fifth is another class."""
    random = np.random.default_rng(seed)
    truth = np.arange(n) % CLASSES
    points = np.eye(CLASSES)[truth] * 6 + random.normal(size=(n, CLASSES))
    is_wrong = random.random(n) < SHARE
    labels = np.where(is_wrong, (truth + random.integers(1, CLASSES, n)) % CLASSES, truth)
    return torch.from_numpy(points.astype(np.float32)), truth, labels


def fitted(points: torch.Tensor, labels: np.ndarray, confusion: torch.Tensor | None) -> torch.nn.Linear:
    torch.manual_seed(0)
    model, target = torch.nn.Linear(CLASSES, CLASSES), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        loss = functional.cross_entropy(as_labelled(model(points), confusion), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model


def test_rows_of_the_confusion_sum_to_one_and_follow_the_frequencies() -> None:
    confusion = confusion_of(np.array([0, 0, 0, 1, 1, 2]), 4, 0.1)
    np.testing.assert_allclose(confusion.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(confusion[0], [0.9, 0.1 * 2 / 3, 0.1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(confusion_of(np.array([1, 1]), 2, 0.1)[1], [0, 1])  # no other label can be meant


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_all_or_less_than_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share of wrong labels"):
        confusion_of(np.array([0, 1]), 2, share)


def test_without_wrong_labels_nothing_changes() -> None:
    logits = torch.randn(5, CLASSES)
    assert as_labelled(logits, None) is logits
    right = torch.from_numpy(confusion_of(np.arange(9) % CLASSES, CLASSES, 0.0))
    torch.testing.assert_close(as_labelled(logits, right), functional.log_softmax(logits, 1))


def test_the_corrected_loss_is_surer_of_the_truth_than_the_plain_one() -> None:
    points, _, labels = noisy(600, 1)
    unseen, truth, _ = noisy(600, 2)
    confusion = torch.from_numpy(confusion_of(labels, CLASSES, SHARE))
    log_p = {}
    for name, known in (("plain", None), ("corrected", confusion)):
        log_p[name] = functional.log_softmax(fitted(points, labels, known)(unseen), 1).detach().numpy()
    of_truth = {name: float(np.exp(one)[np.arange(len(truth)), truth].mean()) for name, one in log_p.items()}
    assert of_truth["plain"] < 0.85  # as unsure as the labels are wrong
    assert of_truth["corrected"] > 0.97


def test_the_temperature_of_wrong_labels_leaves_a_sure_classifier_sure() -> None:
    random = np.random.default_rng(3)
    truth = np.arange(900) % CLASSES
    labels = np.where(random.random(900) < SHARE, (truth + 1) % CLASSES, truth)
    logits, day = 6.0 * np.eye(CLASSES)[truth], np.full(900, 50.0)
    plain = fit_temperature(logits, day, labels, [50.0])
    known = fit_temperature(logits, day, labels, [50.0], confusion_of(labels, CLASSES, SHARE))
    assert plain.value[0] > 2
    assert known.value[0] < 1.2
