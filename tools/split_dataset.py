"""Split a COCO set; the same as `python -m mmyolo_bgpenalty split`."""

import sys

from mmyolo_bgpenalty.cli.data.split import main

if __name__ == '__main__':
    sys.exit(main())
