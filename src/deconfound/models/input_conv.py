"""A convolution on images of one or two channels whose gradient by the image is quick on a processor.

Shapes: B examples, C channels in, D out, H, W sides of the images, h, w of the maps, k kernel side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

FEW = 2
"""Channels up to which columns are quicker; with three it depends on kernel and stride."""

Pair = tuple[int, int]


class InputConv2d(nn.Conv2d):
    """``nn.Conv2d`` in every respect but for how the gradient by few-channelled images is computed.

    dL/dx = fold(W^T dL/dy), columns (B, C k^2, h w) folded to (B, C, H, W). The processor's own kernel for it takes
    three times what the columns take (128 images, 16 maps, 4x4 stride 2), and most of an attack step on a network for
    grey images. Elsewhere, and where nobody asks for that gradient, this is the ordinary convolution.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._by_columns(input):
            return super()._conv_forward(input, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            low = torch.get_autocast_dtype("cpu")
            input, weight, bias = input.to(low), weight.to(low), None if bias is None else bias.to(low)
        result: Tensor = _ByColumns.apply(input, weight, bias, self.stride, self.padding)
        return result

    def _by_columns(self, images: Tensor) -> bool:
        if isinstance(images, fx.Proxy):  # a tracer asks what is computed, not how
            return False
        asked = images.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        here = images.device.type == "cpu" and images.ndim == 4
        return asked and plain and here and self.in_channels <= FEW and not isinstance(self.padding, str)


class _ByColumns(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        return F.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        images, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(images, weight)
        ctx.save_for_forward(images, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        images, weight = ctx.saved_tensors
        by_images = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            columns = weight.flatten(1).t() @ gradient.flatten(2)
            wide = columns.float() if columns.dtype == torch.bfloat16 else columns  # sums of overlapping patches
            found = F.fold(wide, images.shape[2:], weight.shape[2:], 1, ctx.padding, ctx.stride)
            by_images = found.to(columns.dtype)
        if ctx.needs_input_grad[1]:
            by_weight = conv2d_weight(images, weight.shape, gradient, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum(dim=(0, 2, 3))
        return by_images, by_weight, by_bias, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        images, weight = ctx.saved_tensors
        moved, turned, shifted = tangents[:3]
        parts = [] if moved is None else [F.conv2d(moved, weight, None, ctx.stride, ctx.padding)]
        parts += [] if turned is None else [F.conv2d(images, turned, None, ctx.stride, ctx.padding)]
        parts += [] if shifted is None else [shifted[:, None, None].expand_as(parts[0])]
        return torch.stack(parts).sum(dim=0)
