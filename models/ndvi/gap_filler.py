"""A trained gap filler: NDVI with its standard deviation at any day of any parcel, causal or retrospective.

The members of the ensemble learned from different blocks of fields; their values are averaged, their variances too. The sd is
then scaled by the distance to the nearest view, as it must be for 1.96 sd to hold 95 % of what a member did not see.
Source: ensembles, Lakshminarayanan et al. 2017; scaling by held-out quantiles is split conformal (Lei et al. 2018).
Shapes: P parcels, S series of M views, Q queries.
Units:  days since the season's start; NDVI dimensionless.
Errors: ValueError for weights that do not fit their description.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import Checkpoint, CheckpointError, content_hash, unpack
from models.ndvi.cached_state import CachedState
from models.ndvi.inputs import NEVER, Floats, Ints, OrbitScale, SarSeries
from models.ndvi.network import GapConfig, GapNetwork
from models.ndvi.queries import Answers, GapQueries, Series, StepGrid, Steps, answer_inputs, step_inputs, view_inputs
from models.ndvi.views import Mode, Prior

KIND = "gap-filling"
"""What the description of a checkpoint of this model says that it is."""
SCALE_DAYS = (4.0, 10.0, 20.0, 40.0)
"""Distances to the nearest view at which sd is calibrated, linear between (the gaps it is validated on end 5 to 45 days off)."""
SERIES_AT_ONCE = 512
"""Series decoded together: 50 MB of working arrays (256 and 1,024 are slower by a tenth)."""
QUERIES_AT_ONCE = 32_768


@dataclass(frozen=True)
class Filled:
    """Answers to queries."""

    ndvi: Floats
    """(Q,)"""
    sd: Floats
    """(Q,) of a clear view on the day."""
    nearest: Floats
    """(Q,) days to the nearest view used, infinite where none."""
    n_views: Ints
    """(Q,) views used, of the nearest."""


@dataclass(frozen=True)
class GapModel:
    """Networks of both modes with the scales of their input and of their sd."""

    members: Mapping[Mode, tuple[GapNetwork, ...]]
    scale: OrbitScale
    prior: Prior
    view_sd: float
    """Sd of one clear view."""
    sd_scale: Mapping[Mode, Floats]
    """By `SCALE_DAYS`."""

    @cached_property
    def names(self) -> Mapping[Mode, bytes]:
        """Return what names the networks of each mode, 16 bytes of a hash of their weights and of all that their input depends on."""
        data, weights = self.state()
        own = {mode: {n: w for n, w in weights.items() if n.startswith(f"{mode}.")} for mode in self.members}
        return {mode: bytes.fromhex(content_hash(one, data))[:16] for mode, one in own.items()}

    def steps(self, sar: SarSeries, n_parcels: int) -> Steps:
        """Return the networks' radar, of cleaned rows."""
        return Steps.build(sar, self.scale, n_parcels)

    def fill(
        self,
        steps: Steps,
        series: Series,
        queries: GapQueries,
        mode: Mode,
        known: Ints | None = None,
        cached: CachedState | None = None,
    ) -> Filled:
        """NDVI at queries.

        Args:
            steps: radar of the parcels.
            series: their views.
            queries: sorted by series.
            mode: a causal answer uses nothing after its day, a retrospective one all there is.
            known: (S,) the last day that anything is known of, of each series; None: the last day with radar.
            cached: of the mode's networks and of the series: only what came after is read.

        Raises:
            ValueError: a query on a day, or with views, before those that the cached states have read.
        """
        ends = np.full(len(series.parcel), steps.last_day) if known is None else known
        order = _reading_order(queries, ends, cached)
        row = np.empty(len(series.parcel), np.int64)
        row[order] = np.arange(len(order))
        by_row = np.argsort(row[queries.series], kind="stable")
        series, ends = series.rows(order), ends[order]
        before = CachedState.nothing(self.members[mode], len(order)) if cached is None else cached.rows(order)
        queries = replace(queries.rows(by_row), series=row[queries.series][by_row])
        parts: list[tuple[Floats, Floats, Floats, Ints]] = []
        for start in range(0, len(series.parcel), SERIES_AT_ONCE):
            some = slice(start, start + SERIES_AT_ONCE)
            low, high = np.searchsorted(queries.series, [start, start + SERIES_AT_ONCE])
            if low < high:
                mine = queries.rows(slice(low, high))
                mine = replace(mine, series=mine.series - start)
                parts += self._filled(steps, series.rows(some), mine, mode, ends[some], before.rows(some))
        if not parts:
            nothing = np.zeros(0)
            return Filled(nothing, nothing, nothing, np.zeros(0, np.int64))
        back = np.argsort(by_row)
        m, variance, nearest, n_views = (np.concatenate(values)[back] for values in zip(*parts, strict=True))
        factor = np.interp(nearest, SCALE_DAYS, self.sd_scale[mode])
        return Filled(np.clip(m, -1.0, 1.0), np.sqrt(self.view_sd**2 + variance * factor**2), nearest, n_views)

    def _filled(
        self, steps: Steps, series: Series, queries: GapQueries, mode: Mode, known: Ints, cached: CachedState
    ) -> list[tuple[Floats, Floats, Floats, Ints]]:
        """Value, free variance, nearest view and number of views of queries, of all members together."""
        members = self.members[mode]
        config, device = members[0].config, next(members[0].parameters()).device
        read = series.parcel * 2**32 + cached.day  # series of a parcel that begin on one day share steps
        _, one, row = np.unique(read, return_index=True, return_inverse=True)
        parcels = series.parcel[one]
        end = np.full(len(parcels), -NEVER)
        np.maximum.at(end, row, known)
        np.maximum.at(end, row[queries.series], queries.day)
        read_before = cached.rows(one)
        grid = StepGrid.over(read_before.starts_on(steps.first_days[parcels]), end)
        sar = step_inputs(steps.ending_on(parcels, grid.ends[:, -1], grid.n), grid, config).to(device)
        column, n_new = series.columns(cached.day)
        n_read, new_day = series.n_views - n_new, np.take_along_axis(series.day, column, axis=1)
        if ((queries.n_before < n_read[queries.series]) | (queries.day < cached.day[queries.series])).any():
            raise ValueError("a day was asked for before the cached state of its parcel: read it anew")
        views = view_inputs(series, self.prior, config, column=column).to(device)
        n_steps, n_views, parcel, step = (
            torch.as_tensor(values, device=device)
            for values in (grid.begun(end), n_new, row, grid.complete(row[:, None], new_day))
        )
        of_query = row[queries.series]
        n_back = int((grid.begun(end)[of_query] - grid.complete(of_query, queries.day)).max())
        out = []
        with torch.inference_mode():
            starts = zip(members, read_before.encoder, cached.decoder, strict=True)
            encoded = [(m, m.encode(sar, n_steps, h, n_back), s) for m, h, s in starts]
            states = [(m, e, m.decode(e, views, n_views, step, parcel, s)) for m, e, s in encoded]
            for low in range(0, len(queries.day), QUERIES_AT_ONCE):
                some = queries.rows(slice(low, low + QUERIES_AT_ONCE))
                near = steps.near(series.parcel[some.series], some.day, config, known[some.series])
                answers = answer_inputs(series, some, near, self.prior, config)
                skipped = n_read[some.series]
                some = replace(some, n_before=some.n_before - skipped, first_after=some.first_after - skipped)
                at = places(some, grid, row, column.shape[1], device)
                features = as_tensor(answers.features, device)
                ms = [m(e, b, features, *at) for m, e, b in states]
                out.append((*together(answers, ms), answers.nearest, answers.n_views))
        return out

    def to(self, device: str | torch.device) -> "GapModel":
        """Return the model with its networks on a device."""
        for networks in self.members.values():
            for one in networks:
                one.to(device)
        return self

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint keeps: JSON values and one flat state dict."""
        data = {
            "networks": {mode: asdict(networks[0].config) for mode, networks in self.members.items()},
            "n_members": {mode: len(networks) for mode, networks in self.members.items()},
            "scale": self.scale.to_json(),
            "prior": {name: v.tolist() for name, v in vars(self.prior).items()},
            "view_sd": self.view_sd,
            "sd_scale": {mode: v.tolist() for mode, v in self.sd_scale.items()},
        }
        weights = {
            f"{mode}.{k}.{name}": weight
            for mode, networks in self.members.items()
            for k, network in enumerate(networks)
            for name, weight in network.state_dict().items()
        }
        return data, weights

    @classmethod
    def from_state(cls, data: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "GapModel":
        """Return the model that `state` described."""
        members: dict[Mode, tuple[GapNetwork, ...]] = {}
        for mode, choices in data["networks"].items():
            config = GapConfig(**{**choices, "branch_channels": tuple(choices["branch_channels"])})
            networks = tuple(GapNetwork(config) for _ in range(data["n_members"][mode]))
            for k, network in enumerate(networks):
                start = f"{mode}.{k}."
                network.load_state_dict({n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)})
                network.eval()
            members[mode] = networks
        prior = Prior(**{name: np.array(values, dtype=np.float64) for name, values in data["prior"].items()})
        sd_scale = {mode: np.array(values, dtype=np.float64) for mode, values in data["sd_scale"].items()}
        return cls(members, OrbitScale.from_json(data["scale"]), prior, float(data["view_sd"]), sd_scale)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "GapModel":
        """Return the model of a checkpoint; raises CheckpointError for a network that knows radar alone."""
        weights, description = unpack(checkpoint)
        if (kind := description["kind"]) != KIND:
            raise CheckpointError(
                f"NDVI model {checkpoint.model[:12]} is {kind}, of radar alone, and reconstructs no curve; activate one that "
                "`parcelwatch models train ndvi` made without --model"
            )
        return cls.from_state(description["config"], weights)


def _reading_order(queries: GapQueries, ends: Ints, cached: CachedState | None) -> Ints:
    """Return the series that are asked for, the longest to read first: those read together take as many steps as the longest."""
    first = np.full(len(ends), NEVER)
    np.minimum.at(first, queries.series, queries.day)
    asked = np.flatnonzero(first < NEVER)
    begin = -NEVER if cached is None else cached.day[asked]
    return np.asarray(asked[np.argsort(begin + first[asked] - 2 * ends[asked], kind="stable")])


def places(
    queries: GapQueries, grid: StepGrid, parcel_of_series: Ints, n_columns: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Return where queries index the encoded series: parcel, step, series, views before, first view after."""
    parcel = parcel_of_series[queries.series]
    values = (
        parcel,
        grid.complete(parcel, queries.day),
        queries.series,
        queries.n_before,
        np.minimum(queries.first_after, n_columns),
    )
    return tuple(torch.as_tensor(one, device=device) for one in values)


def as_tensor(values: Floats, device: torch.device) -> Tensor:
    """Numbers as the networks take them."""
    return torch.as_tensor(values, dtype=torch.float32, device=device)


def together(answers: Answers, ms: list[tuple[Tensor, Tensor]]) -> tuple[Floats, Floats]:
    """Value and free variance (Q,) of the members together."""
    m = torch.stack([m for m, _ in ms]).mean(dim=0).double().cpu().numpy()
    variance = torch.stack([(2 * s).exp() for _, s in ms]).mean(dim=0).double().cpu().numpy()
    return answers.base + answers.free * m, answers.free**2 * variance
