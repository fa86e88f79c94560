"""MCNN-Seq as the paper prints it, one segment and one equation at a time: the reference of `research.bench.mcnn_seq`, nothing else.

    e_ij = v . tanh(W s_(i-1) + U h_j),   a_ij = exp(e_ij) / sum_k exp(e_ik),   c_i = sum_j a_ij h_j

Neither tuned nor handicapped: PyTorch's own layers (Conv1d, max_pool1d, LSTMCell, Linear) on a batch of windows of any size. For each
segment and polarisation two convolutions with their rectifiers, pooling where there is more than one step, flattening; then one step
of the encoder. For each output its scores, a softmax, the context, one step of the decoder, the linear output. The scores come one
e_ij after the other, as printed; with `is_batched` those of all j come at once, the keys U h_j anew for each i.
Source: Zhao et al. 2020 (segments, branches, encoder, decoder); Bahdanau et al. 2015 (e, a, c).
Shapes: sar (B, T, 2) to NDVI (B, N).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.ndvi.published.mcnn_seq import Branch, Lstm, McnnSeq


class PublishedMcnn(nn.Module):
    """The paper's network with the weights of ours."""

    def __init__(self, ours: McnnSeq, is_batched: bool = False) -> None:
        super().__init__()
        self.config = ours.config
        if self.config.n_extra or self.config.is_aligned or self.config.has_sd:
            raise ValueError("the paper's network has no extra channels, alignment or standard deviation")
        self.is_batched = is_batched
        self.branches, self.attention, self.head = ours.branches, ours.attention, ours.head
        self.encoder, self.decoder = lstm_cell(ours.encoder), lstm_cell(ours.decoder)

    def features(self, segment: Tensor) -> Tensor:
        """Return both branches of one segment (B, L, 2), flattened and joined."""
        out = []
        for p, branch in enumerate(self.branches):
            assert isinstance(branch, Branch)
            x = torch.relu(branch.conv1(segment[:, None, :, p]))
            x = torch.relu(branch.conv2(functional.pad(x, branch.padding)))
            out.append((functional.max_pool1d(x, 2) if branch.is_pooled else x).flatten(1))
        return torch.cat(out, dim=1)

    def scores(self, s: Tensor, states: list[Tensor]) -> Tensor:
        """Return e_i (B, N) of one decoder state (B, H)."""
        w, u, v = self.attention.query, self.attention.key, self.attention.score
        if self.is_batched:
            e: Tensor = v(torch.tanh(w(s)[:, None] + u(torch.stack(states, dim=1))))
            return e[..., 0]
        return torch.cat([v(torch.tanh(w(s) + u(h))) for h in states], dim=1)

    def forward(self, sar: Tensor) -> Tensor:
        h = c = sar.new_zeros(len(sar), self.config.hidden)
        states = []
        for n in range(self.config.n_segments):
            start = n * self.config.stride
            h, c = self.encoder(self.features(sar[:, start : start + self.config.segment_length]), (h, c))
            states.append(h)
        y, out = sar.new_zeros(len(sar), 1), []
        for _ in range(self.config.n_segments):
            weights = torch.softmax(self.scores(h, states), dim=1)
            if self.is_batched:
                context = (weights[..., None] * torch.stack(states, dim=1)).sum(dim=1)
            else:
                context = torch.stack([weights[:, j, None] * state for j, state in enumerate(states)]).sum(dim=0)
            h, c = self.decoder(torch.cat([y, context], dim=1), (h, c))
            y = self.head(h)
            out.append(y)
        return torch.cat(out, dim=1)


def lstm_cell(lstm: Lstm) -> nn.LSTMCell:
    """Return PyTorch's cell with our weights: its gates are in the same order, its second bias is 0."""
    like = lstm.input.weight
    cell = nn.LSTMCell(lstm.input.in_features, lstm.recurrent.in_features, device=like.device, dtype=like.dtype)
    with torch.no_grad():
        cell.weight_ih.copy_(lstm.input.weight)
        cell.weight_hh.copy_(lstm.recurrent.weight)
        cell.bias_ih.copy_(lstm.input.bias)
        cell.bias_hh.zero_()
    return cell
