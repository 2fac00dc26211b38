"""The commands that serve other programs: `serve` over HTTP, `mcp` over MCP alone."""

from pathlib import Path
from typing import Annotated

import typer

from vision_agent.cli.options import AdapterOption, DeviceOption, DtypeOption, ModelOption, agent, limits
from vision_agent.errors import InputError, bad_argument, missing_extra


def register(app: typer.Typer) -> None:
    """Add the commands to `vision-agent`."""
    app.command()(serve)
    app.command()(mcp)


def serve(
    model: Annotated[
        str | None, typer.Argument(help="Folder or hub name of an InternVL checkpoint; without it the default model.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; others than this machine's need --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", envvar="VISION_AGENT_KEYS", help="File with the keys that are let in, one a line."),
    ] = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option("--host-name", help="Name by which clients reach this server; may be repeated."),
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option("--root", help="Folder that requests may read from; may be repeated.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model in requests, in place of the checkpoint's.")
    ] = None,
    max_body: Annotated[int, typer.Option("--max-body", help="Most MiB of a request.")] = 32,
    max_images: Annotated[int, typer.Option("--max-images", help="Most images of a request.")] = 16,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens of an answer.")] = 4096,
    max_running: Annotated[int, typer.Option("--max-running", help="Requests that are worked on at once.")] = 16,
    max_queue: Annotated[int, typer.Option("--max-queue", help="Requests that wait; one more gets 429.")] = 64,
    seconds: Annotated[float, typer.Option("--seconds", help="Longest work for a request.")] = 300.0,
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", help="What running requests get when the server is stopped.")
    ] = 30.0,
    ui: Annotated[bool, typer.Option("--ui", help="Serve a web page to try the model with, at /.")] = False,
    with_mcp: Annotated[
        bool, typer.Option("--mcp/--no-mcp", help="Serve MCP at /mcp, where its extra is there.")
    ] = True,
    adapter: AdapterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch https addresses of images.")] = False,
) -> None:
    """Serve a model over HTTP: the OpenAI API, the verbs at /v1/vision, MCP, health and metrics."""
    from vision_agent.images.store import ImageStore
    from vision_agent.plugins.registry import load_toolkit
    from vision_agent.serve.listening import listen, url_of
    from vision_agent.serve.options import LOCAL_HOSTS, ServeOptions, bare_hosts, guarded, read_keys

    options = ServeOptions(
        keys=() if keys is None else read_keys(keys),
        hosts=bare_hosts([*LOCAL_HOSTS, *host_name]) if host_name else LOCAL_HOSTS,
        roots=ImageStore(root or ()).roots,
        name=name,
        allow_urls=allow_urls,
        max_body_bytes=max_body * 2**20,
        max_images=max_images,
        max_tokens=max_tokens,
        max_running=max_running,
        max_queue=max_queue,
        request_seconds=seconds,
        drain_seconds=drain_seconds,
        ui=ui,
    )
    options = guarded(options, host)
    listening = listen(host, port)
    form = load_toolkit("mcp") if with_mcp and missing_extra("mcp") is None else None
    # Whoever connects now waits until the model is there.
    from vision_agent.serve import process

    served = agent(model, adapter, device, dtype)
    allowed = limits(allow_urls)
    mounted = form(served, roots=options.roots, limits=allowed).mounted if form is not None else None
    typer.echo(f"vision-agent: serving {options.name or served.model} at {url_of(listening)}", err=True)
    if ui:
        typer.echo(f"vision-agent: open {url_of(listening)}/ in a browser", err=True)
    process.run(served, options, listening, mounted)


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
