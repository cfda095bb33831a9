"""Make the solar set; the same as `python -m mmyolo_bgpenalty make-solar`."""

from mmyolo_bgpenalty.cli.data.make_solar import main

if __name__ == '__main__':
    raise SystemExit(main())
