"""``python -m zennit_isnet.audit``: the command ``zennit-isnet audit``."""

import sys

from zennit_isnet.command import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
