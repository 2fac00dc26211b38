"""Decoders as plug-ins: real distributions, as pip would leave them, on `sys.path`."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from vision_agent import Decoder, InputError, MissingExtraError, UnknownDecoderError
from vision_agent.plugins.decoder import TextDecoder
from vision_agent.plugins.registry import (
    decoder_names,
    load_all_decoders,
    load_commands,
    load_decoder,
    load_reader,
    load_segmenter,
    load_text_decoder,
    load_toolkit,
)

WORKING = """
from vision_agent import Decoder

class Nothing(Decoder):
    @classmethod
    def for_backbone(cls, route, hidden_size, feature_widths):
        return cls()

    def prepare(self, features):
        return None

    def decode(self, states_KNC, prepared, request):
        return None

    def loss(self, states_KNC, rows_K, prepared, targets):
        return states_KNC.sum()
"""

READING = """
from vision_agent.plugins.decoder import TextDecoder

class Reads(TextDecoder):
    def request(self, phrase):
        return phrase

    def constraint(self, phrase):
        return None

    def decode(self, answers, request):
        return None
"""

EXTRA_MISSING = """
from vision_agent import MissingExtraError

raise MissingExtraError("pip install wool")
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution with one module and the given entry points of a group, for this test alone."""
    monkeypatch.delenv("VISION_AGENT_DECODERS", raising=False)

    def installed(name: str, module: str, source: str, entries: dict[str, str], group: str = "decoders") -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source, "utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
        lines = [f"{key} = {value}" for key, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[vision_agent.{group}]", *lines, ""]), "utf-8")
        # Remembered by the fixture, so that the next test of the same module name imports its own.
        monkeypatch.setitem(sys.modules, module, sys)
        del sys.modules[module]
        monkeypatch.syspath_prepend(str(site))
        return site

    return installed


def test_built_in_decoders_are_plug_ins(install: Install) -> None:
    assert "box" in decoder_names()
    loaded = load_decoder("box")
    assert issubclass(loaded, Decoder) and loaded.__module__ == "vision_agent.decoders.box"


def test_grounding_is_a_plug_in_that_reads_words() -> None:
    loaded = load_text_decoder("grounding")
    assert issubclass(loaded, TextDecoder) and loaded.__module__ == "vision_agent.decoders.grounding"
    assert load_all_decoders()["grounding"] is loaded


def test_decoders_of_words_and_of_states_are_told_apart(install: Install) -> None:
    install("reading", "reading_decoder", READING, {"reads": "reading_decoder:Reads"})
    install("nothing-decoder", "nothing_decoder", WORKING, {"nothing": "nothing_decoder:Nothing"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # neither is broken
        assert load_text_decoder("reads").__name__ == "Reads"
        with pytest.raises(UnknownDecoderError, match="'reads' reads the model's words; a route"):
            load_decoder("reads")
        with pytest.raises(UnknownDecoderError, match="'nothing' reads hidden states"):
            load_text_decoder("nothing")
    with pytest.raises(UnknownDecoderError, match="no decoder 'readz' is registered"):
        load_text_decoder("readz")


def test_a_third_party_decoder_is_found_by_name(install: Install) -> None:
    install("nothing-decoder", "nothing_decoder", WORKING, {"nothing": "nothing_decoder:Nothing"})
    assert decoder_names() == sorted([*decoder_names()]) and {"box", "nothing"} <= set(decoder_names())
    assert "nothing_decoder" not in sys.modules, "listing names must not import plug-ins"
    assert load_decoder("nothing").__name__ == "Nothing"
    assert {"box", "nothing"} <= set(load_all_decoders())


@pytest.mark.parametrize(
    ("allowed", "names"),
    [("box", ["box"]), (" nothing , box ", ["box", "nothing"]), ("nothing,unheard-of", ["nothing"]), ("", [])],
)
def test_the_environment_restricts_which_load(
    install: Install, monkeypatch: pytest.MonkeyPatch, allowed: str, names: list[str]
) -> None:
    install("nothing-decoder", "nothing_decoder", WORKING, {"nothing": "nothing_decoder:Nothing"})
    monkeypatch.setenv("VISION_AGENT_DECODERS", allowed)
    assert decoder_names() == names
    assert sorted(load_all_decoders()) == names
    for refused in {"box", "nothing"} - set(names):
        with pytest.raises(UnknownDecoderError, match=f"'{refused}'.*VISION_AGENT_DECODERS={allowed!r}"):
            load_decoder(refused)
    assert ("nothing_decoder" in sys.modules) == ("nothing" in names)


def test_an_unknown_decoder_lists_those_there_are(install: Install) -> None:
    install("nothing-decoder", "nothing_decoder", WORKING, {"nothing": "nothing_decoder:Nothing"})
    with pytest.raises(UnknownDecoderError) as caught:
        load_decoder("boxx")
    assert isinstance(caught.value, LookupError)
    assert "'boxx'" in str(caught.value) and str(decoder_names()) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("import a_package_nobody_has", "broken_decoder:Broken", "a_package_nobody_has"),
        ("1 / 0", "broken_decoder:Broken", "division by zero"),
        ("Other = 1", "broken_decoder:Broken", "Broken"),
        (WORKING, "another_module_nobody_has:Broken", "another_module_nobody_has"),
        ("class Broken: pass", "broken_decoder:Broken", "no subclass of vision_agent.Decoder"),
        ("Broken = 'text'", "broken_decoder:Broken", "no subclass of vision_agent.Decoder"),
        ("def Broken(*_): pass", "broken_decoder:Broken", "no subclass of vision_agent.Decoder"),
    ],
)
def test_a_broken_plug_in_is_skipped_with_a_warning_that_names_it(
    install: Install, source: str, target: str, said: str
) -> None:
    install("broken-distribution", "broken_decoder", source, {"broken": target})
    with pytest.warns(RuntimeWarning, match="'broken' of broken-distribution") as caught:
        found = load_all_decoders()
    assert len(caught) == 1
    assert "box" in found and "broken" not in found
    with (
        pytest.warns(RuntimeWarning, match="'broken' of broken-distribution"),
        pytest.raises(UnknownDecoderError, match=f"broken-distribution.*{said}"),
    ):
        load_decoder("broken")


def test_a_name_taken_twice_is_told(install: Install) -> None:
    install("later", "later_decoder", WORKING, {"nothing": "later_decoder:Nothing"})
    install("earlier", "earlier_decoder", WORKING, {"nothing": "earlier_decoder:Nothing"})
    with pytest.warns(RuntimeWarning, match="'nothing' is registered twice: earlier_decoder:Nothing is used, later"):
        loaded = load_decoder("nothing")
    assert loaded.__module__ == "earlier_decoder"


def test_a_distribution_seen_twice_is_no_clash(install: Install) -> None:
    # An editable installation and the repository's own folder may both be on the path.
    install("nothing-decoder", "nothing_decoder", WORKING, {"nothing": "nothing_decoder:Nothing"})
    install("nothing-copy", "nothing_decoder", WORKING, {"nothing": "nothing_decoder:Nothing"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_decoder("nothing").__name__ == "Nothing"


COMMANDS = """
def register(app):
    @app.command()
    def count_sheep():
        print("42 sheep")
