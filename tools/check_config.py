"""Check a config; the same as `python -m mmyolo_bgpenalty check`."""

from mmyolo_bgpenalty.cli.check import main

if __name__ == '__main__':
    raise SystemExit(main())
