"""The published U-TAE, read from its state dict.

    weights under published names = a Utae whose norm is over the dates of a season

Source: Garnot and Landrieu 2021; names and forms of the authors' public code.
Shapes: images (B, T, C, H, W), positions (B, T) to logits (B, K, H, W), attention (16, B, T, H/8, W/8). A date that is zero everywhere
        is padding, as in the published code; unlike there it weighs nothing in the norm.
Units:  images standardised, positions in days.
Errors: PublishedError for a state dict that is not this network's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from models.classifier.published import PublishedError
from models.segmentation.utae import Utae, UtaeConfig

# Published names to ours: patterns, the first that fits.
NAMES = (
    (r"in_conv\.conv\.conv\.(\d)\.", lambda m: f"first.{int(m[1]) // 3}.{PARTS[int(m[1]) % 3]}."),
    (r"out_conv\.conv\.conv\.(\d)\.", lambda m: f"head.{int(m[1]) // 3}.{PARTS[int(m[1]) % 3]}."),
    (r"down_blocks\.(\d)\.(down|conv1|conv2)\.conv\.(\d)\.", lambda m: f"downs.{m[1]}.{m[2]}.{PARTS[int(m[3])]}."),
    (r"up_blocks\.(\d)\.skip_conv\.(\d)\.", lambda m: f"ups.{m[1]}.skip.{PARTS[int(m[2])]}."),
    (r"up_blocks\.(\d)\.up\.(\d)\.", lambda m: f"ups.{m[1]}.{('up', 'norm')[int(m[2])]}."),
    (r"up_blocks\.(\d)\.(conv1|conv2)\.conv\.(\d)\.", lambda m: f"ups.{m[1]}.{m[2]}.{PARTS[int(m[3])]}."),
    (r"temporal_encoder\.inconv\.", lambda _: "temporal.project."),
    (r"temporal_encoder\.in_norm\.", lambda _: "temporal.norm_in."),
    (r"temporal_encoder\.out_norm\.", lambda _: "temporal.norm_out."),
    (r"temporal_encoder\.attention_heads\.Q", lambda _: "temporal.attention.query"),
    (r"temporal_encoder\.attention_heads\.fc1_k\.", lambda _: "temporal.attention.keys."),
    (r"temporal_encoder\.mlp\.0\.", lambda _: "temporal.mlp.lin."),
    (r"temporal_encoder\.mlp\.1\.", lambda _: "temporal.mlp.bn."),
)
PARTS = ("conv", "norm")
