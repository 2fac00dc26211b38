"""The command that serves tools to other programs: `mcp`."""

from pathlib import Path
from typing import Annotated

import typer

from vision_agent.cli.options import AdapterOption, DeviceOption, DtypeOption, ModelOption, agent, limits
from vision_agent.errors import InputError, bad_argument


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(mcp)


def mcp(
    root: Annotated[
        list[Path] | None, typer.Option("--root", help="Folder that clients may read from; may be repeated.")
    ] = None,
    http: Annotated[
        str | None, typer.Option("--http", help="Serve at HOST:PORT (or a port of this machine), not over stdio.")
    ] = None,
    images: Annotated[
        str, typer.Option("--images", help="New images as links, inline for the model to see, or as ids alone.")
    ] = "links",
    share: Annotated[
        str,
        typer.Option("--share", help="Who shares images and their ids: the calls of a session, a client or a token."),
    ] = "session",
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", help="Where others reach this server, for links that hosted models can fetch."),
    ] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Offer this tool; may be repeated.")] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Allow clients to name https addresses.")] = False,
) -> None:
    """Serve the tools to MCP clients: desktop assistants, editors, agents."""
    from vision_agent.images.store import ImageStore
    from vision_agent.plugins.registry import load_toolkit

    form = load_toolkit("mcp")
    for option, value, words in (
        ("images", images, ("links", "inline", "ids")),
        ("share", share, ("session", "client", "token")),
    ):
        if value not in words:
            raise InputError(bad_argument(option, " or ".join(words), value))
    if public_url is not None:
        form.public_address(public_url)
        if http is None:
            raise InputError(
                bad_argument("public_url", "given beside --http: over stdio nothing is fetched", public_url)
            )
    roots = ImageStore(root or ()).roots
    listening = None if http is None else form.listen(http)
    # Before anything heavy is imported: from here on stdout carries the protocol alone.
    output = form.claim_stdout() if listening is None else None
    served = agent(model, adapter, device, dtype)
    server = form(
        served, tool or None, roots=roots, limits=limits(allow_urls), images=images, share=share, public_url=public_url
    )
    if listening is None:
        server.run_stdio(output)
    else:
        server.run_http(listening)
