"""Pictures that stand inside the page, with the words that go with them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

# Larger pictures are photographs and drawn smoothly; smaller ones show their pixels.
PIXELATED_BELOW = 128

_PNG = b"\x89PNG\r\n\x1a\n"


def panel(kind: str, encoded: str, prediction: str, alt: str) -> dict[str, Any]:
    """One picture as the templates want it; without ``png`` where it is unreadable.

    Args:
        kind: a word below the picture.
        encoded: the PNG in base64.
        prediction: a class below it, or nothing.
        alt: what is seen, in words.
    """
    width, height = png_size(encoded)
    small = max(width, height) < PIXELATED_BELOW
    return {
        "kind": kind, "png": encoded if width else "", "prediction": prediction, "alt": alt,
        "width": width, "height": height, "small": small,
    }  # fmt: skip


def png_size(encoded: str) -> tuple[int, int]:
    """Width and height of a base64 PNG, or (0, 0) where it is none."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return 0, 0
    if len(data) < 24 or not data.startswith(_PNG) or data[12:16] != b"IHDR":
        return 0, 0
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


__all__ = ["PIXELATED_BELOW", "panel", "png_size"]
