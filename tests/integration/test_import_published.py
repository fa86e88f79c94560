"""`models import-published` where a database answers: the checkpoint is registered once, and comes back from there."""

from pathlib import Path

import pytest
import torch

from db import registry
from db.connect import close_engines, engine
from models.checkpoint import Checkpoint
from models.classifier.crop_model import CropModel
from research.experiments.published_form import PublishedForm, trained_like
from training.published_commands import import_published


def test_published_weights_are_registered_once(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    torch.save(trained_like(PublishedForm(10, 4, 3), 0).state_dict(), tmp_path / "model.pth.tar")
    for _ in range(2):
        import_published(tmp_path / "model.pth.tar", out=tmp_path / "out")
        assert "registered as model 1" in capsys.readouterr().out
    with engine(dsn).connect() as connection:
        (row,) = registry.all_models(connection)
        model = CropModel.from_checkpoint(Checkpoint(*registry.checkpoint(connection, row.model_key)))
    close_engines()
    assert row.task == "classifier"
    assert row.trained_on["season"] == "published weights model.pth.tar"
    assert not model.config.is_streaming
