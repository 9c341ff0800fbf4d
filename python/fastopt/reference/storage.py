"""bfloat16 in NumPy, which has no such type: its bits as uint16.

float16 is NumPy's own; its conversion from float32 rounds as `to_bfloat16` does, to nearest even.
Arrays of ml_dtypes.bfloat16, where that package is installed, are taken wherever float16 is.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Bits: TypeAlias = npt.NDArray[np.uint16]
Single: TypeAlias = npt.NDArray[np.float32]


def to_bfloat16(x: Single) -> Bits:
    """Round float32 to bfloat16, to nearest even: the upper half of the bits.

    Denormals are kept; NaN stays a NaN, made quiet; what is too large becomes infinite.
    """
    if x.dtype != np.float32:
        raise TypeError(f"x must be of dtype float32, not {x.dtype}")
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))  # ties to even
    with np.errstate(over="ignore"):
        rounded = (bits + half) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(0x40)
    return np.asarray(np.where(np.isnan(x), quiet, rounded)).astype(np.uint16)


def from_bfloat16(bits: Bits) -> Single:
    """The float32 numbers that bfloat16's bits stand for."""
    if bits.dtype != np.uint16:
        raise TypeError(f"bits must be of dtype uint16, not {bits.dtype}")
    wide = np.asarray(bits.astype(np.uint32) << np.uint32(16))
    return wide.view(np.float32)


def is_bfloat16(dtype: Any) -> bool:
    """Whether it is ml_dtypes.bfloat16."""
    return bool(np.dtype(dtype).name == "bfloat16")


def widen(x: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """The numbers in the type that they are computed in."""
    if is_bfloat16(x.dtype):
        return from_bfloat16(x.view(np.uint16))
    return x.astype(np.float32) if x.dtype == np.float16 else x


def narrow(y: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """The numbers in the type that they are stored in."""
    if is_bfloat16(dtype):
        return to_bfloat16(y).view(dtype)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(y).astype(dtype)
