"""Annotation sets of users: COCO, YOLO, Pascal VOC and LabelMe, read into one record and checked."""
