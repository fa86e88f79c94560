"""State dicts of published code: which of the published networks one is, its plain names, and how far outputs lie apart.

Source: names of the authors' public code of PSE + L-TAE, U-TAE and PaPs.
Shapes: any.
Units:  any.
Errors: PublishedError for what is no state dict of a published network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from terminal.errors import UserError

Kind = Literal["parcels", "utae", "paps"]
# A name that no other of the published networks has.
MARKS: Mapping[str, Kind] = {"spatial_encoder.": "parcels", "heatmap_conv.": "paps", "in_conv.": "utae"}
# Names under which training scripts nest the state dict beside the epoch and the optimiser.
NESTED = ("state_dict", "model_state_dict")
Names = Sequence[tuple[str, Callable[[re.Match[str]], str]]]


class PublishedError(UserError, ValueError):
    """Not what the published code stores, or not what its network takes. The caller shows the line and stops."""


def kind_of(published: Mapping[str, object]) -> Kind:
    """Return which network a state dict, nested or not, is of.

    Raises:
        PublishedError: of none that is known.
    """
    state = plain_state(published)
    for mark, kind in MARKS.items():
        if any(name.startswith(mark) for name in state):
            return kind
    raise PublishedError(
        "not a state dict of a published PSE + L-TAE, U-TAE or PaPs, the only weights known here: "
        f"it has no {', '.join(f'{mark}*' for mark in MARKS)}"
    )


def plain_state(published: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the state dict by its plain names, in float32.

    Raises:
        PublishedError: a value is no tensor.
    """
    nested = next((published[name] for name in NESTED if isinstance(published.get(name), Mapping)), published)
    assert isinstance(nested, Mapping)
    state = {str(name).removeprefix("module."): one for name, one in nested.items()}
    if other := [name for name, one in state.items() if not isinstance(one, Tensor)]:
        raise PublishedError(f"not a state dict: {other[0]!r} is no tensor")
    return {name: one.float() if one.is_floating_point() else one for name, one in state.items()}


def renamed(published: Mapping[str, Tensor], names: Names, unknown: str) -> dict[str, Tensor]:
    """Return parameters under our names: the first pattern that fits the begin of a name gives what stands in its place.

    Raises:
        PublishedError: nothing fits a name, or the same name comes out twice.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in published.items():
        found = next((made(m) + name[m.end() :] for of, made in names if (m := re.match(of, name))), None)
        if found is None:
            raise PublishedError(f"{unknown}: it has {name!r}")
        if found in ours:
            raise PublishedError(f"{unknown}: {name!r} is there twice")
        ours[found] = tensor
    return ours


def one_line(error: Exception) -> str:
    """Return what an error of loading says, on one line."""
    return f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())


def expected_outputs(reference: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
    """Return the outputs that a reference holds, in float32.

    Raises:
        PublishedError: there is none to compare with.
    """
    expected = {name: reference[name].float() for name in outputs if name in reference}
    if not expected:
        raise PublishedError(f"nothing to compare with: none of {', '.join(outputs)} is there")
    return expected


def differences(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each expected output; NaN stays NaN, and nothing differs where nothing is.

    Raises:
        PublishedError: an output has another shape.
    """
    for name, one in expected.items():
        if one.shape != got[name].shape:
            raise PublishedError(f"{name} is {tuple(one.shape)}, these weights give {tuple(got[name].shape)}")
    return {
        name: float((got[name].float() - one).abs().max()) if one.numel() else 0.0 for name, one in expected.items()
    }
