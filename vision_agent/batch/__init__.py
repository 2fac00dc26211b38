"""Process thousands of documents into one file of records, in worker processes. A stopped run can be resumed.

from vision_agent.batch import OcrJob, find_files, process

if __name__ == "__main__":  # workers are new processes, which import the program
    process(find_files(["scans"]), OcrJob(), "out.jsonl", workers=2)
"""

from vision_agent.batch.files import find_files
from vision_agent.batch.jobs import ExtractJob, Job, OcrJob
from vision_agent.batch.run import Summary, process

__all__ = ["ExtractJob", "Job", "OcrJob", "Summary", "find_files", "process"]
