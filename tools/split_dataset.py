"""Split a COCO set; the same as `python -m mmyolo_bgpenalty split`."""

from mmyolo_bgpenalty.cli.data.split import main

if __name__ == '__main__':
    raise SystemExit(main())
