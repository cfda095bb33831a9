"""Semi-supervised YOLOv8 with a background penalty, for MMDetection and MMYOLO.

``custom_imports=dict(imports=['mmyolo_bgpenalty'])`` in a config imports the package, which registers its modules. The
import of the package also

- checks the versions of torch, MMEngine, MMCV, MMDetection and MMYOLO, and imports ``mmcv.ops`` (``check_versions``);
- imports MMYOLO. With the MMCV of the fork of OpenMMLab it skips MMYOLO's own version checks (``import_mmyolo``);
- lets ``torch.load`` read the types that MMEngine stores in checkpoints (``allow_checkpoint_types``).

It does not change the functions of MMEngine that load checkpoints. In this package's own commands

- Ctrl-C prints no traceback, also during these imports, which take seconds (``end_quietly_on_ctrl_c``);
- threads that wait for long do not keep their core busy (``start_command``).
"""

from mmyolo_bgpenalty.compat import (
    allow_checkpoint_types,
    check_versions,
    end_quietly_on_ctrl_c,
    import_mmyolo,
    is_own_command,
)
from mmyolo_bgpenalty.utils.threads import start_command
from mmyolo_bgpenalty.version import __version__

if is_own_command():
    end_quietly_on_ctrl_c()
    start_command()
check_versions()
import_mmyolo()
allow_checkpoint_types()

from mmyolo_bgpenalty.config_check.hook import ConfigCheckHook  # noqa: E402
from mmyolo_bgpenalty.datasets.coco import CheckedCocoDataset  # noqa: E402
from mmyolo_bgpenalty.datasets.collate import bg_penalty_collate, branch_collate  # noqa: E402
from mmyolo_bgpenalty.datasets.empty_images import EmptyImageDataset  # noqa: E402
from mmyolo_bgpenalty.datasets.image_folder import ImageFolderDataset  # noqa: E402
from mmyolo_bgpenalty.datasets.labeled_unlabeled import LabeledUnlabeledDataset  # noqa: E402
from mmyolo_bgpenalty.datasets.reduced_images import LoadReducedImage  # noqa: E402
from mmyolo_bgpenalty.datasets.samplers import LabeledUnlabeledBatchSampler, SeededBatchSampler  # noqa: E402
from mmyolo_bgpenalty.datasets.solar_panels.dataset import SolarPanelDataset  # noqa: E402
from mmyolo_bgpenalty.datasets.transforms import (  # noqa: E402
    RandomGaussianBlur,
    RecordedLetterResize,
    RecordedMixUp,
    RecordedMosaic,
    RecordedYOLOv5RandomAffine,
    Views,
)
from mmyolo_bgpenalty.engine.console import ValidationLoggerHook  # noqa: E402
from mmyolo_bgpenalty.engine.cpu_amp import CpuBf16OptimWrapper  # noqa: E402
from mmyolo_bgpenalty.engine.foreach_ema import ForeachEMA  # noqa: E402
from mmyolo_bgpenalty.engine.fused_adamw import FusedAdamW  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.channels_last import ChannelsLastHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.checkpoint import ResumableCheckpointHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.collapse_monitor import CollapseMonitorHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.compile import CompileHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.last_epochs import LastEpochsPipelineHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.mean_teacher import BurnInMeanTeacherHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.misfires import MisfiresFirstHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.nonfinite_guard import NonFiniteGuardHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.pictures import PseudoLabelPicturesHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.progress_bar import ProgressBarHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.pseudo_labels import ClassThresholdsHook, PseudoLabelQualityHook  # noqa: E402
from mmyolo_bgpenalty.engine.hooks.slowdown import SlowdownHook  # noqa: E402
from mmyolo_bgpenalty.engine.schedule import lambda_bg_at  # noqa: E402
from mmyolo_bgpenalty.engine.train_loop import ResumableTrainLoop  # noqa: E402
from mmyolo_bgpenalty.engine.warmup_lr import WarmupLR  # noqa: E402
from mmyolo_bgpenalty.evaluation.metric import PrecisionRecallMetric  # noqa: E402
from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head  # noqa: E402
from mmyolo_bgpenalty.models.data_preprocessors import (  # noqa: E402
    BgPenaltyDetDataPreprocessor,
    SemiDataPreprocessor,
    StackingDetDataPreprocessor,
)
from mmyolo_bgpenalty.models.dense_detector import DenseSemiYOLODetector  # noqa: E402
from mmyolo_bgpenalty.models.empty_branch import EmptyImagesYOLODetector  # noqa: E402
from mmyolo_bgpenalty.models.losses.background_penalty_loss import BackgroundPenaltyLoss  # noqa: E402
from mmyolo_bgpenalty.models.losses.penalty import background_penalty  # noqa: E402
from mmyolo_bgpenalty.models.semi_detector import SemiYOLODetector  # noqa: E402
from mmyolo_bgpenalty.models.sparse_yolov8_head import SparseYOLOv8Head  # noqa: E402
from mmyolo_bgpenalty.utils.shipped_configs import config  # noqa: E402

__all__ = [
    'BackgroundPenaltyLoss',
    'BgPenaltyDetDataPreprocessor',
    'BgPenaltyYOLOv8Head',
    'BurnInMeanTeacherHook',
    'ChannelsLastHook',
    'CheckedCocoDataset',
    'ClassThresholdsHook',
    'CollapseMonitorHook',
    'CompileHook',
    'ConfigCheckHook',
    'CpuBf16OptimWrapper',
    'DenseSemiYOLODetector',
    'EmptyImageDataset',
    'EmptyImagesYOLODetector',
    'ForeachEMA',
    'FusedAdamW',
    'ImageFolderDataset',
    'LabeledUnlabeledBatchSampler',
    'LabeledUnlabeledDataset',
    'LambdaBgSchedulerHook',
    'LastEpochsPipelineHook',
    'LoadReducedImage',
    'MisfiresFirstHook',
    'NonFiniteGuardHook',
    'PrecisionRecallMetric',
    'ProgressBarHook',
    'PseudoLabelPicturesHook',
    'PseudoLabelQualityHook',
    'RandomGaussianBlur',
    'RecordedLetterResize',
    'RecordedMixUp',
    'RecordedMosaic',
    'RecordedYOLOv5RandomAffine',
    'ResumableCheckpointHook',
    'ResumableTrainLoop',
    'SeededBatchSampler',
    'SemiDataPreprocessor',
    'SemiYOLODetector',
    'SlowdownHook',
    'SolarPanelDataset',
    'SparseYOLOv8Head',
    'StackingDetDataPreprocessor',
    'ValidationLoggerHook',
    'Views',
    'WarmupLR',
    '__version__',
    'background_penalty',
    'bg_penalty_collate',
    'branch_collate',
    'config',
    'lambda_bg_at',
]
