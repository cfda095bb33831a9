"""Train a detector; the same as `python -m mmyolo_bgpenalty train`."""

from mmyolo_bgpenalty.cli.train import main

if __name__ == '__main__':
    raise SystemExit(main())
