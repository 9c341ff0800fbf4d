"""How far fastopt's parameters lie from torch's: measured by test_optim_parity.py."""

import torch

# The most ulp between a parameter of ours and torch's after any of 20 steps: what `measure` found
# with every option of TORCH_OPTIONS and 20 seeds, against torch's default (a loop over parameters)
# and its fused kernels, on an AVX-512 machine with torch 2.13.
MEASURED: dict[tuple[str, torch.dtype], float] = {
    ("SGD", torch.float32): 17,
    ("Adagrad", torch.float32): 5,
    ("RMSprop", torch.float32): 27,
    ("Adam", torch.float32): 9,
    ("AdamW", torch.float32): 8,
    ("Adadelta", torch.float32): 6,
    ("RAdam", torch.float32): 8,
    ("Adamax", torch.float32): 5,
    ("NAdam", torch.float32): 10,
    ("SGD", torch.float64): 12,
    ("Adagrad", torch.float64): 6,
    ("RMSprop", torch.float64): 28,
    ("Adam", torch.float64): 75,
    ("AdamW", torch.float64): 75,
    ("Adadelta", torch.float64): 4,
    ("RAdam", torch.float64): 4928,
    ("Adamax", torch.float64): 8,
    ("NAdam", torch.float64): 124,
    ("SGD", torch.bfloat16): 14,
    ("Adagrad", torch.bfloat16): 6,
    ("RMSprop", torch.bfloat16): 26,
    ("Adam", torch.bfloat16): 5,
    ("AdamW", torch.bfloat16): 5,
    ("Adadelta", torch.bfloat16): 6,
    ("RAdam", torch.bfloat16): 4,
    ("Adamax", torch.bfloat16): 3,
    ("NAdam", torch.bfloat16): 8,
}
