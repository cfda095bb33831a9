"""Measure the speed of this package and of others; the same as `python -m mmyolo_bgpenalty benchmark`."""

from mmyolo_bgpenalty.cli.benchmark.benchmark import main

if __name__ == '__main__':
    raise SystemExit(main())
