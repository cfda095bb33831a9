"""Make the embedded set of infrared-like pictures of solar panels, in COCO format, of any seed and size.

    python tools/make_solar_set.py data/solar_test --seed 1 --num-train 10 --num-val 1500

Trainings make data/solar, of seed 0, by themselves. The same seed gives the same bytes; a set that is there is kept.
"""

import argparse
import sys

from mmyolo_bgpenalty.cli.run import run
from mmyolo_bgpenalty.datasets.solar_panels.generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(description='Make a set of infrared-like images of solar panels')
    parser.add_argument('root', help='folder to make')
    parser.add_argument('--seed', type=int, default=0, help='whole number >= 0 (0)')
    parser.add_argument('--num-train', type=int, default=600, help='images to train (600)')
    parser.add_argument('--num-val', type=int, default=150, help='images to validate (150)')
    parser.add_argument('--percent', type=float, default=10, help='labeled share of train, in (0, 100) (10)')
    parser.add_argument('--size', type=int, nargs=2, default=(320, 256), metavar=('WIDTH', 'HEIGHT'), help='(320 256)')
    args = vars(parser.parse_args())
    generate(args.pop('root'), **args)


if __name__ == '__main__':
    sys.exit(run(main))
