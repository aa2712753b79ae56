"""`python -m espalier.study.tether PARENT WORD…`: becomes WORD…, and ends when PARENT does.

So a trial never outlives the worker that an engine has given it to, and the engine may give it to
another. The kernel sees to it (Linux's PR_SET_PDEATHSIG); elsewhere this only becomes WORD….
"""

import ctypes
import os
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def main(parent: int, words: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)
    os.execv(words[0], words)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
