"""Check a config; the same as `python -m mmyolo_bgpenalty check`."""

import sys

from mmyolo_bgpenalty.cli.check import main

if __name__ == '__main__':
    sys.exit(main())
