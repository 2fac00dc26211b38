"""A medical image described for a professional, with a caution that cannot be left out.

    python examples/medical_image.py IMAGE --model CHECKPOINT

For reference by medical professionals only: it does not replace professional medical diagnosis. Nothing here has been
validated for medical use. The default model was not trained on such images and is refused; give an InternVL checkpoint
that was, and follow the law that medical software has where you are. Images stay on this machine; names and dates that
are burnt into them are in what the model sees.
"""

import argparse
import json

from pydantic import BaseModel

from vision_agent import Answer, VisionAgent, load_image

CAUTION = "For reference only, by medical professionals. It does not replace professional medical diagnosis."
QUESTIONS = {
    "modality": "What type of medical image is this, and of which modality?",
    "anatomy": "Which anatomical structures are visible?",
    "observations": "What is notable in it? Say what you see, name no disease, and say where you are not sure.",
    "quality": "How good is the image technically: exposure, sharpness, what is cut off?",
}
LEAST = 10**9  # parameters; below it a model was certainly not trained for this


class Report(BaseModel):
    """What was seen. `caution` has one value, and there is no field for a diagnosis."""

    caution: str = CAUTION
    model: str
    file: str
    seen: dict[str, str]
    confidence: dict[str, float]


def report(agent: VisionAgent, image: str) -> Report:
    """Ask each question by itself. Raises ValueError for a model that is too small to have learned such images."""
    parameters = agent.answer_pipeline.parameters
    if parameters < LEAST:
        raise ValueError(f"{agent.model!r} has {parameters / 1e6:.0f} million parameters: not for medical images")
    loaded = load_image(image, limits=agent.image_limits)
    answers: dict[str, Answer] = {name: agent.ask(question, loaded) for name, question in QUESTIONS.items()}
    seen = {name: answer.refused or answer.text for name, answer in answers.items()}
    sure = {name: answer.confidence for name, answer in answers.items()}
    return Report(model=agent.model, file=image, seen=seen, confidence=sure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=CAUTION)
    parser.add_argument("image")
    parser.add_argument("--model", required=True)
    given = parser.parse_args()
    print(CAUTION)
    print(json.dumps(report(VisionAgent.from_pretrained(given.model), given.image).model_dump(), indent=2))
