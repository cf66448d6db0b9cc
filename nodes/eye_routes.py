"""What the editor asks of the server for Tune by Eye: how a session stands, and to change it.

All of it runs beside the server's loop, for what is believed takes some tenths of a second. Every
answer is JSON: what `eye_status.status` gives, or {"error": a sentence} with the status 400.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Callable

from aiohttp import web

from ..eye import session as sessions
from ..eye import session_file
from ..eye.plot import plot
from . import eye_store as store
from .eye_status import is_better
from .eye_status import save as save_file
from .eye_status import status as status_of
from .run.checks import short

ROOT = "/async_timestep/eye/"


def number_of(value: object, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {short(value)}, expected a whole number; press Run.") from None


def see(asked: dict) -> dict:
    return status(asked, store.load(asked.get("session")))


def answer(asked: dict) -> dict:
    number, choice = (number_of(asked.get(key), key) for key in ("round", "choice"))
    return status(asked, session_file.answer(store.path_of(asked.get("session")), number, choice))


def compare(asked: dict) -> dict:
    session = store.to_compare(asked.get("session"))
    return status(asked, session, "The next sheets compare what was found: press Run.")


def save(asked: dict) -> dict:
    session = store.load(asked.get("session"))
    path = save_file(session, asked.get("name"))
    said = f"Saved as {path.name} in models/tpm: press R, then choose it in a TPM Loader."
    if not is_better(session):
        said += " So far the choices do not tell it from off."
    return status(asked, session, said)


def start_over(asked: dict) -> dict:
    path = store.path_of(asked.get("session"))
    store.generation(path)
    session = session_file.load(path)
    kept = session_file.start_over(path)
    empty = sessions.begin(session.name, session.steps, session.mode, session.seed)
    said = f"The old session is kept as {kept.name} in the user folder: press Run to begin anew."
    return status(asked, empty, said)


def status(asked: dict, session: sessions.Session, said: str = "") -> dict:
    return status_of(session, number_of(asked.get("round"), "round"), said)


POSTS: dict[str, Callable[[dict], dict]] = {
    "answer": answer,
    "compare": compare,
    "save": save,
    "start_over": start_over,
}


def replied(question: Callable[[dict], dict], asked: object) -> web.Response:
    """The answer to a question, or its sentence."""
    try:
        return web.json_response(question(asked if isinstance(asked, dict) else {}))
    except ValueError as wrong:
        return web.json_response({"error": str(wrong)}, status=400)
    except OSError as wrong:
        logging.exception("Tune by Eye")
        sentence = f"The disk refused ({wrong.strerror or wrong}); make room, and press again."
        return web.json_response({"error": sentence}, status=400)


async def get_status(request: web.Request) -> web.Response:
    return await asyncio.to_thread(replied, see, dict(request.query))


def drawn(name: object) -> web.Response:
    try:
        session = store.load(name)
    except ValueError as wrong:
        return web.json_response({"error": str(wrong)}, status=400)
    file = io.BytesIO()
    plot(session).save(file, "PNG")
    return web.Response(body=file.getvalue(), content_type="image/png")


async def get_plot(request: web.Request) -> web.Response:
    return await asyncio.to_thread(drawn, request.query.get("session"))


def post(question: Callable[[dict], dict]):
    async def handler(request: web.Request) -> web.Response:
        try:
            asked = await request.json()
        except ValueError:
            asked = {}
        return await asyncio.to_thread(replied, question, asked)

    return handler


def register() -> None:
    """Once, where there is a server: not where ComfyUI runs in another program."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    routes = getattr(getattr(server, "instance", None), "routes", None)
    if routes is None or any(getattr(route, "path", "").startswith(ROOT) for route in routes):
        return
    routes.get(f"{ROOT}status")(get_status)
    routes.get(f"{ROOT}plot")(get_plot)
    for name, question in POSTS.items():
        routes.post(ROOT + name)(post(question))
