"""python -m bitlm: the command `bitlm`, in this process."""

import sys

from ._bitlm import main


def run() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return main(["bitlm", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run())
