"""U-TAE on a season of images beside the published form, and one date more beside the whole season, in the same run.

    python -m research.bench.segmentation [--json] [--dates 61] [--size 128] [--rounds 3]

Sentinel-2, 20 classes, one thread, seconds of the processor, the least of the rounds. `speedup`: published over ours at the same output
(`max_abs_diff`, norm over the season); the published form passes zeros through its encoder first, as the authors' code does at each call;
`speedup_without_zeros` leaves that out. `incremental_speedup`: the whole season over one date folded into the state and decoded, with the
norm over each date that this needs. `state_mb` is the state of the patch, `levels_mb` what a cache of all dates' features would hold.
`bfloat16_speedup` is ours in bfloat16 over ours.
"""

import json
from typing import Annotated

import torch
import typer
from torch import Tensor

from models.segmentation import tile_state
from models.segmentation.inference import folded
from models.segmentation.published import load_utae
from models.segmentation.utae import Utae, UtaeConfig
from research.bench.encoder import least_s
from research.experiments.published_segmentation import Sizes, utae_levels, utae_outputs, utae_state
from terminal.output import console

PUBLISHED = Sizes(
    channels=10, classes=20, encoder=(64, 64, 64, 128), decoder=(32, 32, 64, 128), width=256, heads=16, key=4
)


def megabytes(tensors: list[Tensor]) -> float:
    """Return the size of tensors."""
    return round(sum(one.numel() * one.element_size() for one in tensors) / 1e6, 1)


@torch.inference_mode()
def measured(dates: int, size: int, rounds: int) -> dict[str, float]:
    """Return all figures."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(1)
    images, day = torch.randn(1, dates, 10, size, size, generator=random), torch.linspace(0, 360, dates).long()[None]
    state = utae_state(PUBLISHED)
    ours = folded(load_utae(state))
    streaming = Utae(UtaeConfig(10, 20))
    streaming.load_state_dict(load_utae(state).state_dict())
    streaming = folded(streaming)
    before = tile_state.fold(streaming, tile_state.initial(streaming, 1, size, size), images[:, :-1], day[:, :-1])

    def one_more() -> Tensor:
        return tile_state.logits(streaming, tile_state.fold(streaming, before, images[:, -1:], day[:, -1:]))

    def in_bfloat16() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours(images, day)  # type: ignore[no-any-return]

    whole, theirs = ours(images, day), utae_outputs(state, images, day)["logits"]
    works = {
        "published": lambda: utae_outputs(state, images, day),
        "zeros": lambda: utae_levels(state, torch.zeros_like(images[0])),
        "ours": lambda: ours(images, day),
        "season": lambda: streaming(images, day),
        "one_more": one_more,
        "bfloat16": in_bfloat16,
    }
    took = dict(zip(works, least_s(list(works.values()), rounds), strict=True))
    return {
        "dates": dates,
        "size": size,
        "speedup": round((took["published"] + took["zeros"]) / took["ours"], 2),
        "speedup_without_zeros": round(took["published"] / took["ours"], 2),
        "max_abs_diff": float((whole - theirs).abs().max()),
        "largest_logit": round(float(theirs.abs().max()), 2),
        "incremental_speedup": round(took["season"] / took["one_more"], 1),
        "incremental_max_abs_diff": float((one_more() - streaming(images, day)).abs().max()),
        "bfloat16_speedup": round(took["ours"] / took["bfloat16"], 2),
        "bfloat16_max_abs_diff": round(float((in_bfloat16().float() - whole).abs().max()), 4),
        "ours_ms": round(1e3 * took["ours"], 1),
        "published_ms": round(1e3 * (took["published"] + took["zeros"]), 1),
        "one_more_ms": round(1e3 * took["one_more"], 1),
        "state_mb": megabytes([*before.sums, before.pixels.m, before.pixels.s, before.pixels.v]),
        "levels_mb": round(dates * megabytes(streaming.encode(images[0, :1])), 1),
    }


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    dates: Annotated[int, typer.Option(min=2)] = 61,
    size: Annotated[int, typer.Option(min=16, help="Pixels of a side, a multiple of 8.")] = 128,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Measure on this processor."""
    found = measured(dates, size, rounds)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for what, figure in found.items():
        console.print(f"{what:<28}{figure:>12,}")


if __name__ == "__main__":
    typer.run(main)
