"""The update rules in place; see :mod:`fastopt.kernels`.

Each function's signature is written by hand; what of it are arrays and what options the rule knows.
The last arguments of all but ``ema_`` are what :mod:`fastopt.kernels` says of all rules.
"""

from __future__ import annotations

from ._apply import Arrays, Scale, Steps, apply, apply_rule, flag, number

__all__ = [
    "adadelta_",
    "adagrad_",
    "adam_",
    "adamax_",
    "adamw_",
    "ema_",
    "lamb_",
    "lion_",
    "nadam_",
    "radam_",
    "rmsprop_",
    "sgd_",
]


def sgd_(
    param: Arrays,
    grad: Arrays,
    momentum_buffer: Arrays | None = None,
    *,
    step: Steps = 1,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    exponential_average: bool = False,
    bias_correction: bool = False,
    cautious_decay: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """SGD in place; see :func:`fastopt.reference.sgd`.

    ``step=1`` starts the momentum buffer from the gradient, whatever the buffer holds (except with
    ``exponential_average``, which starts from the buffer).
    """
    nesterov, bias_correction = flag("nesterov", nesterov), flag("bias_correction", bias_correction)
    exponential_average = flag("exponential_average", exponential_average)
    if nesterov or exponential_average:
        momentum, dampening = number("momentum", momentum), number("dampening", dampening)
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError(
            "nesterov: expected momentum > 0 and dampening = 0 with it, got "
            f"momentum={momentum}, dampening={dampening}"
        )
    if exponential_average and (momentum <= 0 or momentum >= 1 or dampening != 0 or nesterov):
        raise ValueError(
            "exponential_average: expected 0 < momentum < 1, dampening = 0 and nesterov=False with it, "
            f"got momentum={momentum}, dampening={dampening}, nesterov={nesterov}"
        )
    if bias_correction and not exponential_average:
        raise ValueError("bias_correction: expected exponential_average=True with it")
    apply_rule("sgd", locals())


def adagrad_(
    param: Arrays,
    grad: Arrays,
    sum: Arrays,
    *,
    step: Steps = 1,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """AdaGrad in place; see :func:`fastopt.reference.adagrad`."""
    apply_rule("adagrad", locals())


def rmsprop_(
    param: Arrays,
    grad: Arrays,
    square_avg: Arrays,
    grad_avg: Arrays | None = None,
    momentum_buffer: Arrays | None = None,
    *,
    step: Steps = 1,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    eps_inside_sqrt: bool = False,
    maximize: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """RMSProp in place; see :func:`fastopt.reference.rmsprop`.

    ``grad_avg`` is needed with ``centered``, ``momentum_buffer`` with ``momentum``.
    """
    apply_rule("rmsprop", locals())


def adam_(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_avg_sq: Arrays,
    max_exp_avg_sq: Arrays | None = None,
    *,
    step: Steps = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    bias_correction: bool = True,
    eps_inside_sqrt: bool = False,
    maximize: bool = False,
    cautious_decay: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """Adam in place; see :func:`fastopt.reference.adam`.

    ``max_exp_avg_sq`` is needed with ``amsgrad``.
    """
    if flag("cautious_decay", cautious_decay) and not flag(
        "decoupled_weight_decay", decoupled_weight_decay
    ):
        raise ValueError("cautious_decay: expected decoupled_weight_decay=True with it")
    apply_rule("adam", locals())


def adamw_(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_avg_sq: Arrays,
    max_exp_avg_sq: Arrays | None = None,
    *,
    step: Steps = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    bias_correction: bool = True,
    eps_inside_sqrt: bool = False,
    maximize: bool = False,
    cautious_decay: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """AdamW in place: :func:`adam_` with decoupled decay; see :func:`fastopt.reference.adamw`."""
    apply_rule("adam", {**locals(), "decoupled_weight_decay": True})


def ema_(
    average: Arrays,
    value: Arrays,
    corrected: Arrays | None = None,
    *,
    decay: float,
    step: Steps = 1,
) -> None:
    """An exponentially weighted average in place; see :func:`fastopt.reference.ema`.

    ``corrected``, if it is given, becomes the average divided by 1 - decay^step, for one that began
    at 0 (:func:`fastopt.reference.corrected_ema`).
    """
    apply(
        "ema",
        {"average": average, "value": value, "corrected": corrected},
        step,
        {"decay": decay, "bias_correction": corrected is not None},
    )


def lamb_(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_avg_sq: Arrays,
    *,
    step: Steps = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    bias_correction: bool = True,
    maximize: bool = False,
    always_adapt: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """LAMB in place; see :func:`fastopt.reference.lamb`.

    The norms are those of each array. On the CPU only.
    """
    apply_rule("lamb", locals())


def lion_(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    *,
    step: Steps = 1,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    maximize: bool = False,
    cautious_decay: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """Lion in place; see :func:`fastopt.reference.lion`."""
    apply_rule("lion", locals())


def adadelta_(
    param: Arrays,
    grad: Arrays,
    square_avg: Arrays,
    acc_delta: Arrays,
    *,
    step: Steps = 1,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """Adadelta in place; see :func:`fastopt.reference.adadelta`."""
    apply_rule("adadelta", locals())


def radam_(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_avg_sq: Arrays,
    *,
    step: Steps = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """RAdam in place; see :func:`fastopt.reference.radam`."""
    apply_rule("radam", locals())


def adamax_(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_inf: Arrays,
    *,
    step: Steps = 1,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """Adamax in place; see :func:`fastopt.reference.adamax`."""
    apply_rule("adamax", locals())


def nadam_(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_avg_sq: Arrays,
    *,
    step: Steps = 1,
    mu_product: float = 0.0,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """NAdam in place; see :func:`fastopt.reference.nadam`.

    ``mu_product``, one number for all arrays of the call, is the product of
    :func:`fastopt.reference.nadam_mu` of every step up to this one.
    """
    apply_rule("nadam", locals())
