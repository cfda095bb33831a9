"""Semi-supervised YOLOv8 with a background penalty, for MMDetection and MMYOLO.

Importing the package (``custom_imports=dict(imports=['mmyolo_bgpenalty'])``) registers its modules.
"""

from .compat import allow_checkpoint_types, check_versions, import_mmyolo
from .version import __version__

check_versions()
import_mmyolo()
allow_checkpoint_types()

from .autocast import CpuBf16OptimWrapper  # noqa: E402
from .checkpoints import guard_loaders  # noqa: E402
from .config_path import config  # noqa: E402
from .data import (  # noqa: E402
    BgPenaltyDetDataPreprocessor,
    CheckedCocoDataset,
    LabeledUnlabeledBatchSampler,
    LabeledUnlabeledDataset,
    SeededBatchSampler,
    SemiDataPreprocessor,
    SolarPanelDataset,
    StackingDetDataPreprocessor,
    bg_penalty_collate,
    branch_collate,
)
from .dense_detector import DenseSemiYOLODetector  # noqa: E402
from .heads import BgPenaltyYOLOv8Head  # noqa: E402
from .hooks import (  # noqa: E402
    BurnInMeanTeacherHook,
    CompileHook,
    LambdaBgSchedulerHook,
    LastEpochsPipelineHook,
)
from .image_folder import ImageFolderDataset  # noqa: E402
from .losses import background_penalty  # noqa: E402
from .metrics import PrecisionRecallMetric  # noqa: E402
from .monitors import ClassThresholdsHook, CollapseMonitorHook, PseudoLabelQualityHook  # noqa: E402
from .pictures import PseudoLabelPicturesHook  # noqa: E402
from .progress import ProgressBarHook  # noqa: E402
from .resume import ResumableCheckpointHook, ResumableTrainLoop  # noqa: E402
from .schedule import lambda_bg_at  # noqa: E402
from .semi_detector import SemiYOLODetector  # noqa: E402
from .transforms import (  # noqa: E402
    RandomGaussianBlur,
    RecordedLetterResize,
    RecordedMixUp,
    RecordedMosaic,
    RecordedYOLOv5RandomAffine,
    Views,
)

guard_loaders()

__all__ = [
    'BgPenaltyDetDataPreprocessor',
    'BgPenaltyYOLOv8Head',
    'BurnInMeanTeacherHook',
    'CheckedCocoDataset',
    'ClassThresholdsHook',
    'CollapseMonitorHook',
    'CompileHook',
    'CpuBf16OptimWrapper',
    'DenseSemiYOLODetector',
    'ImageFolderDataset',
    'LabeledUnlabeledBatchSampler',
    'LabeledUnlabeledDataset',
    'LambdaBgSchedulerHook',
    'LastEpochsPipelineHook',
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
    'SolarPanelDataset',
    'StackingDetDataPreprocessor',
    'Views',
    '__version__',
    'background_penalty',
    'bg_penalty_collate',
    'branch_collate',
    'config',
    'lambda_bg_at',
]
