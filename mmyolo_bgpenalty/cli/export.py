"""Export the teacher of a semi-supervised checkpoint as a plain detector.

    python -m mmyolo_bgpenalty export yolov8_semi_bgpenalty.py work_dirs/…/epoch_20.pth [--onnx]

writes epoch_20_teacher.pth and its config, epoch_20_teacher.py, beside the checkpoint. They need MMYOLO, but not this
package, and work with mmdet.apis.init_detector, mmdet.apis.DetInferencer, tools/test.py and load_from. The detector of
a supervised config is exported in the same way, as epoch_20_detector.
"""

from collections.abc import Sequence
from pathlib import Path

from mmyolo_bgpenalty.cli.run import InputCheck, InputError, command, config_parser, read_config
from mmyolo_bgpenalty.config_check.evaluation import check_evaluator_files
from mmyolo_bgpenalty.config_check.findings import run_checks
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.deploy.onnx_graph import export_onnx, input_shape
from mmyolo_bgpenalty.deploy.plain_detector import checkpoint_bytes, export_detector
from mmyolo_bgpenalty.utils.files import write_together


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__, 'config file of the training')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='folder to write to (default: the folder of the checkpoint)')
    parser.add_argument('--student', action='store_true', help='export the student instead')
    parser.add_argument('--onnx', action='store_true', help='write an ONNX file too; needs onnx and onnxruntime')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='input of the ONNX file')
    args = parser.parse_args(argv)
    if args.shape and not args.onnx:
        raise InputError('Expected --shape only with --onnx')
    with InputCheck():
        export = export_detector(read_config(args.config, args.cfg_options), args.checkpoint, args.student)
        source = Path(args.checkpoint)
        folder, name = Path(args.out or source.parent), f'{source.stem}_{export.role}'
        files = {f'{name}.pth': checkpoint_bytes(export.checkpoint), f'{name}.py': export.cfg.pretty_text.encode()}
        if args.onnx:
            shape = tuple(args.shape or input_shape(export.cfg))
            files[f'{name}.onnx'], differences = export_onnx(export, shape)
        write_together(((folder / file, content) for file, content in files.items()), overwrite=True)
    if export.role == 'detector':
        print(f'{args.config} is supervised and has no teacher, so the detector was exported')
    print(f'{folder / name}.pth with {name}.py: its predictions equal those of the {export.role} to the bit')
    for finding in run_checks([check_evaluator_files], ConfigParts(export.cfg)):
        print(f'{name}.py: {finding.where}: {finding.what}')
    if args.onnx:
        found = ', '.join(f'{key} {value:.1e}' for key, value in differences.items())
        print(f'{folder / name}.onnx: uint8 images (batch, 3, {shape[0]}, {shape[1]}) in BGR -> boxes (xyxy, pixels)')
        print(f'and scores, before NMS. Largest difference between onnxruntime and torch: {found}')
