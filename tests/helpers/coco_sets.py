"""A COCO set with all kinds of entries."""

import numpy as np


def coco_set(number=40):
    """Ids are strings or numbers with gaps. Boxes may be crowd, ignored, thin or lack area. Images may lack sizes."""
    rng = np.random.default_rng(1)
    images = [dict(file_name=f'd/{i}.jpg', id=f'id {i}' if i % 2 else 7 * i, extra=[i, None]) for i in range(number)]
    for image in images[: number // 2]:
        image.update(width=64, height=48)
    annotations = []
    for place in rng.integers(0, number - 10, 4 * number):
        annotations.append(
            dict(
                id=3 * len(annotations),
                image_id=images[place]['id'],
                category_id=[4, 90, 17][len(annotations) % 3],
                bbox=[1.25, 2, 10, 12],
                area=120.0,
                iscrowd=0,
                segmentation=[[0.1, 1e-07, 3.0]],
                note='ä',
            )
        )
    annotations[0]['iscrowd'] = 1
    annotations[1]['ignore'] = True
    annotations[2]['bbox'] = [1, 1, 0.5, 9]
    annotations[3]['area'] = 0
    del annotations[4]['area'], annotations[4]['iscrowd']
    annotations[5]['area'] = None
    return dict(
        info=dict(year=2024, url='λ'),
        annotations=annotations,
        licenses=[dict(id=1)],
        images=images,
        categories=[dict(id=i, name=f'class {i}', supercategory='x') for i in (4, 90, 17, 2)],
        more=None,
    )
