"""Where the library with the CUDA kernels lies."""

from __future__ import annotations

from importlib.resources import as_file, files


def library_path() -> str | None:
    """The file beside the extension; None if this build has none. What C++ calls once."""
    library = files("fastopt") / "libfastopt_cuda.so"
    if not library.is_file():
        return None
    with as_file(library) as path:
        return str(path)
