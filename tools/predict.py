"""Predict on pictures or a video; the same as `python -m mmyolo_bgpenalty predict`."""

from mmyolo_bgpenalty.cli.predict import main

if __name__ == '__main__':
    raise SystemExit(main())
