"""Processes that work for another one."""

import os
import threading
import time


def end_with_parent(seconds: float = 1.0) -> None:
    """Stop when the process that started this one is gone, so that a killed workflow leaves nothing running.

    Args:
        seconds: between looks. The status is 3, and nothing is cleaned up: what must last is on disk already.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(3)  # children notice in their turn

    threading.Thread(target=watch, daemon=True).start()
