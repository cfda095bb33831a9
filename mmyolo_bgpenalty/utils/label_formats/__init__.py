"""Read labeled pictures: COCO json, YOLO txt and Pascal VOC xml. Imports neither MMEngine nor torch."""
