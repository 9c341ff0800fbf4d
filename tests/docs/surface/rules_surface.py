"""The optimizers of rules in Python with every option; see whole_surface.py.

    python tests/docs/surface/rules_surface.py

tests/docs/test_typing.py sees to it that nothing public is missing, runs this and has mypy check it.
"""

import torch
from whole_surface import train

from fastopt import optim


def main() -> None:
    """Each for a few steps on the parameters of a small network."""

    train(
        lambda model: optim.ADOPT(
            model.parameters(),
            lr=0.001, betas=(0.9, 0.9999), eps=1e-06, weight_decay=0.01, decouple=False,
            maximize=False, max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.MARS(
            model.parameters(),
            lr=0.003, betas=(0.95, 0.99), eps=1e-08, weight_decay=0.01, gamma=0.025,
            maximize=False, max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.AdEMAMix(
            model.parameters(),
            lr=0.001, betas=(0.9, 0.999, 0.9999), alpha=2.0, eps=1e-08, weight_decay=0.01,
            alpha_warmup=100.0, beta3_warmup=100.0, maximize=False, max_grad_norm=1.0,
            error_if_nonfinite=False, ema_decay=0.9, ema_bias_correction=True,
            state_dtype=torch.bfloat16, master_weights=False, stochastic_rounding=False,
            rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.AdaBelief(
            model.parameters(),
            lr=0.001, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.01, maximize=False,
            max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.Adan(
            model.parameters(),
            lr=0.001, betas=(0.98, 0.92, 0.99), eps=1e-08, weight_decay=0.01, maximize=False,
            max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.CautiousAdamW(
            model.parameters(),
            lr=0.001, betas=(0.9, 0.999), eps=1e-06, weight_decay=0.01, maximize=False,
            max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.CautiousLion(
            model.parameters(),
            lr=0.0001, betas=(0.9, 0.99), weight_decay=0.01, maximize=False, max_grad_norm=1.0,
            error_if_nonfinite=False, ema_decay=0.9, ema_bias_correction=True,
            state_dtype=torch.bfloat16, master_weights=False, stochastic_rounding=False,
            rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.LaProp(
            model.parameters(),
            lr=0.0004, betas=(0.9, 0.999), eps=1e-15, weight_decay=0.01, maximize=False,
            max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.ScheduleFreeAdamW(
            model.parameters(),
            lr=0.0025, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, warmup_steps=0.0,
            r=0.0, weight_lr_power=2.0, maximize=False, max_grad_norm=1.0,
            error_if_nonfinite=False, ema_decay=0.9, ema_bias_correction=True,
            state_dtype=torch.bfloat16, master_weights=False, stochastic_rounding=False,
            rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip
    free = optim.ScheduleFreeAdamW([torch.nn.Parameter(torch.ones(3))])
    free.eval()
    free.train()

    train(
        lambda model: optim.ScheduleFreeSGD(
            model.parameters(),
            lr=1.0, momentum=0.9, weight_decay=0.01, warmup_steps=0.0, r=0.0,
            weight_lr_power=2.0, maximize=False, max_grad_norm=1.0, error_if_nonfinite=False,
            ema_decay=0.9, ema_bias_correction=True, state_dtype=torch.bfloat16,
            master_weights=False, stochastic_rounding=False, rounding_seed=0, capturable=False,
            copy_to=None,
        )
    )  # fmt: skip
    free_sgd = optim.ScheduleFreeSGD([torch.nn.Parameter(torch.ones(3))])
    free_sgd.eval()
    free_sgd.train()

    train(
        lambda model: optim.Signum(
            model.parameters(),
            lr=0.001, momentum=0.9, weight_decay=0.01, maximize=False, max_grad_norm=1.0,
            error_if_nonfinite=False, ema_decay=0.9, ema_bias_correction=True,
            state_dtype=torch.bfloat16, master_weights=False, stochastic_rounding=False,
            rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.StableAdamW(
            model.parameters(),
            lr=0.001, betas=(0.9, 0.99), eps=1e-06, weight_decay=0.01, maximize=False,
            max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip

    train(
        lambda model: optim.Yogi(
            model.parameters(),
            lr=0.01, betas=(0.9, 0.999), eps=0.001, weight_decay=0.01, maximize=False,
            max_grad_norm=1.0, error_if_nonfinite=False, ema_decay=0.9,
            ema_bias_correction=True, state_dtype=torch.bfloat16, master_weights=False,
            stochastic_rounding=False, rounding_seed=0, capturable=False, copy_to=None,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
