"""Images at fewer bits, with noise before rounding (BPFC).

Shapes: B examples; images, noise and results (B, C, H, W).
"""

from __future__ import annotations

from torch import Tensor

from deconfound.errors import is_whole, require

LEAST, MOST = 1, 7  # bits that can be dropped: with 0 nothing happens, with 8 nothing is left


def noise_scale(bits: int) -> float:
    """Half width of the noise in levels of 255: 2^min(p - 2, 3).

    >>> noise_scale(3), noise_scale(7)
    (2.0, 8.0)
    """
    return 2.0 ** min(bits - 2, 3)


def quantise(images: Tensor, noise: Tensor, bits: int) -> Tensor:
    """The p lowest bits of a noisy image replaced by the middle of their range.

    v = round(255 x) + noise,  q = clip(v - v mod 2^p + 2^(p-1), 0, 255) / 255, mod with a result of at least 0

    Args:
        images: (B, C, H, W) in [0, 1].
        noise: the same shape, in levels of 255: uniform within +-``noise_scale(bits)``.
        bits: p, 1 to 7.

    Returns:
        (B, C, H, W) in [0, 1], at most 2^(8-p) + 2 levels (clipping adds 0 and 255); its gradient by the images is 0.

    Raises:
        InputError: another number of bits.

    Source: Addepalli et al. 2020 (arXiv 2004.00306), section 4.1.

    >>> import torch
    >>> (quantise(torch.tensor([0.0, 10, 31, 32, 255]) / 255, torch.zeros(5), 5) * 255).round().tolist()
    [16.0, 16.0, 16.0, 48.0, 240.0]
    """
    check_bits(bits)
    step = 2**bits
    levels = (images * 255).round() + noise
    return (levels - levels.remainder(step) + step / 2).clamp(0, 255) / 255


def check_bits(bits: int) -> None:
    """The number of bits that are dropped.

    Raises:
        InputError: not a whole number from 1 to 7.
    """
    whole = is_whole(bits)
    require(whole and LEAST <= bits <= MOST, "bits", bits, f"a whole number from {LEAST} to {MOST}")
