"""The CUDA library as nvcc makes it, where there is no GPU; scripts/check_cuda.sh reads its code."""

from pathlib import Path

import pytest
import torch

import fastopt
from _walk import ROOT, Walk
from fastopt import _C
from fastopt._cuda import library_path

BUILT = [path for path in (library_path(), ROOT / "build" / "cuda" / "libfastopt_cuda.so") if path]
FOUND = [str(path) for path in BUILT if Path(path).is_file()]


@pytest.mark.skipif(not FOUND, reason="no nvcc has built it")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_it_loads_without_a_driver_and_says_so() -> None:
    for path in FOUND:
        with pytest.raises(RuntimeError, match="the CUDA driver is missing"):
            _C.load_cuda(path)


def test_info_says_why_there_are_no_kernels(walk: Walk) -> None:
    info = fastopt.info()
    if not torch.cuda.is_available():
        reason = "driver is missing" if info["cuda_library"] else "FASTOPT_CUDA=ON builds it"
        assert reason in info["cuda_trouble"]
    with walk.in_use():
        assert fastopt.info()["cuda_trouble"] is None
        assert _C.cuda_trouble(0) is None
