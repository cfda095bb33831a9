"""Evaluate a checkpoint; the same as `python -m mmyolo_bgpenalty test`."""

from mmyolo_bgpenalty.cli.test import main

if __name__ == '__main__':
    raise SystemExit(main())
