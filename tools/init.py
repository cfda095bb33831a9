"""Make a project; the same as `python -m mmyolo_bgpenalty init`."""

from mmyolo_bgpenalty.cli.data.init import main

if __name__ == '__main__':
    raise SystemExit(main())
