"""Compare variants of a config; the same as `python -m mmyolo_bgpenalty ablate`."""

from mmyolo_bgpenalty.cli.ablation.ablate import main

if __name__ == '__main__':
    raise SystemExit(main())
