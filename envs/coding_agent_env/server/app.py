"""Starts the environment's server, which is the program `sluice serve`.

OpenEnv's tools look for a Python entry point, and for an ASGI application that uvicorn serves; each
becomes that program. $SLUICE_BINARY names it, else it is looked up in PATH.
"""

import os
import shutil
import sys

# Who names one of these may have said there where to listen and which keys to ask for.
SETTINGS = {"--config", "SLUICE_CONFIG", "--env-file"}
KEYS = {"--key-file", "SLUICE_KEY_FILE", "SLUICE_KEYS", "--no-keys"}


def command(arguments, environment=os.environ):
    """The program and its arguments. Unless they or the environment say otherwise it is served as in
    the image: to every address, with keys off, because OpenEnv's clients cannot send one. The
    program warns of that."""
    program = environment.get("SLUICE_BINARY") or shutil.which("sluice")
    if not program:
        raise SystemExit("sluice is not in PATH: build it (./dev build release) or set SLUICE_BINARY")
    said = {argument.split("=", 1)[0] for argument in arguments}
    said |= {name for name, value in environment.items() if value}
    defaults = []
    if not said & (SETTINGS | {"--host", "SLUICE_HOST"}):
        defaults += ["--host", "0.0.0.0"]
    if not said & (SETTINGS | KEYS):
        defaults += ["--no-keys"]
    return [program, "serve", *defaults, *arguments]


def become(argv):
    os.environ.setdefault("ENABLE_WEB_INTERFACE", "true")
    sys.stdout.flush()
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        raise SystemExit(f"{argv[0]}: {error.strerror}") from error


async def app(scope, receive, send):
    """For `uvicorn server.app:app --host HOST --port PORT`: when uvicorn starts it, and before it
    listens, its process becomes `sluice serve` on the same address."""
    if scope["type"] != "lifespan":
        raise RuntimeError("the server is started by the lifespan protocol: leave --lifespan as it is")
    await receive()
    try:
        become(command(uvicorns_address()))
    except SystemExit as error:
        # What is raised here would be taken for an application without the protocol.
        await send({"type": "lifespan.startup.failed", "message": str(error)})


def uvicorns_address():
    """The flags for the address that uvicorn's command line names."""
    import click

    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    if "host" not in options or "port" not in options or options.get("uds") or options.get("fd"):
        raise SystemExit("sluice serve is one process with an address of its own: start it as "
                         "`uvicorn server.app:app --host HOST --port PORT`, without --workers, "
                         "--reload, --uds and --fd")
    return ["--host", options["host"], "--port", str(options["port"])]


def main():
    become(command(sys.argv[1:]))


if __name__ == "__main__":
    main()
