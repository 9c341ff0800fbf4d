"""Why optimizers of others failed checks: facts, each checked by hand once, for docs/audit.md."""

# ruff: noqa: E501

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """What was found where some optimizers fail some checks."""

    lines: str  # a regular expression for the audit's line
    checks: tuple[str, ...]
    text: str


LAYOUTS = ("layouts_of_gradients", "layouts_of_parameters", "bits_of_layouts")

FACTS: tuple[Fact, ...] = (
    # ---- torch
    Fact(
        r"torch\.optim\.SGD.*fused=True",
        ("first_steps",),
        "in bfloat16, fused SGD steps only what is left over of full vectors: of 35 elements the last 3 "
        "(pytorch #191763).",
    ),
    Fact(
        r"torch\.optim.*fused=True",
        LAYOUTS,
        "the fused CPU kernels go through parameter, gradient and states in the order of memory, whatever "
        "their strides: an 8 x 6 parameter with a transposed gradient has 24 to 46 of 48 elements stepped "
        "by others' gradients, and an expanded gradient is read beyond its end.",
    ),
    Fact(
        r"torch\.optim.*fused=True",
        ("memory_beside",),
        "for the same reason a parameter with gaps (`base[..., ::2]`) has them written to: of 120 elements 60 are stepped, and 60 that are not its own.",
    ),
    Fact(
        r"torch\.optim.*fused=True",
        ("versions",),
        "`_version` of a parameter is the same before and after a fused step, so autograd cannot tell that "
        "it was changed.",
    ),
    Fact(
        r"torch\.optim\.(SGD|Adagrad).*fused=True",
        ("positions",),
        "what is left over of full vectors is rounded otherwise: a tensor of 61 numbers steps to other bits "
        "than 61 tensors of one.",
    ),
    Fact(
        r"torch\.optim\.SGD.*fused=True",
        ("late_gradients",),
        "with momentum, TypeError (expected Tensor as element 1 in argument 2, but got NoneType) in the "
        "step in which a second parameter has its first gradient.",
    ),
    Fact(
        r"torch\.optim\.Rprop",
        ("infinite_and_nan",),
        "`sign` of NaN is 0 in torch, so a gradient that is NaN is as one that is 0.",
    ),
    Fact(
        r"torch\.optim\.Rprop",
        ("schedulers",),
        "`lr` is what each element's own step size begins with and is not read again, by its definition: schedulers have no effect.",
    ),
    Fact(
        r"torch\.optim\.Adafactor",
        ("empty_tensors", "order_of_parameters"),
        "ZeroDivisionError for a parameter without elements, whose root mean square is taken.",
    ),
    Fact(
        r"torch\.optim\.Adafactor",
        ("first_steps",),
        "`eps[0]` is by default the epsilon of the parameter's dtype, 0.0078 in bfloat16: small gradients take other steps than in float64, by its definition.",
    ),
    Fact(
        r"torch\.optim\.(NAdam|ASGD)",
        ("resuming", "loaded_states"),
        "`load_state_dict` casts every state but `step` to the parameter's dtype, hence the float32 numbers `mu_product` (NAdam), `eta` and `mu` (ASGD) of bfloat16 parameters to bfloat16: NAdam's resumed run is another.",
    ),
    Fact(
        r"torch\.optim\.ASGD.*foreach=False",
        ("positions",),
        "`add_` with `alpha`, in bfloat16 on the CPU, rounds otherwise in a vector than alone: of 3000 numbers in one tensor, 68 step to other bits than in tensors of one.",
    ),
    # ---- DeepSpeed
    Fact(
        r"deepspeed",
        ("layouts_of_parameters", "bits_of_layouts", "layouts_of_gradients", "memory_beside"),
        "a parameter that is not contiguous (a transposed one, say) is not stepped at all, without a word.",
    ),
    Fact(
        r"deepspeed",
        ("first_steps", "weight_decay", "late_steps"),
        "betas and their powers are float32, multiplied anew in each step: the second step by a constant gradient is off by 3.3e-6 of itself, 56 ulp.",
    ),
    Fact(
        r"deepspeed",
        ("late_gradients", "thawed_parameters", "late_groups"),
        "those powers are kept once for all parameters, and recomputed where a parameter's count differs: beside a parameter that comes late, results differ in the last bit (50 of 200 elements).",
    ),
    Fact(
        r"deepspeed",
        ("versions",),
        "`_version` of a parameter is the same before and after a step.",
    ),
    Fact(
        r"deepspeed",
        ("loaded_states", "resuming"),
        "the float32 states of a bfloat16 parameter are bfloat16 after `load_state_dict`, as torch's default casts them.",
    ),
    Fact(
        r"deepspeed",
        ("copies", "pickles"),
        "a copy has no `ds_opt_adam`, the handle of its C++ object: AttributeError when it steps, or goes.",
    ),
    # ---- optimi
    Fact(
        r"optimi\.",
        ("late_gradients", "thawed_parameters"),
        "a group has one step count: of four steps, a parameter whose first gradient comes in the last goes 5.8e-4 where a first step is 1e-3 (AdamW).",
    ),
    Fact(
        r"optimi\.",
        ("gradients_kept", "layouts_of_gradients"),
        "coupled decay is added to the gradient itself; with Kahan summation (bfloat16) the gradient's memory is used for the update, and is 0 after the step. An expanded gradient, which cannot be written to, raises RuntimeError.",
    ),
    Fact(
        r"optimi\.",
        ("decay_of_16_bits",),
        "decoupled decay is outside of the Kahan sum: a bfloat16 weight of 1 is still 1 after 1000 steps of decay by 1e-4, instead of 0.905.",
    ),
    Fact(
        r"optimi\.RAdam",
        ("first_steps",),
        "`eps` is added to the corrected root, where torch adds it before the correction (the paper has none): another definition.",
    ),
    # ---- bitsandbytes
    Fact(
        r"bitsandbytes",
        ("memory_beside",),
        "`.data` of a parameter that is not contiguous is replaced by a contiguous copy: the tensor that it was a view of keeps its old numbers.",
    ),
    Fact(
        r"bitsandbytes",
        ("versions",),
        "on the CPU, `_version` of a parameter is the same before and after a step.",
    ),
    Fact(
        r"bitsandbytes",
        ("copies", "pickles"),
        "a copy has no attribute `initialized`: AttributeError when it steps.",
    ),
    Fact(
        r"bitsandbytes",
        ("hooks",),
        "its own `load_state_dict` calls no hooks of loading.",
    ),
    # ---- torchao
    Fact(
        r"torchao.*(8bit|4bit|Fp8)",
        ("copies", "loading_twice"),
        "its states' classes lack `aten.clone`: `copy.deepcopy` of the optimizer or of its `state_dict()` raises NotImplementedError.",
    ),
    Fact(
        r"torchao",
        ("copies", "pickles"),
        "a copy has no attribute `is_adamw`: AttributeError when it steps. (A pickle of float8 states fails before that.)",
    ),
    Fact(
        r"torchao",
        ("first_steps", "weight_decay", "late_steps"),
        "the corrections for bias are of float32 tensors: the first step at a rate of 1e-3 is 9.99993e-4, 57 ulp away.",
    ),
    # ---- pytorch-optimizer
    Fact(
        r"pytorch_optimizer\.ADOPT",
        ("first_steps", "weight_decay", "late_steps", "late_gradients", "thawed_parameters"),
        "clips by t ** 0.25 where the paper and its authors' code have (t - 1) ** 0.25, counting from the first gradient: at a rate of 1e-3 the second step is at most 1.19e-3, not 1e-3. Its count is the group's, as below.",
    ),
    Fact(
        r"pytorch_optimizer\.Lamb",
        ("first_steps", "weight_decay", "late_steps", "denormal_numbers"),
        "divides by 1 - beta1 ** t, but not by 1 - beta2 ** t: at a rate of 1e-3 the first step is 0.0316.",
    ),
    Fact(
        r"pytorch_optimizer",
        ("first_steps", "weight_decay", "late_steps", "denormal_numbers"),
        "1e-15 is added under the root besides `eps` outside of it, which is as an eps of 3e-8: by a gradient of 1e-9, the first step of LaProp (eps 1e-15) at a rate of 1e-3 is 1.0e-6.",
    ),
    Fact(
        r"pytorch_optimizer",
        ("late_gradients", "thawed_parameters", "late_groups"),
        "a group has one step count: after three steps of others, a first step of ADOPT is no longer the one that only fills its average, and one of AdaBelief is 6.5e-4 where it is 1.1e-3 alone.",
    ),
    Fact(
        r"pytorch_optimizer",
        ("copies", "pickles"),
        "a copy lacks attributes of the constructor (`maximize`, `foreach`, `clip_lambda`, ...), which torch's `__getstate__` leaves out: AttributeError when it steps.",
    ),
    Fact(
        r"pytorch_optimizer\.AdamP",
        ("layouts_of_gradients", "layouts_of_parameters", "bits_of_layouts", "memory_beside"),
        "`view` of what is not contiguous raises RuntimeError.",
    ),
    Fact(
        r"pytorch_optimizer\.AdamP",
        ("empty_tensors", "order_of_parameters"),
        "ZeroDivisionError for a parameter of shape (3, 0).",
    ),
    Fact(
        r"pytorch_optimizer",
        ("gradients_kept", "layouts_of_gradients"),
        "gradients are worked on in place (decay, normalisation, the update of Kahan summation), and are other numbers after the step; an expanded one raises RuntimeError.",
    ),
    Fact(
        r"pytorch_optimizer\.SOAP",
        ("tensor_rates",),
        "`step_size *= ...` on a rate that is a tensor changes the rate itself.",
    ),
    Fact(
        r"pytorch_optimizer\.AdaFactor",
        ("schedulers",),
        "with `relative_step` (the default) its rate is its own, by its definition.",
    ),
    Fact(
        r"pytorch_optimizer\.StableAdamW",
        ("decay_of_16_bits",),
        "decay is outside of the Kahan sum, and rounded away.",
    ),
    # ---- all of them
    Fact(
        r"Lion|Tiger",
        ("infinite_and_nan",),
        "`sign` of NaN is 0 in torch: the average is NaN from then on and the element is not stepped any more, while the parameter shows nothing.",
    ),
    Fact(
        r".",
        ("averages_in_16_bits",),
        "states are bfloat16 beside bfloat16 parameters, rounded to nearest in each step, so that a decay by 0.001 changes nothing. Of torch's AdamW, whose gradients fell from 1 to 0.1 in step 250, step 1000 is 1.65e-4 instead of 2.40e-4. (torch's fused SGD: as under `first_steps`.)",
    ),
    Fact(
        r".",
        ("errors_write_nothing",),
        "groups are stepped one after the other: where the last one lacks `lr`, KeyError comes after the first has been stepped.",
    ),
)


def fact_of(line: str, check: str) -> Fact | None:
    """The first that is about this failure."""
    for fact in FACTS:
        if check in fact.checks and re.search(fact.lines, line):
            return fact
    return None
