"""`models import-published` and `models verify`: what they read, what they refuse, and how they end."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import Checkpoint, CheckpointError, pack
from models.classifier.crop_model import CropModel
from models.classifier.published import load_published
from models.published_weights import PublishedError
from models.segmentation.at_rest import from_checkpoint
from models.segmentation.published import load_paps, load_utae
from research.experiments.published_form import PublishedForm, trained_like
from research.experiments.published_segmentation import Sizes, paps_outputs, paps_state, utae_outputs, utae_state
from training.published_commands import import_published, verify

Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(trained_like(PublishedForm(channels=3, dates=5, classes=4), 0).state_dict())


@pytest.fixture
def reference(weights: dict[str, Tensor]) -> Arrays:
    """A reference file's arrays, made by the published form."""
    form = PublishedForm(3, 5, 4)
    form.load_state_dict(weights)
    pixels, mask, geometry = torch.randn(2, 5, 3, 7), torch.ones(2, 7), torch.randn(2, 4)
    mask[1, 1:] = 0
    positions = torch.tensor([3, 40, 120, 200, 360])
    with torch.no_grad():
        embeddings = form.eval().spatial_encoder(pixels, mask, geometry)
        logits = form(pixels, mask, geometry, positions)
    tensors = {
        "pixels": pixels,
        "mask": mask,
        "geometry": geometry,
        "positions": positions,
        "embeddings": embeddings,
        "logits": logits,
        **{f"weights/{name}": one for name, one in weights.items()},
    }
    return {name: one.numpy() for name, one in tensors.items()}


def written(folder: Path, arrays: Arrays) -> Path:
    file = folder / "reference.npz"
    np.savez(file, allow_pickle=False, **arrays)
    return file


def test_verify_prints_each_difference_of_both_paths(
    tmp_path: Path, reference: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(written(tmp_path, reference))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reference.npz: PSE + L-TAE, 3 channels, 5 dates, 4 classes, ")
    assert lines[1].split() == ["largest", "difference", "plain", "folded"]
    for line, name in zip(lines[2:4], ("embeddings", "logits"), strict=True):
        assert line.split()[0] == name
        assert all(0 <= float(one) <= 1e-5 for one in line.split()[1:])
    assert lines[4] == "at most 1e-05"


@pytest.mark.parametrize("wrong", [2e-5, np.nan, np.inf])
def test_verify_fails_beyond_the_tolerance(tmp_path: Path, reference: Arrays, wrong: float) -> None:
    reference["logits"][1, 2] += wrong
    file = written(tmp_path, reference)
    with pytest.raises(typer.Exit) as stopped:
        verify(file)
    assert stopped.value.exit_code == 1
    if np.isfinite(wrong):
        verify(file, tolerance=1e-4)
    else:
        with pytest.raises(typer.Exit):
            verify(file, tolerance=1e30)


def test_verify_fails_where_a_weight_differs(tmp_path: Path, reference: Arrays) -> None:
    reference["weights/temporal_encoder.attention_heads.Q"][3, 2] += 0.5
    with pytest.raises(typer.Exit):
        verify(written(tmp_path, reference))


def test_verify_fails_where_the_published_form_has_no_number(tmp_path: Path, reference: Arrays) -> None:
    reference["mask"][0] = 0
    reference["embeddings"][0] = np.nan
    with pytest.raises(typer.Exit):
        verify(written(tmp_path, reference))


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("weights/", "it holds no weights/"),
        ("pixels", "no input `pixels`"),
        ("weights/decoder.6.bias", "not a state dict of the published PSE"),
        ("geometry", "no input `geometry`"),
    ],
)
def test_verify_names_what_is_missing(tmp_path: Path, reference: Arrays, left_out: str, message: str) -> None:
    arrays = {name: one for name, one in reference.items() if not name.startswith(left_out)}
    with pytest.raises(PublishedError, match=message):
        verify(written(tmp_path, arrays))


