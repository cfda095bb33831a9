"""A tiny set with images that show no object, and a supervised config for it."""

from pathlib import Path

from mmengine.config import Config

from tests.helpers.tiny import CLASSES, make_images, make_set


def set_with_good_parts(root: Path, number: int) -> Path:
    """The files of ``make_set``, and ``good.txt`` with the names of ``number`` more images."""
    make_set(root)
    make_images(root, 'good', number, seed=7)
    (root / 'good.txt').write_text('\n'.join(f'good_{i:03}.png' for i in range(number)))
    return root


def own_empty(data: Path, tmp_path: Path) -> Config:
    """The shipped config for labeled and empty images: 2 epochs of 2 batches, each of 3 labeled and 3 empty images."""
    leaf = tmp_path / 'mine.py'
    leaf.write_text(f"""_base_ = __import__('mmyolo_bgpenalty').config(
    'yolov8_bgpenalty_own_empty.py', classes={CLASSES!r}, model_size='n', img_scale=(96, 64), max_epochs=2,
    data_root='{data}/', image_folder='images/', labeled_ann_file='labeled.json', val_ann_file='val.json',
    empty='good.txt',
)
burn_in = 1
lambda_bg_warmup = 0
model = dict(bg_branch=dict(penalty=dict(normalizer='background')))
train_dataloader = dict(batch_size=3, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(val_interval=2)
visualizer = dict(name='{leaf}')
work_dir = '{tmp_path}/work'
""")
    return Config.fromfile(leaf)
