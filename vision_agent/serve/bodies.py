"""The bodies of requests: JSON, or the fields and files of a form."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from vision_agent.serve.problems import Problem, problem_of_fields, wrong

Fields = TypeVar("Fields", bound=BaseModel)
_MOST_FIELDS = 100


def kind_of(request: Request) -> str:
    """Return a body's media type, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, model: type[Fields]) -> Fields:
    """Read a JSON body as `model`.

    Raises:
        Problem: another media type, no JSON, or fields that do not fit.
    """
    if kind_of(request) != "application/json":
        said = "the header `content-type` must be application/json"
        raise Problem(415, said, param="content-type", code="media_type")
    return fitted(await request.body(), model)


def fitted(body: bytes, model: type[Fields]) -> Fields:
    """Read JSON as `model`, without turning texts into numbers or the like. Raises Problem for fields that do not."""
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise problem_of_fields(error, body) from None


async def read_form(request: Request, model: type[Fields], files: dict[str, bool], max_bytes: int) -> Fields:
    """Read a form as `model`: a field that comes several times is a list, one that is no text may be JSON.

    Args:
        files: fields that are files, as bytes, and whether there may be several.
        max_bytes: of a field.

    Raises:
        Problem: a broken form, a file where there is none, or fields that do not fit.
    """
    given: dict[str, list[Any]] = {}
    try:
        async with request.form(max_files=_MOST_FIELDS, max_fields=_MOST_FIELDS, max_part_size=max_bytes) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name not in files:
                        raise wrong(name[:100], f"`{name[:100]}` is no file of this request", "unknown_parameter")
                    given.setdefault(name, []).append(await value.read())
                else:
                    given.setdefault(name, []).append(value)
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}", code="invalid_form") from None
    except (HTTPException, ValueError, KeyError, LookupError) as error:  # a charset or a boundary that is none
        raise Problem(400, f"the form cannot be read: {type(error).__name__}", code="invalid_form") from None
    values = {name: some if len(some) > 1 else some[0] for name, some in given.items()}
    for name, several in files.items():
        if isinstance(values.get(name), list) and not several:
            raise wrong(name, f"`{name}` must be one file, but got {len(values[name])}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrongly = {each["loc"][0] for each in error.errors() if each["loc"]}
    read = {name: _as_json(value) if name in wrongly else value for name, value in values.items()}
    try:
        return model.model_validate(read)
    except ValidationError as error:
        raise problem_of_fields(error, read) from None


def _as_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
