"""torch's module; :mod:`fastopt.averages` has averages that need no pass of their own."""

import sys

from torch.optim import swa_utils
from torch.optim.swa_utils import *  # noqa: F403  (what type checkers see)

sys.modules[__name__] = swa_utils
