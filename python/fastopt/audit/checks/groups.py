"""Is each parameter stepped for itself, whenever it comes and goes, with its group's options?"""

from __future__ import annotations

import torch

from fastopt.audit.compare import same_bits
from fastopt.audit.registry import Failed, case, check, refusable
from fastopt.audit.subject import Subject

SHAPES = [(33,), (4, 5), (7,)]


def assert_alone(subject: Subject, param: torch.Tensor, which: int, steps: list[int]) -> None:
    """That a parameter is where it would be if it were the only one and had only these steps."""
    want = subject.alone(subject.parameters(SHAPES)[which], which, steps)
    subject.close(param, want) if subject.is_random else subject.same(param, want)


@check()
def late_gradients(subject: Subject) -> None:
    """A parameter whose first gradient comes late makes the step fail, or is stepped with the
    corrections of others: adapters, mixtures of experts and unfrozen layers train wrongly."""
    params = subject.parameters(SHAPES)
    optimizer = subject.optimizer(params)
    with case("the second of three parameters has its first gradient in step 4 of 6"):
        subject.train(optimizer, params, range(6), lambda i, number: i == 1 and number < 3)
        assert_alone(subject, params[1], 1, [3, 4, 5])
        assert_alone(subject, params[0], 0, list(range(6)))


@check()
def no_gradients(subject: Subject) -> None:
    """A parameter without a gradient is changed, by decay or momentum, or makes the step fail."""
    params = subject.parameters(SHAPES)
    optimizer = subject.optimizer([{"params": params, **subject.only(weight_decay=0.1)}])
    before = params[1].detach().clone()
    with case("the second of three parameters has no gradient, three steps"):
        subject.train(optimizer, params, range(3), lambda i, number: i == 1)
        same_bits(params[1], before)
    with case("no parameter has a gradient"):
        for param in params:
            param.grad = None
        optimizer.step()
        same_bits(params[1], before)


@check()
def thawed_parameters(subject: Subject) -> None:
    """A parameter that is frozen for some steps is stepped all the same, or goes on with other counts
    than its own."""
    params = subject.parameters(SHAPES)
    optimizer = subject.optimizer(params)
    with case("the second of three parameters has no gradient in steps 3 and 4 of 6"):
        subject.train(optimizer, params, range(2))
        params[1].requires_grad_(False)
        before = params[1].detach().clone()
        subject.train(optimizer, params, range(2, 4), lambda i, number: i == 1)
        same_bits(params[1], before)
        params[1].requires_grad_(True)
        subject.train(optimizer, params, range(4, 6))
        assert_alone(subject, params[1], 1, [0, 1, 4, 5])


@check()
def late_groups(subject: Subject) -> None:
    """A group that is added during training makes the step fail, or begins with the corrections of a
    step that it has not had."""
    params = subject.parameters(SHAPES)
    optimizer = subject.optimizer(params[:1])
    with case("a group added after 3 of 6 steps"):
        subject.train(optimizer, params[:1], range(3))
        optimizer.add_param_group({"params": params[1:]})
        subject.train(optimizer, params, range(3, 6))
        assert_alone(subject, params[1], 1, [3, 4, 5])
        assert_alone(subject, params[0], 0, list(range(6)))


@check()
def options_of_groups(subject: Subject) -> None:
    """A group's own rate or decay is ignored, or another group's is taken."""
    subject.needs("lr")
    lr = float(subject.defaults["lr"])
    options = [{}, {"lr": 0.5 * lr}, {"lr": 0.25 * lr, **subject.only(weight_decay=0.125)}]
    params = subject.parameters(SHAPES)
    optimizer = subject.optimizer(
        [{"params": [param], **it} for param, it in zip(params, options, strict=True)]
    )
    subject.train(optimizer, params, range(3))
    for i, (param, it) in enumerate(zip(params, options, strict=True)):
        with case(f"group {i} of 3 with {it or 'defaults'}, three steps"):
            want = subject.alone(subject.parameters(SHAPES)[i], i, range(3), **it)
            subject.close(param, want)


@check()
def mixed_dtypes(subject: Subject) -> None:
    """Parameters of several dtypes in one group make the step fail, or are stepped by each other's
    rounding."""
    if len(subject.dtypes) < 2:
        with refusable("a second dtype"):
            raise TypeError(", ".join(map(str, subject.dtypes)))
    shapes = [(33,), (33,), (7,), (7,)]
    pair = [subject.dtypes[0], subject.dtypes[1], subject.dtypes[1], subject.dtypes[0]]

    def made() -> list[torch.nn.Parameter]:
        return [subject.parameter(it, i, dtype) for i, (it, dtype) in enumerate(zip(shapes, pair, strict=True))]  # fmt: skip  # noqa: E501

    params = made()
    optimizer = subject.optimizer(params)
    with case(f"{pair[0]} and {pair[1]} in one group, two steps"):
        subject.train(optimizer, params, range(2))
        for i, param in enumerate(params):
            subject.close(param, subject.alone(made()[i], i, range(2)))


@check()
def foreign_keys(subject: Subject) -> None:
    """Keys of a user's own in a group (a name, a depth) make the step fail."""
    params = subject.parameters(SHAPES)
    own = {"about": "backbone", "depth": 3, "tags": ["a", "b"]}
    with case(f"a group with {own}"):
        optimizer = subject.optimizer([{"params": params, **own}])
        subject.train(optimizer, params, range(2))
        assert_alone(subject, params[0], 0, [0, 1])
        found = {key: optimizer.state_dict()["param_groups"][0].get(key) for key in own}
        if found != own:
            raise Failed(f"state_dict() has {found}")


@check()
def missing_options(subject: Subject) -> None:
    """A group that has lost its rate is stepped by one that nobody gave, without an error."""
    subject.needs("lr")
    params, twins = subject.parameters(SHAPES), subject.parameters(SHAPES)
    optimizer, other = subject.optimizer(params), subject.optimizer(twins)
    subject.train(optimizer, params, range(1))
    del optimizer.param_groups[0]["lr"]
    try:
        subject.train(optimizer, params, range(1, 2))
    except Exception:
        return
    subject.train(other, twins, range(2))
    for param, twin in zip(params, twins, strict=True):
        with case('step() after `del group["lr"]`, which raises nothing'):
            same_bits(param, twin.detach())


@check()
def named_parameters(subject: Subject) -> None:
    """Pairs of names and parameters, which torch's optimizers take, are refused or lose their names."""
    params = subject.parameters(SHAPES)
    names = ["a", "b", "c"]
    with case("(name, parameter) pairs"):
        optimizer = subject.optimizer(list(zip(names, params, strict=True)))
        subject.train(optimizer, params, range(2))
        found = optimizer.state_dict()["param_groups"][0].get("param_names")
        if found != names:
            raise Failed(f"state_dict() has the names {found}")