def test_verify_refuses_what_is_no_npz_of_plain_arrays(tmp_path: Path, reference: Arrays) -> None:
    text, single, pickled, cut = (tmp_path / name for name in ("text.npz", "one.npy", "pickled.npz", "cut.npz"))
    text.write_text("no archive")
    np.save(single, np.zeros(3))
    np.savez(pickled, pixels=np.array([{"a": 1}], object))
    cut.write_bytes(written(tmp_path, reference).read_bytes()[:2000])
    for file in (text, single, pickled, cut):
        with pytest.raises(PublishedError, match=r"not an \.npz"):
            verify(file)
    for file, message in ((tmp_path / "missing.npz", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(PublishedError, match=message):
            verify(file)


def test_verify_refuses_the_weights_of_another_network(tmp_path: Path) -> None:
    for name, message in (
        ("in_conv.conv.0.weight", r"not a state dict of the published U-TAE: it has 'in_conv\.conv\.0\.weight'"),
        ("heatmap_conv.1.weight", r"not a state dict of the published PaPs: it has 'heatmap_conv\.1\.weight'"),
        (
            "layer1.0.conv1.weight",
            r"not a state dict of a published PSE \+ L-TAE, U-TAE or PaPs, the only weights known here",
        ),
    ):
        arrays: Arrays = {f"weights/{name}": np.zeros(3, np.float32), "images": np.zeros(1)}
        with pytest.raises(PublishedError, match=message) as refused:
            verify(written(tmp_path, arrays))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("form", ["state dict", "nested", "npz"])
def test_import_writes_a_checkpoint_that_comes_back(
    tmp_path: Path, weights: dict[str, Tensor], reference: Arrays, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, reference) if form == "npz" else tmp_path / "model.pth.tar"
    if form != "npz":
        torch.save({"epoch": 7, "state_dict": weights} if form == "nested" else weights, file)
    import_published(file, out=tmp_path / "out", register=False, classes="wheat,maize,beet,grass")
    out = capsys.readouterr().out
    assert "PSE + L-TAE, 3 channels, 5 dates, 4 classes" in out
    assert "cannot be activated: its norm is taken over the dates of a whole season" in out
    (folder,) = (tmp_path / "out").iterdir()
    model = CropModel.from_checkpoint(
        Checkpoint((folder / "weights.pt").read_bytes(), (folder / "model.json").read_text())
    )
    assert json.loads((folder / "model.json").read_text())["model"].startswith(folder.name)
    assert model.config.classes == ("wheat", "maize", "beet", "grass")
    assert model.config.modalities[0].channels == ("VV", "VH", "VV-VH")
    expected = load_published(weights, modality="s1").network.state_dict()
    assert all(one.equal(expected[name]) for name, one in model.network.state_dict().items())


def test_import_says_when_no_database_answers(
    tmp_path: Path, weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", "host=127.0.0.1 port=1 connect_timeout=1")
    torch.save(weights, tmp_path / "model.pt")
    import_published(tmp_path / "model.pt", out=tmp_path / "out")
    assert "not registered: database" in capsys.readouterr().out


def test_import_refuses_what_is_no_state_dict(tmp_path: Path) -> None:
    module, text, number = (tmp_path / name for name in ("module.pt", "text.pth", "number.pt"))
    torch.save(torch.nn.Linear(1, 1), module)
    text.write_text("no archive")
    torch.save(torch.zeros(3), number)
    for file, message in (
        (module, "a pickled module is never read"),
        (text, "a pickled module is never read"),
        (tmp_path / "missing.pt", "No such file"),
        (number, "no state dict but a Tensor"),
    ):
        with pytest.raises(PublishedError, match=message) as refused:
            import_published(file, out=tmp_path / "out", register=False)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["utae", "paps"])
def test_networks_of_images_are_recognised_verified_and_imported(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", "host=127.0.0.1 port=1 connect_timeout=1")
    torch.manual_seed(0)
    sizes, images, positions = Sizes(), torch.randn(1, 2, 3, 16, 16), torch.tensor([[3, 40]])
    state = utae_state(sizes) if kind == "utae" else paps_state(sizes)
    outputs = (utae_outputs if kind == "utae" else paps_outputs)(state, images, positions)
    tensors = {"images": images, "positions": positions, **{f"weights/{name}": one for name, one in state.items()}}
    tensors |= outputs if kind == "utae" else {f"out/{name}": one for name, one in outputs.items()}
    file = written(tmp_path, {name: one.numpy() for name, one in tensors.items()})
    name = "U-TAE" if kind == "utae" else "PaPs"
    verify(file)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"reference.npz: {name}, 3 channels, 5 classes, ")
    assert lines[1].split() == ["largest", "difference", "plain"]
    assert [line.split()[0] for line in lines[2:-1]] == [one for one in outputs if one != "masks"]
    assert lines[-1] == "at most 1e-05"
    tensors[f"weights/{'temporal_encoder.attention_heads.fc1_k.weight' if kind == 'utae' else 'size_mlp.6.bias'}"][
        1
    ] += 0.5
    with pytest.raises(typer.Exit):
        verify(written(tmp_path, {name: one.numpy() for name, one in tensors.items()}))

    torch.save({"state_dict": state}, tmp_path / "model.pth.tar")
    import_published(tmp_path / "model.pth.tar", out=tmp_path / "out", classes="none,wheat,maize,beet,void")
    said = capsys.readouterr().out
    assert f"{name}, 3 channels, 5 classes" in said
    assert "it draws fields from images" in said
    assert "registered" not in said
    (folder,) = (tmp_path / "out").iterdir()
    stored = Checkpoint((folder / "weights.pt").read_bytes(), (folder / "model.json").read_text())
    network, about = from_checkpoint(stored)
    assert about["classes"] == ["none", "wheat", "maize", "beet", "void"]
    expected = (load_utae if kind == "utae" else load_paps)(state)
    assert network.config == expected.config
    assert all(one.equal(expected.state_dict()[name]) for name, one in network.state_dict().items())
    with pytest.raises(CheckpointError, match="is of kind 'utae'" if kind == "utae" else "is of kind 'paps'"):
        CropModel.from_checkpoint(stored)
    with pytest.raises(PublishedError, match="2 names are given, the weights have 5 of class"):
        import_published(tmp_path / "model.pth.tar", out=tmp_path / "out", classes="wheat,maize")


def test_a_checkpoint_of_another_kind_is_no_network_of_images(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "model.pt")
    import_published(tmp_path / "model.pt", out=tmp_path / "out", register=False)
    (folder,) = (tmp_path / "out").iterdir()
    classifier = Checkpoint((folder / "weights.pt").read_bytes(), (folder / "model.json").read_text())
    with pytest.raises(CheckpointError, match="is of kind 'pse-ltae', not a network of pixels or of fields"):
        from_checkpoint(classifier)
    utae = load_utae(utae_state(Sizes()))
    for config, message in (({}, "cannot be read"), ({**asdict(utae.config), "classes": 3}, "do not fit")):
        with pytest.raises(CheckpointError, match=message):
            from_checkpoint(pack(utae.state_dict(), {"kind": "utae", "config": config, "about": {}}))
