"""Process thousands of documents or images into one file of records. A run that was stopped can be resumed.

from vision_agent.batch import ImageJob, OcrJob, find_files, find_images, process, process_images

process_images(find_images(["photos"]), ImageJob("detect", "dog; frisbee"), "found.jsonl")

if __name__ == "__main__":  # workers are new processes, which import the program
    process(find_files(["scans"]), OcrJob(), "out.jsonl", workers=2)
    process(find_images(["photos"]), ImageJob("detect", "dog"), "dogs.parquet", executor=RayActors())
"""

from vision_agent.batch.attempts import Executor
from vision_agent.batch.engine_source import EngineSource, EngineWarning
from vision_agent.batch.files import find_files, find_images
from vision_agent.batch.image_jobs import ImageJob
from vision_agent.batch.jobs import ExtractJob, Job, OcrJob
from vision_agent.batch.lists import find_items
from vision_agent.batch.merging import merge
from vision_agent.batch.ray_actors import RayActors
from vision_agent.batch.run import Summary, process, process_images
from vision_agent.batch.servers import Servers
from vision_agent.batch.workers import LocalWorkers

__all__ = [
    "EngineSource",
    "EngineWarning",
    "Executor",
    "ExtractJob",
    "ImageJob",
    "Job",
    "LocalWorkers",
    "OcrJob",
    "RayActors",
    "Servers",
    "Summary",
    "find_files",
    "find_images",
    "find_items",
    "merge",
    "process",
    "process_images",
]
