"""How each model of an experiment is trained: a TOML file's tables over the published or the extended form.

    [all]                    for every model
    form = "extended"        or "paper": nothing but what Zhao et al. 2020 print
    n_updates = 3000
    [mcnn-seq]               any field of models.ndvi.published.reconstruction.NdviTrainingConfig
    learning_rate = 4e-3
    [mcnn-seq.network]       any field of the network's configuration
    hidden = 100
    [mine]                   a further row: `model` says which network
    model = "mcnn-seq"

Errors: ExperimentError names the file, the table and what it does not know.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from models.ndvi.published.networks import NETWORKS
from models.ndvi.published.reconstruction import PAPER, NdviTrainingConfig
from research.experiments.schemes import ExperimentError

MODELS: Final = tuple(NETWORKS)
ALL = "all"
FORMS: Final = ("extended", "paper")
N_UPDATES: Final[Mapping[str, int]] = {"mcnn-seq": 3000, "rnn": 1500, "cnn": 6000}
"""Where R2 on blocks held out of one training fold stops rising (docs/ndvi-experiments.md); more makes the RNN worse."""


def read(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the tables of a file; none without one.

    Raises:
        ExperimentError: no such file, no TOML, or a key outside of a table.
    """
    if path is None:
        return {}
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentError(f"{path}: {error}") from error
    if loose := [key for key, value in plain.items() if not isinstance(value, dict)]:
        raise ExperimentError(f"{path}: {', '.join(loose)}: write it in the table of a model, or in [{ALL}]")
    return plain


def chosen(names: Sequence[str], tables: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, NdviTrainingConfig]:
    """Return the configuration of each row by name: of a table, or of a network.

    Raises:
        ExperimentError: a name that is neither, or a choice that its network does not have.
    """
    return {name: _config(name, tables, where) for name in names}


def form_choices(form: str, model: str) -> dict[str, Any]:
    """Return what a form chooses for a network.

    Raises:
        ExperimentError: there is no such form.
    """
    if form not in FORMS:
        raise ExperimentError(f"form {form!r}: one of {', '.join(FORMS)}")
    if form == "extended":
        return {"n_updates": N_UPDATES[model]}
    network: dict[str, Any] = {"n_extra": 0} | ({"is_aligned": False} if model == "mcnn-seq" else {})
    fields = ("batch_size", "learning_rate", "optimiser", "has_schedule", "loss")
    return {name: getattr(PAPER, name) for name in fields} | {"n_updates": N_UPDATES[model], "network": network}


def _config(name: str, tables: Mapping[str, Mapping[str, Any]], where: str) -> NdviTrainingConfig:
    own = {**tables.get(ALL, {}), **tables.get(name, {})}
    model, form = own.pop("model", name), own.pop("form", FORMS[0])
    if model not in NETWORKS:
        raise ExperimentError(f"{where}: {name!r} is no network ({', '.join(NETWORKS)}) and no table with a `model`")
    base = form_choices(form, model)
    network = {
        **base.pop("network", {}),
        **tables.get(ALL, {}).get("network", {}),
        **tables.get(name, {}).get("network", {}),
    }
    try:
        return NdviTrainingConfig.chosen(model, {**base, **own, "network": network})
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"{where}, [{name}]: {error}") from error
