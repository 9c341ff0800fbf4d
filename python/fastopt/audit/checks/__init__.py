"""The checks, a file for each family; importing one registers its functions."""

from . import numbers, places, memory, groups, saving, calls, care  # noqa: F401, I001  in the order asked
