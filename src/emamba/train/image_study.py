"""What matters for pictures in a Mamba block: order of tokens, patch size, positions, head.

Every variant trains once, briefly, on the same rows, with labels only, in float. The first is what
ships; kernels can compute it and other patch sizes. Other orders, learned positions and other heads
are float only: they say what such kernels would gain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emamba.config import ModelConfig
from emamba.model import EMamba, count_parameters
from emamba.train.images import ImageRecipe, ImageRun
from emamba.train.images_data import ImageData
from emamba.train.loop import Progress
from emamba.train.record import claim_folder

__all__ = ["VARIANTS", "StudyNetwork", "Variant", "study_images"]

# Each block's way through the grid, taken in turn: rows or columns of tokens, maybe backwards.
ORDERS = {
    "unidirectional": ("rows",),
    "bidirectional": ("rows", "rows back"),
    "cross-scan": ("rows", "columns", "rows back", "columns back"),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One departure from what ships."""

    name: str
    order: str = "unidirectional"
    head: str = "flatten"
    positions: bool = False
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)


VARIANTS = (
    Variant("ships"),
    Variant("bidirectional", order="bidirectional"),
    Variant("cross-scan", order="cross-scan"),
    Variant("learned positions", positions=True),
    Variant("head: mean of tokens", head="mean"),
    Variant("head: last token", head="last"),
    Variant("patch 2", sizes={"patch": 2}),
    Variant("longer convolution", sizes={"d_conv": 9}),
    Variant("8 states", sizes={"d_state": 8}),
    Variant("2 states", sizes={"d_state": 2}),
)


class StudyNetwork(EMamba):
    """An eMamba whose blocks see the tokens in other orders, with learned positions and any head.

    `head` is `flatten`, which ships, `mean` of all tokens, or `last` token.
    """

    def __init__(self, config: ModelConfig, variant: Variant) -> None:
        super().__init__(config)
        self.variant = variant
        ways = ORDERS[variant.order]
        for i in range(config.n_layer):
            order = token_order(config, ways[i % len(ways)])
            self.register_buffer(f"order{i}", order, persistent=False)
        if variant.positions:
            self.positions = nn.Parameter(0.02 * torch.randn(config.n_tokens, config.d_model))
        if variant.head != "flatten":
            self.head["fc1"] = nn.Linear(config.d_model, config.head_width)

    def forward(self, maps: Tensor) -> Tensor:
        """(b, height, width, channels) -> (b, n_outputs)."""
        x = self.embed(self.tokens(maps))
        if self.variant.positions:
            x = x + self.positions
        for i, block in enumerate(self.blocks):
            order = self.get_buffer(f"order{i}")
            x = block(x[:, order], self.tables)[:, order.argsort()]
        if self.variant.head == "mean":
            x = x.mean(1, keepdim=True)
        elif self.variant.head == "last":
            x = x[:, -1:]
        return self.read_out(x)


def token_order(config: ModelConfig, way: str) -> Tensor:
    """Numbers of the tokens, row-major, in the order that a block sees them."""
    rows = config.input_height // config.patch
    grid = torch.arange(config.n_tokens).reshape(rows, -1)
    order = (grid.T if way.startswith("columns") else grid).flatten()
    return order.flip(0) if way.endswith("back") else order


def study_images(
    data: ImageData,
    recipe: ImageRecipe,
    rows: int,
    out: Path,
    progress: Progress,
    report: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Held-out `accuracy` of each of `VARIANTS` after `recipe`'s epochs on the first `rows` rows.

    `report` is called after each. Raises `OtherRun` if `out` holds another study.
    """
    plain = dataclasses.replace(recipe, teacher_share=0.0)
    claim_folder(out, {"recipe": dataclasses.asdict(plain), "rows": rows, **data.identity})
    some = dataclasses.replace(data, images=data.images[:rows], labels=data.labels[:rows])
    found = []
    for variant in VARIANTS:
        config = dataclasses.replace(recipe.config, **variant.sizes)
        run = ImageRun(some, plain, out, out, progress)
        torch.manual_seed(recipe.seed)
        network = StudyNetwork(config, variant)
        network.set_fused(True)
        run.fit(variant.name, network, plain.float_schedule, out)
        history = run.histories[variant.name]
        found.append(
            {
                "variant": variant.name,
                "parameters": count_parameters(network),
                "accuracy": round(history[-1]["accuracy"], 4),
                "seconds": round(sum(row["seconds"] for row in history)),
            }
        )
        report(found[-1])
    return found
