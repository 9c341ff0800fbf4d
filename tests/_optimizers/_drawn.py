"""Options for hypothesis to draw."""

from typing import Any

from hypothesis import strategies as st

Options = dict[str, Any]

flags = st.booleans()
decays = st.sampled_from([0.0, 0.5, 0.9, 0.999]) | st.floats(0, 1, exclude_max=True)
betas = st.tuples(decays, decays)
numbers = st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 1.0]) | st.floats(min_value=0)  # inf, too
penalties = st.just(0.0) | numbers


def common_options(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Options]:
    return st.fixed_dictionaries({"lr": numbers, "weight_decay": penalties, "maximize": flags, **more})


def adam_options(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Options]:
    return common_options(
        betas=betas,
        eps=numbers,
        amsgrad=flags,
        bias_correction=flags,
        eps_inside_sqrt=flags,
        **more,
    )
