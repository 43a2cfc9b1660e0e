"""``python -m zennit_isnet``: the command ``zennit-isnet``."""

import sys

from zennit_isnet_command import main

if __name__ == "__main__":
    sys.exit(main())
