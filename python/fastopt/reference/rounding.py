"""The draws by which bfloat16 parameters are rounded at random (`storage.round_stochastic`).

Element i of a parameter takes number i mod 16 of the 16 that a Philox block, number i div 16, gives:
the halves of its four words, the low half first, then those of the words rotated by 8 bits. Its key is
the seed, its counter the number of the block and the offset, in the domain of random rounding.

Each byte so serves once as the upper half of a draw and once as the lower half of another. Every draw
alone is uniform; two that share a byte, d = 256 b + a and e = 256 c + b, have the correlation

    256 var(b) / var(d) = 256 (2¹⁶ − 1) / (2³² − 1) = 256 / 65537 = 0.4 %.

Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3: of Philox4x32, 7 rounds
are the fewest that pass BigCrush; 10, which dropout takes, leave a margin.
"""

import numpy as np
import numpy.typing as npt

from .dropout import halves, philox4x32, words_behind

DRAWS_PER_BLOCK = 16
ROUNDS = 7
DOMAIN = 1
SEEDS_DOMAIN = 2


def rounding_draws(count: int, *, seed: int, offset: int, index: int) -> npt.NDArray[np.uint16]:
    """The draws of elements index to index + count; arguments as for dropout."""
    words = words_behind(
        count, DRAWS_PER_BLOCK, seed=seed, offset=offset, index=index, domain=DOMAIN, rounds=ROUNDS
    )
    draws = halves(np.concatenate([words, words << 8 | words >> 24], axis=1))
    start = index % DRAWS_PER_BLOCK
    return draws[start : start + count]


def seed_of_parameter(seed: int, place: tuple[int, int], rank: int = 0) -> int:
    """The seed of one parameter's draws: half of a Philox block in a domain of its own.

    Args:
        seed: the key, a number of 64 bits.
        place: the parameter's group and its index there, each below 2³².
        rank: the process, where processes hold different parameters at one place; below 2³².

    Returns:
        The block's first two words, the low one first, as a signed number of 64 bits.
    """
    key = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    words = philox4x32((place[1], place[0], rank, SEEDS_DOMAIN << 24), key)
    return int(words[:2].astype("<u4").view("<i8")[0])
