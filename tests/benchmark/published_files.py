"""Small benchmarks in exactly the layouts that their publishers use: file names, folders, keys and types.

Sources: POPE (RUCAIBox/POPE, output/coco), TextVQA_0.5.1, DocVQA val_v1.0, infographicsVQA_val_v1.0_withQT, ChartQA
Dataset/test, OCRBench.json (Yuliang-Liu/MultimodalOCR), GQA testdev_balanced_questions, MMBench's TSV (VLMEvalKit),
refs(unc).p and instances.json (lichengunc/refer), grefs(unc).json (henghuiding/gRefCOCO), instances_val2017.json,
lvis_v1_val.json, ODinW's folders, TallyQA's test.json, CountBenchQA's Parquet.
"""

import base64
import csv
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
DOG = "000000139872.jpg"  # a dog with a frisbee on grass, 640x480
SKY = "000000142472.jpg"


def put(photo: str, path: Path) -> None:
    """Copy a photo to where a publisher has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PHOTOS / photo, path)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


def pope(root: Path) -> Path:
    for kind, absent in (("adversarial", "person"), ("popular", "chair"), ("random", "zebra")):
        lines = [
            {"question_id": 1, "image": "COCO_val2014_000000139872.jpg", "text": "Is there a dog in the image?"},
            {"question_id": 2, "image": "COCO_val2014_000000139872.jpg", "text": f"Is there a {absent} in the image?"},
        ]
        for line, label in zip(lines, ("yes", "no"), strict=True):
            line["label"] = label
        root.mkdir(parents=True, exist_ok=True)
        (root / f"coco_pope_{kind}.json").write_text("\n".join(map(json.dumps, lines)))
    put(DOG, root / "val2014" / "COCO_val2014_000000139872.jpg")
    return root


def textvqa(root: Path, answers: int = 10) -> Path:
    put(DOG, root / "train_images" / "003a8ae2ef43b901.jpg")
    row = {
        "question": "what colour is the dog?",
        "image_id": "003a8ae2ef43b901",
        "image_classes": ["Dog"],
        "flickr_original_url": "https://farm2.staticflickr.com/1/a_o.jpg",
        "flickr_300k_url": "https://c6.staticflickr.com/1/a_z.jpg",
        "image_width": 640,
        "image_height": 480,
        "answers": ["black", "black", "Black.", "brown", "black", "dark", "black", "black", "brown", "black"][:answers],
        "question_tokens": ["what", "colour", "is", "the", "dog"],
        "question_id": 34602,
        "set_name": "val",
    }
    second = {**row, "question": "how many dogs are there?", "question_id": 34603, "answers": ["1"] * answers}
    content = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [row, second]}
    write(root / "TextVQA_0.5.1_val.json", content)
    return root


def docvqa(root: Path, answers: bool = True) -> Path:
    put(DOG, root / "documents" / "xnbl0037_1.png")
    row = {
        "questionId": 49153,
        "question": "What is the 'actual' value per 1000, during the year 1975?",
        "question_types": ["figure/diagram"],
        "image": "documents/xnbl0037_1.png",
        "docId": 14465,
        "ucsf_document_id": "pybv0228",
        "ucsf_document_page_no": "81",
        "answers": ["0.28"],
        "data_split": "val",
    }
    split = "val" if answers else "test"
    if not answers:
        del row["answers"]
    content = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": split, "data": [row]}
    write(root / f"{split}_v1.0{'_withQT' if answers else ''}.json", content)
    return root


def infovqa(root: Path) -> Path:
    put(DOG, root / "infographicsvqa_images" / "38827.jpeg")
    row = {
        "questionId": 98313,
        "question": "Which social platform has heavy female audience?",
        "image_local_name": "38827.jpeg",
        "image_url": "https://example.org/38827.jpeg",
        "ocr_output_file": "38827.json",
        "answers": ["pinterest"],
        "answer_type": ["single span"],
        "evidence": ["text"],
        "operation/reasoning": [""],
        "data_split": "val",
    }
    write(root / "infographicsVQA_val_v1.0_withQT.json", {"dataset_name": "infographicVQA", "data": [row]})
    return root


def chartqa(root: Path) -> Path:
    for kind, label in (("human", "14"), ("augmented", "Yes")):
        row = {
            "imgname": "41699051005347.png",
            "query": "How many food items are shown?",
            "label": label,
        }
        write(root / "test" / f"test_{kind}.json", [row])
    put(DOG, root / "test" / "png" / "41699051005347.png")
    return root


def ocrbench(root: Path) -> Path:
    put(DOG, root / "OCRBench_Images" / "IIIT5K" / "1.jpg")
    row = {
        "dataset_name": "IIIT5K",
        "id": 0,
        "question": "what is written in the image?",
        "answers": ["CENTRE"],
        "type": "Regular Text Recognition",
        "image_path": "IIIT5K/1.jpg",
    }
    formula = {**row, "id": 900, "dataset_name": "HME100k", "answers": "a + b"}
    formula["type"] = "Handwritten Mathematical Expression Recognition"
    write(root / "OCRBench.json", [row, formula])
    return root


def gqa(root: Path) -> Path:
    put(DOG, root / "images" / "n161313.jpg")
    row = {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "dog (1)"}],
        "entailed": ["20602950"],
        "equivalent": ["20602949"],
        "question": "Is there a dog in the picture?",
        "imageId": "n161313",
        "isBalanced": True,
        "groups": {"global": None, "local": "06-dog"},
        "answer": "yes",
        "semanticStr": "select: dog (1)->exist: ? [0]",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": "existC", "semantic": "obj", "structural": "verify"},
        "fullAnswer": "Yes, there is a dog.",
    }
    query = {**row, "question": "What colour is the dog?", "answer": "black"}
    query["types"] = {"detailed": "attr", "semantic": "attr", "structural": "query"}
    write(root / "testdev_balanced_questions.json", {"201307251": row, "201640614": query})
    return root


def mmbench(root: Path) -> Path:
    """Two questions, each in its rotations; only the first of a rotation holds the image."""
    columns = "index question hint A B C D answer category image source l2-category comment split".split()
    image = base64.b64encode((PHOTOS / DOG).read_bytes()).decode()
    rows = []
    for index, question, options in (
        (241, "Which animal is shown?", ["cat", "dog", "horse"]),
        (252, "What is the animal playing with?", ["ball", "frisbee"]),
    ):
        right = options[1]
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            letters = dict(zip("ABCD", turned, strict=False))
            answer = next(letter for letter, text in letters.items() if text == right)
            row = {"index": index + turn * 1_000_000, "question": question, "hint": "", "answer": answer, **letters}
            row |= {"category": "object_localization", "l2-category": "finegrained_perception (instance-level)"}
            row |= {"image": image if not turn else str(index), "source": "coco", "comment": "", "split": "dev"}
            rows.append(row)
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "MMBench_DEV_EN.tsv", "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, columns, delimiter="\t", lineterminator="\n", restval="")
        table.writeheader()
        table.writerows(rows)
    return root


def refcoco(root: Path, protocol: int = 0) -> Path:
    """`refer`'s folder: the references pickled by Python 2 (protocol 0), the objects as COCO's JSON."""
    put(DOG, root / "images" / "train2014" / "COCO_train2014_000000139872.jpg")
    objects = [
        {"id": 11, "image_id": 139872, "category_id": 18, "iscrowd": 0, "bbox": [152.0, 63.0, 326.0, 364.0]},
        {"id": 12, "image_id": 139872, "category_id": 34, "iscrowd": 0, "bbox": [406.0, 323.0, 143.0, 127.0]},
    ]
    for each in objects:
        x, y, width, height = each["bbox"]
        each["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        each["area"] = width * height
    images = [{"id": 139872, "file_name": "COCO_train2014_000000139872.jpg", "width": 640, "height": 480}]
    categories = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 34, "name": "frisbee"}]
    write(root / "instances.json", {"images": images, "annotations": objects, "categories": categories})
    refs = []
    for number, sentences in ((11, ["dog", "the black dog"]), (12, ["frisbee"])):
        told = [
            {"tokens": text.split(), "raw": text, "sent_id": number * 10 + place, "sent": text}
            for place, text in enumerate(sentences)
        ]
        refs.append(
            {
                "sent_ids": [each["sent_id"] for each in told],
                "file_name": f"COCO_train2014_000000139872_{number}.jpg",
                "ann_id": number,
                "ref_id": number,
                "image_id": 139872,
                "split": "testA",
                "sentences": told,
                "category_id": 18,
            }
        )
    (root / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    both = {**refs[0], "ref_id": 20, "ann_id": [11, 12], "no_target": False}
    none = {**refs[0], "ref_id": 21, "ann_id": [-1], "no_target": True}
    none["sentences"] = [{"tokens": ["zebra"], "raw": "zebra", "sent_id": 210, "sent": "zebra"}]
    write(root / "grefs(unc).json", [both, none])
    return root


def coco(root: Path) -> Path:
    put(DOG, root / "val2017" / "000000139872.jpg")
    put(SKY, root / "val2017" / "000000142472.jpg")
    images = [
        {"id": 139872, "file_name": "000000139872.jpg", "width": 640, "height": 480, "license": 4},
        {"id": 142472, "file_name": "000000142472.jpg", "width": 640, "height": 480, "license": 4},
    ]
    objects = [
        {"id": 1, "image_id": 139872, "category_id": 18, "bbox": [152.0, 63.0, 326.0, 364.0], "iscrowd": 0},
        {"id": 2, "image_id": 139872, "category_id": 34, "bbox": [406.0, 323.0, 143.0, 127.0], "iscrowd": 0},
    ]
    for each in objects:
        each["area"] = each["bbox"][2] * each["bbox"][3]
    categories = [{"id": 18, "name": "dog"}, {"id": 34, "name": "frisbee"}, {"id": 6, "name": "bus"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    write(root / "annotations" / "instances_val2017.json", content)
    for each in images:
        each["coco_url"] = f"http://images.cocodataset.org/val2017/{each.pop('file_name')}"
        each |= {"neg_category_ids": [6], "not_exhaustive_category_ids": []}
    for category, frequency in zip(categories, "fcr", strict=True):
        category |= {"frequency": frequency, "synonyms": [category["name"]], "image_count": 3}
    write(root / "lvis_v1_val.json", content)
    return root


def odinw(root: Path) -> Path:
    for name in ("AerialMaritimeDrone/large", "Pothole"):
        folder = root / name / "test"
        put(DOG, folder / "a.rf.1.jpg")
        images = [{"id": 0, "file_name": "a.rf.1.jpg", "width": 640, "height": 480}]
        objects = [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [152, 63, 326, 364], "area": 118664}]
        categories = [{"id": 1, "name": "dog", "supercategory": "animals"}]
        content = {"images": images, "annotations": objects, "categories": categories}
        write(folder / "annotations_without_background.json", content)
    return root


def tallyqa(root: Path) -> Path:
    put(DOG, root / "VG_100K_2" / "2402874.jpg")
    row = {"image": "VG_100K_2/2402874.jpg", "answer": 1, "data_source": "imported_genome", "image_id": 92410}
    rows = [
        {**row, "question": "How many dogs are there?", "question_id": 30092410, "issimple": True},
        {**row, "question": "How many dogs are on the grass?", "question_id": 30092411, "issimple": False},
    ]
    write(root / "test.json", rows)
    return root


def countbenchqa(root: Path) -> Path:
    image = {"bytes": (PHOTOS / DOG).read_bytes(), "path": None}
    rows = [{"image": image, "text": "a dog", "question": "How many dogs are there in the image?", "number": 1}]
    root.mkdir(parents=True, exist_ok=True)
    (root / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), root / "data" / "test-00000-of-00001.parquet")
    return root