"""


def test_commands_plug_in(install: Install) -> None:
    install("sheep", "sheep_commands", COMMANDS, {"sheep": "sheep_commands:register"}, group="commands")
    app = typer.Typer()
    for register in load_commands():
        register(app)
    assert "count_sheep" in {command.callback.__name__ for command in app.registered_commands if command.callback}


@pytest.mark.parametrize("source", ["import a_package_nobody_has", "1 / 0", "register = 5", EXTRA_MISSING])
def test_a_broken_command_plug_in_is_told_in_one_line(install: Install, source: str) -> None:
    install("sheep", "sheep_commands", COMMANDS, {"sheep": "sheep_commands:register"}, group="commands")
    install("goats", "goat_commands", source, {"goats": "goat_commands:register"}, group="commands")
    with pytest.warns(RuntimeWarning, match="command group 'goats' of goats is broken and skipped") as caught:
        modules = [register.__module__ for register in load_commands()]
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert "sheep_commands" in modules and "goat_commands" not in modules


def test_the_registry_imports_no_torch() -> None:
    # The command line asks for its commands before it knows whether it needs a model.
    code = "import sys; from vision_agent.plugins.registry import load_commands as load; load(); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in said.split() and "vision_agent.plugins.registry" in said.split()


@pytest.mark.parametrize(
    ("group", "load", "kind"),
    [
        ("readers", load_reader, "reader"),
        ("segmenters", load_segmenter, "segmenter"),
        ("toolkits", load_toolkit, "toolkit"),
    ],
)
def test_every_group_fails_alike(install: Install, group: str, load: Callable[[str], object], kind: str) -> None:
    install("broken-distribution", "broken_plug_in", "1 / 0", {"broken": "broken_plug_in:Broken"}, group=group)
    install("poor-distribution", "poor_plug_in", EXTRA_MISSING, {"poor": "poor_plug_in:Poor"}, group=group)
    with (
        pytest.warns(RuntimeWarning, match=f"{kind} 'broken' of broken-distribution"),
        pytest.raises(UnknownDecoderError, match=f"{kind} 'broken' .*broken-distribution.*division by zero"),
    ):
        load("broken")
    with pytest.raises(MissingExtraError, match="pip install wool"):
        load("poor")
    with pytest.raises((UnknownDecoderError, InputError), match=r"'broken'.*'poor'"):
        load("unheard-of")
