"""Export a plain detector; the same as `python -m mmyolo_bgpenalty export`."""

import sys

from mmyolo_bgpenalty.cli.export import main

if __name__ == '__main__':
    sys.exit(main())
