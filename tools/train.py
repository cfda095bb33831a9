"""Train a detector; the same as `python -m mmyolo_bgpenalty train`."""

import sys

from mmyolo_bgpenalty.cli.train import main

if __name__ == '__main__':
    sys.exit(main())
