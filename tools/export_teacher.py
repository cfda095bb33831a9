"""Export a plain detector; the same as `python -m mmyolo_bgpenalty export`."""

from mmyolo_bgpenalty.cli.export import main

if __name__ == '__main__':
    raise SystemExit(main())
