"""DeepSeek-OCR's DeepEncoder (arXiv:2510.18234): pages of text in few vectors.

A square of pixels goes through a SAM encoder, mostly in windows, and a 16x convolutional
compressor; a CLIP transformer then looks at what is left of it. Both outputs, side by side, are
projected into the residual stream. With the defaults it is the published one, 401 million numbers.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.config import Config
from espalier.errors import ConfigError
from espalier.nn.slots import Dims, Front, FrontConfig, NormConfig, Part
from espalier.nn.state import Image, Pass
from espalier.nn.vision.clip import Clip, ClipLayer
from espalier.nn.vision.layers import dense
from espalier.nn.vision.sam import Sam, SamLayer


class SamConfig(Config):
    """The encoder of pixels, and its compressor."""

    side: int = Field(1024, ge=1)
    """of the images that its tables of positions are made for; others are interpolated"""
    patch: int = Field(16, ge=1)
    width: int = Field(768, ge=1)
    depth: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    window: int = Field(14, ge=1)
    whole: tuple[int, ...] = (2, 5, 8, 11)
    """layers that see the whole image, not a window of it"""
    neck: int = Field(256, ge=1)
    between: int = Field(512, ge=1)
    """channels between the two convolutions that compress"""


class ClipConfig(Config):
    """The transformer over the compressor's map."""

    width: int = Field(1024, ge=1)
    depth: int = Field(24, ge=1)
    heads: int = Field(16, ge=1)
    hidden: int = Field(4096, ge=1)
    grid: int = Field(16, ge=1)
    """its table of positions is grid x grid; others are interpolated"""
    patch: int = Field(14, ge=1)
    """of a convolution over pixels that nothing reads: published weights hold it"""


class DeepEncoderConfig(FrontConfig):
    """W [clip(m), m] + b of m = compress(sam(pixels)); a newline behind rows, a separator last"""

    small = {
        "sam": {
            "side": 128,
            "width": 48,
            "depth": 2,
            "heads": 3,
            "window": 3,
            "whole": [1],
            "neck": 32,
            "between": 48,
        },
        "clip": {"width": 64, "depth": 2, "heads": 4, "hidden": 256, "grid": 2},
    }
    variants = ({"norm": "rms"},)

    sam: SamConfig = SamConfig()
    clip: ClipConfig = ClipConfig()
    norm: NormConfig | None = None
    """of each feature, for a model whose embeddings are normalised, as nanochat's are"""

    def build(self, dims: Dims) -> Front:
        sam, clip = self.sam, self.clip
        for at, width, heads in (
            ("sam", sam.width, sam.heads),
            ("clip", clip.width, clip.heads),
        ):
            if width % heads:
                raise ConfigError(f"front.{at}.heads={heads} must divide front.{at}.width={width}")
        if sam.side % sam.patch:
            raise ConfigError(
                f"front.sam.side={sam.side} must be a multiple of front.sam.patch={sam.patch}"
            )
        far = [layer for layer in sam.whole if not 0 <= layer < sam.depth]
        if far:
            raise ConfigError(f"front.sam.whole: no layer {far[0]}, sam.depth={sam.depth}")
        grid = sam.side // sam.patch
        windows = [0 if layer in sam.whole else sam.window for layer in range(sam.depth)]
        layers = [SamLayer(sam.width, sam.heads, window, grid) for window in windows]
        channels = (sam.width, sam.neck, sam.between, clip.width)
        return DeepEncoder(
            Sam(sam.patch, grid, layers, channels),
            Clip(
                clip.width,
                clip.grid,
                clip.patch,
                [ClipLayer(clip.width, clip.heads, clip.hidden) for _ in range(clip.depth)],
            ),
            (2 * clip.width, dims.n_embd),
            self.norm.build(dims.n_embd, dims, 0) if self.norm else None,
        )


class DeepEncoder(Front):
    """Rows of the tiles, then of the whole, a newline behind each; a separator after the last."""

    exempt = {"gradient": "the suite's rows hold no image, and text alone never reaches it"}

    def __init__(self, sam: Sam, clip: Clip, widths: tuple[int, int], norm: Part | None):
        super().__init__()
        self.sam_model, self.vision_model = sam, clip
        self.projector = Projector(*widths)
        self.norm = norm
        self.image_newline = nn.Parameter(torch.empty(widths[1]))
        self.view_separator = nn.Parameter(torch.empty(widths[1]))

    def reset(self) -> None:
        for vector in (self.image_newline, self.view_separator):
            nn.init.normal_(vector, std=len(vector) ** -0.5)

    def describe(self) -> dict[str, int | str | list[str]]:
        parts = {"SAM": self.sam_model, "CLIP": self.vision_model, "projector": self.projector}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def forward(self, images: Sequence[Image], now: Pass) -> Float[Tensor, "features d"]:
        squares = self._squares([view for image in images for view in _views(image)], now)
        parts: list[Tensor] = []
        for _, tiles in images:
            if tiles is not None:
                rows, columns = tiles.shape[:2]
                lines = [torch.cat([next(squares) for _ in range(columns)], 1) for _ in range(rows)]
                parts.append(self._lines(torch.cat(lines)))
            parts += [self._lines(next(squares)), self.view_separator[None]]
        features = torch.cat([part.to(parts[0].dtype) for part in parts])
        return features if self.norm is None else self.norm(features, now)

    def count(self, image: Image) -> int:
        whole, tiles = image
        line = self._line(whole.shape[-1])
        if tiles is None:
            return line * (line + 1) + 1
        rows, columns, side = *tiles.shape[:2], self._line(tiles.shape[-1])
        return line * (line + 1) + 1 + rows * side * (columns * side + 1)

    def _line(self, side: int) -> int:
        """Features to a line of a square: two strides of 2 behind the patches."""
        return math.ceil(side // self.sam_model.patch_embed.proj.stride / 4)

    def encode(
        self, pixels: Float[Tensor, "images 3 side side"], now: Pass
    ) -> Float[Tensor, "images rows rows d"]:
        """One size of squares, each to a square of features."""
        local = self.sam_model(pixels, now)
        both = torch.cat([self.vision_model(local, now), local.flatten(2).transpose(1, 2)], -1)
        return self.projector(both, now).reshape(*local.shape[:1], *local.shape[2:], -1)

    def _squares(self, views: Sequence[Tensor], now: Pass) -> Iterator[Tensor]:
        """The features of each view, in order; views of one size are encoded together."""
        sizes: dict[int, list[int]] = {}
        for i, view in enumerate(views):
            sizes.setdefault(view.shape[-1], []).append(i)
        found: dict[int, Tensor] = {}
        for places in sizes.values():
            encoded = self.encode(torch.stack([views[i] for i in places]), now)
            found.update(zip(places, encoded, strict=True))
        return (found[i] for i in range(len(views)))

    def _lines(self, grid: Float[Tensor, "rows columns d"]) -> Float[Tensor, "features d"]:
        newline = self.image_newline.to(grid.dtype).expand(len(grid), 1, -1)
        return torch.cat([grid, newline], 1).flatten(0, 1)


class Projector(Part):
    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.layers = dense(n_in, n_out)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        return self.layers(x, now)


def _views(image: Image) -> list[Tensor]:
    """The squares of an image, in the order in which their features stand."""
    whole, tiles = image
    return [*([] if tiles is None else tiles.flatten(0, 1)), whole]
