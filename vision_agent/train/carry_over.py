"""Gives a model that only learnt to see better the other routes of the one it came of.

While the language model is frozen, what routing tokens, queries and mappers say stays true. So the adapters beside
`[DET]` are copied; one that finds boxes with a box decoder of its own gets the new one, but for the parts that read
its own query states, and shares the file of what is the same. The words that `[DET]` knows are copied too.
"""

import shutil
from pathlib import Path

from torch import Tensor

from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import Route, read_words, rebase_adapter, share_tensors, write_words

_FINDER = "finder"  # the setting, and the part, of a decoder that has a box decoder inside


def carry_over(given: Path, made: Path, backbone: Backbone, route: Route, frozen: tuple[str, ...]) -> list[str]:
    """Copy the adapters of one checkpoint that another lacks; return their names.

    Args:
        given, made: the checkpoint folders.
        backbone: the model of `made`, with the language weights of `given`.
        route: the trained `[DET]` route of `made`.
        frozen: parts of its decoder that did not learn.
    """
    carried = []
    for folder in sorted(path for path in (given / "adapters").glob("*") if path.is_dir()):
        target = made / "adapters" / folder.name
        if folder.name == route.spec.name:
            write_words(target, read_words(folder))
            continue
        shutil.copytree(folder, target, dirs_exist_ok=True)
        learnt: dict[str, Tensor] = {
            f"decoder.{_FINDER}.{name}": tensor
            for name, tensor in route.decoder.state_dict().items()
            if name.split(".")[0] not in frozen
        }
        rebase_adapter(target, backbone, learnt, {_FINDER: route.decoder.settings})
        share_tensors(target, route.spec.name, f"decoder.{_FINDER}.", "decoder.")
        carried.append(folder.name)
    return carried
