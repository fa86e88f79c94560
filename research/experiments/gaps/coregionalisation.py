"""The kernel of a multi-output Gaussian process, fitted with gpytorch and kept as a table.

    k((t, i), (s, j)) = sum_q B_q[i, j] Matern_3/2(|t - s| / l_q) + noise_i [same],   B_q = W_q W_q' + diag(d_q)

Adam on the sum of the training parcels' log marginal likelihoods, a few parcels a step.
Source: linear model of coregionalisation, Alvarez, Rosasco and Lawrence 2012, sec. 4.2; in its Hadamard form, as the
        tasks are not observed on the same days.
Shapes: a series is (day (N,), task (N,), value (N,)); tables (tasks, tasks, half days).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.ndvi.inputs import Floats, Ints

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its linear algebra still uses torch.jit.script, which torch 2.13 deprecates
    import gpytorch

N_TASKS = 3
"""NDVI, VV, VH."""
LENGTHS_DAYS = (90.0, 45.0, 20.0, 5.0)
"""Where the ranges of the latent processes start; three of them had 0.158 at 30 days on a fold, these four 0.149."""
PARCELS_A_STEP, RATE = 4, 0.05
MAX_DAYS = 800
"""Longest difference of days in the table."""


@dataclass(frozen=True)
class Coregionalisation:
    """Covariance of any two observations, by look-up."""

    table: Floats
    """(tasks, tasks, half days)"""
    noise: Floats
    """(tasks,) variances."""

    def at(self, days: Floats, task: Ints, other: Ints) -> Floats:
        """Return covariances at differences of days; `task` and `other` broadcast to them."""
        half = np.minimum(np.rint(2 * np.abs(days)), 2 * MAX_DAYS).astype(np.int64)
        return np.asarray(self.table[task, other, half])


class MultiOutput(gpytorch.models.ExactGP):  # type: ignore[misc]
    """The tasks of one parcel as sums of shared latent processes."""

    def __init__(self, inputs: tuple[Tensor, Tensor], y: Tensor, likelihood: gpytorch.likelihoods.Likelihood) -> None:
        super().__init__(inputs, y, likelihood)
        self.mean = gpytorch.means.ZeroMean()
        self.tasks = torch.nn.ModuleList(gpytorch.kernels.IndexKernel(num_tasks=N_TASKS, rank=2) for _ in LENGTHS_DAYS)
        self.times = torch.nn.ModuleList(
            gpytorch.kernels.MaternKernel(nu=1.5).initialize(lengthscale=days) for days in LENGTHS_DAYS
        )

    def forward(self, day: Tensor, task: Tensor) -> gpytorch.distributions.MultivariateNormal:
        """Return the prior over observations of given days and tasks."""
        k = sum(time(day).mul(index(task)) for time, index in zip(self.times, self.tasks, strict=True))
        return gpytorch.distributions.MultivariateNormal(self.mean(day), k)

    def tabulated(self) -> Floats:
        """Return the kernel by pair of tasks and half days."""
        half_days = torch.arange(2 * MAX_DAYS + 1, dtype=torch.float64)[:, None] / 2
        origin = torch.zeros(1, 1, dtype=torch.float64)
        table = np.zeros((N_TASKS, N_TASKS, len(half_days)))
        kernels: list[tuple[Any, Any]] = list(zip(self.times, self.tasks, strict=True))
        for time, index in kernels:
            table += index.covar_matrix.to_dense().numpy()[:, :, None] * time(origin, half_days).to_dense().numpy()[0]
        return table


def fit_coregionalisation(
    series: Sequence[tuple[Floats, Floats, Floats]], seed: int, n_steps: int
) -> Coregionalisation:
    """Return the kernel under which the series of training parcels are likeliest."""
    torch.manual_seed(seed)
    data = [(torch.as_tensor(d), torch.as_tensor(i).long()[:, None], torch.as_tensor(y)) for d, i, y in series]
    likelihood = gpytorch.likelihoods.HadamardGaussianLikelihood(num_tasks=N_TASKS).double()
    model = MultiOutput(data[0][:2], data[0][2], likelihood).double().train()
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jitter added to a covariance, and of torch.jit again
        for _ in range(n_steps):
            optimiser.zero_grad()
            for nr in rng.integers(0, len(data), PARCELS_A_STEP):
                day, task, y = data[nr]
                model.set_train_data((day, task), y, strict=False)
                (-mll(model(day, task), y, [task])).backward()
            optimiser.step()
        with torch.no_grad():
            return Coregionalisation(model.tabulated(), likelihood.noise.numpy().reshape(-1) * np.ones(N_TASKS))
