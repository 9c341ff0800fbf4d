"""torch's module: its schedulers drive these optimizers as they drive torch's."""

import sys

from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import *  # noqa: F403  (what type checkers see)

sys.modules[__name__] = lr_scheduler
