"""Make the solar set, synthetic infrared pictures of solar panels, in COCO format, with any seed and size.

    python -m mmyolo_bgpenalty make-solar data/solar_test --seed 1 --num-train 10 --num-val 1500

Training makes data/solar with seed 0 by itself. The same seed gives the same bytes. An existing set is kept.
"""

from collections.abc import Sequence

from mmyolo_bgpenalty.cli.run import InputCheck, command
from mmyolo_bgpenalty.datasets.solar_panels.generate import generate
from mmyolo_bgpenalty.utils.arguments import Parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument('root', help='folder to make')
    parser.add_argument('--seed', type=int, default=0, help='whole number >= 0 (default 0)')
    parser.add_argument('--num-train', type=int, default=600, help='number of training images (default 600)')
    parser.add_argument('--num-val', type=int, default=150, help='number of validation images (default 150)')
    parser.add_argument('--percent', type=float, default=10, help='labeled percentage of train (default 10)')
    parser.add_argument('--size', type=int, nargs=2, default=(320, 256), metavar=('W', 'H'), help='pixels (320 256)')
    args = vars(parser.parse_args(argv))
    with InputCheck():
        generate(args.pop('root'), **args)
