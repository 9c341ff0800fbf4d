"""Several Python threads at once."""

import threading
from collections.abc import Callable


def in_threads(*works: Callable[[], None]) -> None:
    """Run all at once and raise what any of them raises."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
